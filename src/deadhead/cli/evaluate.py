"""deadhead evaluate: judge a model, and any number of plans on it, loading it once."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from deadhead.checkpoints import load_model
from deadhead.checkpoints.load import Loaded
from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, show, show_json
from deadhead.cli.lm_eval import (
    LM_EVAL,
    FewshotOption,
    IncludePathOption,
    LimitOption,
    LmEvalOption,
)
from deadhead.cli.reading import note_other_model, read_plan
from deadhead.cli.repairing import fits_of
from deadhead.cli.unused import check_lm_eval, refuse_typed
from deadhead.display.words import NOTHING
from deadhead.errors import DataError
from deadhead.models.heads import HeadModel
from deadhead.repair import applied_repaired
from deadhead.report.text_table import TextTable
from deadhead.runs import DataSettings
from deadhead.tasks import Task
from deadhead.tasks.lm_eval import check_lm_eval_tasks, primary, run_lm_eval, write_lm_eval
from deadhead.types import PruningPlan

DATA = ("kind", "text_column", "text_pair_column", "label_column", "test_size", "max_length")


def evaluate(
    context: typer.Context,
    model: o.ModelArgument,
    task: o.TaskOption = None,
    plan_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--plan",
            "-p",
            help="Judge the model as this plan would leave it: a plan.json, or a pruning log"
            " (layer, kept, removed). Give several to judge each on the model loaded once.",
        ),
    ] = None,
    action: c.PlannedActionOption = None,
    slope: c.PlannedSlopeOption = None,
    gqa: c.PlannedGqaOption = None,
    repair: c.PlannedRepairOption = None,
    lm_eval: LmEvalOption = None,
    include_path: IncludePathOption = None,
    num_fewshot: FewshotOption = None,
    limit: LimitOption = None,
    lm_eval_output: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the results as lm-eval writes them; with several plans a folder.",
            rich_help_panel=LM_EVAL,
        ),
    ] = None,
    kind: o.KindOption = None,
    calibration: o.CalibrationOption = None,
    test: o.TestOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    label_column: o.LabelColumnOption = None,
    calibration_size: o.CalibrationSizeOption = "512",
    test_size: o.TestSizeOption = "all",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Judge a model, cut or uncut, on a task's test set, with a 95% interval, or with lm-eval.

    Examples:
      deadhead evaluate small --task bundled:sentiment

      deadhead evaluate my-opt --lm-eval hellaswag,arc_easy --plan out/plan.json
    """
    if not plan_files:
        refuse_typed(
            context,
            ("action", "slope", "gqa", "repair"),
            "changes what a plan says, and there is none; name one with --plan, or leave it out",
        )
        refuse_typed(
            context,
            ("calibration", "calibration_size"),
            "is for the repair of a plan, and there is none; name one with --plan, or leave it out",
        )
    if lm_eval is not None and task is None and test is None:
        refuse_typed(
            context,
            DATA,
            "is about data, and lm-eval alone judges here; name data with --task, or leave it out",
        )
    check_lm_eval(context, lm_eval)
    files = plan_files or []
    for file in files:
        if not file.is_file():  # before anything is loaded; never the unpruned model instead
            raise DataError(f"{str(file)!r} is not there; give the file that holds a plan")
    names = [] if lm_eval is None else o.names(lm_eval)
    if lm_eval is not None:
        check_lm_eval_tasks(names, include_path)
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    view = HeadModel(loaded.model)
    changes = {"action": action, "slope": slope, "gqa": gqa, "repair": repair}
    plans = [read_plan(file, view.mask, **changes) for file in files]
    for plan in plans:
        note_other_model("plan was", plan.provenance, loaded.name)
    data = DataSettings(
        spec=task,
        kind=kind,
        calibration=calibration,
        test=test,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        calibration_size=o.size(calibration_size),
        test_size=o.size(test_size),
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        allow_overlap=True,  # no other set is looked at
    )
    judge = None
    if task is not None or test is not None or not names:
        judge = data.open_one("test", loaded.tokenizer, loaded.model.config)
    fits = fits_of(loaded, plans, data)
    options = {
        "include_path": include_path,
        "num_fewshot": num_fewshot,
        "limit": limit,
        "batch_size": batch_size or "auto",
        "seed": seed,
        "trust_remote_code": trust_remote_code,
    }
    found = []
    for number, (plan, file) in enumerate(zip(plans or [None], files or [None], strict=True)):
        with applied_repaired(view, plan, fits[number]) if plan is not None else nullcontext():
            row: dict[str, Any] = {"model": loaded.name, "plan": _about(view, plan, file)}
            if judge is not None:
                row |= _judged(loaded, judge, hidden=as_json)
            if names:
                results = run_lm_eval(loaded.model, loaded.tokenizer, names, **options)
                row["lm_eval"] = results["results"]
                row["lm_eval_primary"] = primary(results)
                if lm_eval_output is not None:
                    write_lm_eval(results, _place(lm_eval_output, files, number))
        found.append(row)
    if as_json:
        show_json(found[0] if len(found) == 1 else {"results": found})
        return
    for row in found:
        _show(row, judge)


def _about(view: HeadModel, plan: PruningPlan | None, file: Path | None) -> dict[str, Any] | None:
    if plan is None:
        return None
    off = sum(not plan.mask.keeps(head) for head in view.mask.heads)
    return {"file": str(file), "action": plan.action, "heads_dropped": off}


def _judged(loaded: Loaded, judge: Task, *, hidden: bool) -> dict[str, Any]:
    with progress_bar("evaluating", judge.passes, hidden=hidden) as advance:
        hook = loaded.model.register_forward_hook(lambda *_: advance())
        try:
            found = judge.evaluate(loaded.model)
        finally:
            hook.remove()
    return {
        "data": {"name": judge.name, "size": judge.size, "fingerprint": judge.fingerprint},
        "metric": found.metric,
        "value": found.value,
        "interval": list(found.interval()),
        "metrics": found.metrics,
    }


def _place(output: Path, files: list[Path], number: int) -> Path:
    """Return where one plan's results go: the file that was named, or one a plan below it."""
    return output if len(files) < 2 else output / f"{number}-{files[number].stem}.json"


def _show(row: dict[str, Any], judge: Task | None) -> None:
    plan = row["plan"]
    done = f" with {plan['heads_dropped']} heads removed ({plan['action']})" if plan else ""
    if judge is not None:
        show(f"{row['model']}{done} on {judge.size} examples of {judge.name}")
        for name, value in row["metrics"].items():
            low, high = row["interval"]
            of = f"  (95% interval {low:.4f} to {high:.4f})" if name == row["metric"] else ""
            show(f"  {name}: {value:.4f}{of}")
    if "lm_eval" in row:
        show(_lm_eval_table(f"{row['model']}{done}, lm-eval", row["lm_eval_primary"]))


def _lm_eval_table(title: str, primary: dict[str, Any]) -> TextTable:
    rows = [
        [name, metric, f"{value:.4f}", NOTHING if error is None else f"{error:.4f}"]
        for name, (metric, value, error) in primary.items()
    ]
    columns = ("task", "metric", "value", "standard error")
    return TextTable(columns, rows, words=columns[:2], title=title)
