"""deadhead evaluate: judge a model, and any number of plans on it, loading it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.cli.console import progress_bar
from deadhead.cli.options import Screen
from deadhead.cli.plans import PlanChanges, check_plan_files, fits_of, read_plan
from deadhead.display import NOTHING
from deadhead.options.fields import option, part, settings
from deadhead.options.settings import LM_EVAL
from deadhead.runs.run_settings import LmEvalSettings
from deadhead.runs.settings import DataSettings, ModelSettings

if TYPE_CHECKING:
    from deadhead.checkpoints import Loaded
    from deadhead.tasks import Task


@settings
class EvaluateSettings:
    """What `deadhead evaluate` takes."""

    model: ModelSettings = part()
    data: DataSettings = part(without=("selection", "train", "allow_overlap"))
    plan: tuple[Path, ...] = option(
        default=(),
        flags=("--plan", "-p"),
        help="Judge the model as this plan would leave it: a plan.json, or a pruning log (layer,"
        " kept, removed). Give several to judge each on the model loaded once.",
    )
    changes: PlanChanges = part(factory=PlanChanges)
    lm_eval: LmEvalSettings | None = part(default=None)
    lm_eval_output: Path | None = option(
        default=None,
        help="Where to write the results as lm-eval writes them; with several plans a folder.",
        panel=LM_EVAL,
        group="lm-eval",
    )

    @property
    def judges(self) -> bool:
        """Whether a task judges, and not lm-eval alone."""
        return self.lm_eval is None or (self.data.spec, self.data.test) != (None, None)

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        idle = set() if self.plan else {"plan", "calibration"}
        if not self.judges:
            idle.add("data")
        return idle | {"lm-eval"} if self.lm_eval is None else idle


def evaluate_command(asked: EvaluateSettings, screen: Screen) -> None:
    """Judge a model, cut or uncut, on a task's test set, with a 95% interval, or with lm-eval.

    Examples:
      deadhead evaluate small --task bundled:sentiment

      deadhead evaluate my-opt --lm-eval hellaswag,arc_easy --plan out/plan.json
    """
    from deadhead.models.heads import HeadModel
    from deadhead.repair import applied_repaired
    from deadhead.runs.sweep import lm_eval_names

    check_plan_files(asked.plan)  # never the unpruned model instead
    names = lm_eval_names(asked.lm_eval)
    loaded = asked.model.load()
    view = HeadModel(loaded.model)
    plans = [read_plan(file, loaded, view.mask, asked.changes) for file in asked.plan]
    judge = None
    if asked.judges:
        judge = asked.data.open_one("test", loaded.reader, loaded.model.config)
    files = list(zip(asked.plan, plans, strict=True))
    fits = fits_of(loaded, files, asked.data)
    rows, lines = [], []
    for number, (file, plan) in enumerate(files or [(None, None)]):
        row: dict[str, Any] = {"model": loaded.name, "plan": None}
        if plan is not None:
            off = sum(not plan.mask.keeps(head) for head in view.mask.heads)
            row["plan"] = {"file": str(file), "action": plan.action, "heads_dropped": off}
        with nullcontext() if plan is None else applied_repaired(view, plan, fits[number]):
            if judge is not None:
                row |= _judged(loaded, judge, hidden=screen.as_json)
            if names:
                row |= _judged_by_lm_eval(names, asked, loaded, number)
        rows.append(row)
        lines += _lines(row)
    screen.end(rows[0] if len(rows) == 1 else {"results": rows}, *lines)


def _judged(loaded: Loaded, judge: Task, *, hidden: bool) -> dict[str, Any]:
    from deadhead.runs.facts import data_facts

    with progress_bar("evaluating", judge.passes, hidden=hidden) as advance:
        hook = loaded.model.register_forward_hook(lambda *_: advance())
        try:
            evaluation = judge.evaluate(loaded.model)
        finally:
            hook.remove()
    return {
        "data": data_facts(test=judge)["test"],
        "metric": evaluation.metric,
        "value": evaluation.value,
        "interval": list(evaluation.interval()),
        "metrics": evaluation.metrics,
    }


def _judged_by_lm_eval(
    names: Sequence[str], asked: EvaluateSettings, loaded: Loaded, number: int
) -> dict[str, Any]:
    """Judge the model as it is now; write the results to the file, or of each plan to its own."""
    from deadhead.runs.sweep import lm_eval_results
    from deadhead.tasks.lm_eval import primary, write_lm_eval

    results = lm_eval_results(names, asked.lm_eval, loaded.model, loaded.tokenizer)  # type: ignore[arg-type]
    place = asked.lm_eval_output
    if place is not None:
        several = len(asked.plan) > 1
        place = place / f"{number}-{asked.plan[number].stem}.json" if several else place
        write_lm_eval(results, place)
    return {"lm_eval": results["results"], "lm_eval_primary": primary(results)}


def _lines(row: dict[str, Any]) -> Iterator[Any]:
    """Yield the lines and the table that show what judged a model."""
    from deadhead.report.page import TextTable

    plan = row["plan"]
    cut = f" with {plan['heads_dropped']} heads removed ({plan['action']})" if plan else ""
    if "data" in row:
        yield f"{row['model']}{cut} on {row['data']['size']} examples of {row['data']['name']}"
        low, high = row["interval"]
        for name, value in row["metrics"].items():
            of = f"  (95% interval {low:.4f} to {high:.4f})" if name == row["metric"] else ""
            yield f"  {name}: {value:.4f}{of}"
    if "lm_eval" in row:
        cells = [
            [name, metric, f"{value:.4f}", NOTHING if error is None else f"{error:.4f}"]
            for name, (metric, value, error) in row["lm_eval_primary"].items()
        ]
        columns = ("task", "metric", "value", "standard error")
        title = f"{row['model']}{cut}, lm-eval"
        yield TextTable(columns, cells, words=columns[:2], title=title)
