"""deadhead plan and apply: choosing and cutting, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.cli.console import load_line, progress_bar, say
from deadhead.cli.options import Screen
from deadhead.cli.plans import (
    PlanChanges,
    check_plan_files,
    fit_plans,
    fits_of,
    note_other_model,
    read_plan,
    read_scores,
)
from deadhead.display import short_name
from deadhead.errors import DataError
from deadhead.files import check_empty, check_file, write_json
from deadhead.options.fields import option, part, settings
from deadhead.options.settings import strict_option
from deadhead.pruning.recipe import AUTO, Recipe
from deadhead.runs.run_settings import idle_of_recipe
from deadhead.runs.settings import TESTING, DataSettings, ModelSettings, PromptSettings
from deadhead.types import HeadMask, HeadScores, PruningPlan

if TYPE_CHECKING:
    from deadhead.models.heads import HeadModel
    from deadhead.pruning.auto import AutoChoice
    from deadhead.report import RunSummary

# of `Recipe`, what is about a curve or about training
OF_RUNS = ("repair_at", "cut", "max_drop", "patience", "evaluate_every", "every_step")


@settings
class PlanSettings:
    """What `deadhead plan` takes."""

    model: ModelSettings = part()
    data: DataSettings = part(without=TESTING)
    recipe: Recipe = part(without=(*OF_RUNS, "distillation"))
    scores: Path | None = option(
        default=None,
        help="A scores.json; without it the heads are scored now.",
        group="scores",
    )
    prompts: PromptSettings | None = part(default=None)
    output: Path = option(
        default=Path("plan.json"), flags=("--output", "-o"), help="File of the plan."
    )

    def method(self, given: HeadScores | None) -> Recipe:
        """Return the settled recipe; `given` are the scores, if they come from a file."""
        recipe = self.recipe
        if self.scores is not None and recipe.strategy == AUTO:
            recipe = replace(recipe, strategy="one_shot")
        if given is not None:  # a method by name: no repair by itself
            recipe = replace(recipe, criterion=given.criterion)
        recipe = recipe.settled()
        groups = recipe.makes_groups
        if self.scores is not None and recipe.strategy != "one_shot" and not groups:
            raise DataError(
                f"strategy {recipe.strategy!r} scores again after every move and cannot use"
                f" {str(self.scores)!r}; choose one_shot, or leave out --scores"
            )
        return recipe

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        return idle_of_recipe(self.method(None), self.prompts)


def plan(asked: PlanSettings, screen: Screen) -> None:
    """Choose heads and write the plan, without cutting or evaluating anything.

    A repair is fitted and stored beside the plan: 'deadhead apply' then needs no data.

    Example: deadhead plan bundled:encoder --task bundled:sentiment --heads 50%
    """
    from deadhead.models.architectures import origin_of
    from deadhead.models.heads import HeadModel
    from deadhead.repair.write import fits_file, save_fits
    from deadhead.runs.facts import data_facts, provenance_of

    check_file(asked.output)
    given = None if asked.scores is None else read_scores(asked.scores, asked.recipe.criterion)
    recipe = asked.method(given)
    loaded = asked.model.load()
    view = HeadModel(loaded.model)
    if given is not None:
        note_other_model("scores were", given.provenance, loaded.name)
    prompts, source = None, None
    if asked.prompts is not None:
        prompts = asked.prompts.open(loaded.tokenizer, loaded.model.config)
    named = asked.data.spec is not None or bool(asked.data.calibration)
    needed = needs_calibration(recipe, prompts=prompts is not None, scores=given is not None)
    if needed or (named and recipe.repair != "none"):
        source = asked.data.open_one("calibration", loaded.reader, loaded.model.config)
    chosen, decision = _chosen(view, recipe, source, prompts, given, hidden=screen.as_json)
    made = {**asdict(recipe), "clustering": asdict(recipe.rules.clustering)}  # with its seed
    if asked.scores is not None and given is not None:
        del made["seed"], made["loss"]  # the scores were made with their own
        made["scores"] = {"file": asked.scores.name, **given.provenance}
    if decision is not None:
        names = ("strategy", "criterion", "loss")
        made |= {name: getattr(decision.recipe, name) for name in names}
    data = data_facts(calibration=source, prompts=prompts) or None
    record = origin_of(view.records)
    facts = provenance_of(model=loaded.name, record=record, data=data)
    chosen = replace(chosen, provenance={**made, **facts})
    write_json(asked.output, chosen.to_json())
    lines = [chosen.describe(), *([record] if record else []), f"plan: {asked.output}"]
    if source is not None and chosen.repair not in ("none", "distill"):
        fits = fit_plans(view, [chosen], source.batches(), strict=recipe.strict)[0]
        save_fits(fits_file(asked.output), view, chosen, fits)
        lines.append(f"repair: {fits_file(asked.output)}")
    screen.end(chosen.to_json(), *lines)


def _chosen(
    view: HeadModel,
    recipe: Recipe,
    source: Any,
    prompts: Any,
    given: HeadScores | None,
    *,
    hidden: bool,
) -> tuple[PruningPlan, AutoChoice | None]:
    """Choose behind a progress bar; say what auto decided and where heads fall short."""
    from deadhead.pruning.moves import count_scorings
    from deadhead.pruning.prune import choose_plan
    from deadhead.strategies import shortfall

    batches, shown = source and source.batches(), prompts and prompts.batches()
    total = count_scorings(view, recipe) * len(batches) if batches else len(shown or ()) or None
    decided: list[AutoChoice] = []
    with progress_bar("choosing", total, hidden=hidden) as advance:
        chosen = choose_plan(
            view,
            batches,
            recipe,
            scores=given,
            prompts=shown,
            probes=source and source.probes(),
            on_choice=decided.append,
            on_batch=advance,
        )
    for decision in decided:
        say(f"auto: {decision.describe()}")
    short = shortfall(view, view.mask, recipe.rules, recipe.heads)
    if recipe.budget is None and not recipe.makes_groups and short:
        say(f"note: {short}")
    return chosen, next(iter(decided), None)


def needs_calibration(recipe: Recipe, *, prompts: bool, scores: bool) -> bool:
    """Whether choosing looks at calibration data."""
    from deadhead.scoring.spec import CriterionSpec

    if recipe.undecided:
        return True
    scored = CriterionSpec.parse(recipe.criterion).uses_data and not scores
    return (recipe.needs_scores and scored) or (recipe.needs_prompts and not prompts)


@settings
class ApplySettings:
    """What `deadhead apply` takes."""

    model: ModelSettings = part()
    plan: Path = option(
        default=Path("plan.json"),
        flags=("--plan", "-p"),
        help="A plan.json, of 'deadhead plan' or of a run; or a pruning log.",
    )
    output: Path = option(
        default=Path("pruned"), flags=("--output", "-o"), help="Folder of the cut checkpoint."
    )
    changes: PlanChanges = part(factory=PlanChanges)
    data: DataSettings = part(without=(*TESTING, "label_column", "allow_overlap"))
    strict: bool = strict_option()
    command: str = field(default="", compare=False)


def apply(asked: ApplySettings, screen: Screen) -> None:
    """Do to a model what a plan says, and save the checkpoint.

    The plan is a plan.json, or a pruning log (layer, kept, removed). A repair is read from the file
    beside the plan, or fitted on --calibration texts, which need no labels. After
    `import deadhead`, plain AutoModel.from_pretrained loads the checkpoint.

    Examples:
      deadhead apply bundled:encoder --plan plan.json -o small

      deadhead apply my-bloom --plan pruned.log --action mask -o masked
    """
    from deadhead.checkpoints import save_model
    from deadhead.measure import cut_summary, model_size
    from deadhead.models.heads import HeadModel
    from deadhead.repair import apply_repaired_
    from deadhead.report import model_card
    from deadhead.runs.facts import model_facts

    check_plan_files([asked.plan])
    check_empty(asked.output)
    loaded = asked.model.load()
    origin, before = HeadModel(loaded.model).mask, model_size(loaded.model)
    chosen = read_plan(asked.plan, loaded, origin, asked.changes)
    fits = fits_of(loaded, [(asked.plan, chosen)], asked.data, strict=asked.strict)[0]
    apply_repaired_(loaded.model, chosen, fits)
    facts = model_facts(loaded.name, loaded.model, asked.model, before=before)
    summary = _unevaluated(chosen, origin, facts, asked.command)
    save_model(loaded.model, loaded.tokenizer, asked.output, card=model_card(summary))
    screen.end(
        {"output": str(asked.output), **facts, "plan": chosen.to_json()},
        chosen.describe(),
        str(cut_summary(before, loaded.model)),
        *([facts["record"]] if facts["record"] else []),
        load_line(asked.output, facts),
    )


def _unevaluated(
    chosen: PruningPlan, origin: HeadMask, facts: dict[str, Any], command: str
) -> RunSummary:
    """Return what is known of a model that was cut by a plan and not judged."""
    import numpy as np

    from deadhead.pruning.trajectory import Step, Trajectory
    from deadhead.report import RunSummary
    from deadhead.runs.facts import provenance_of

    scores = chosen.provenance.get("scores")
    made = {**(scores if isinstance(scores, Mapping) else {}), **chosen.provenance}
    blank = tuple(np.full(n, np.nan) for n in origin.counts)
    return RunSummary(
        title=f"{short_name(facts['name'])}: by plan",
        trajectory=Trajectory(Step(origin, (), float("nan"), 0.0), ()),
        scores=HeadScores(blank, str(made.get("criterion", "not known"))),
        plan=chosen,
        model=facts,
        run=provenance_of(
            record=facts["record"], command=command, seed=made.get("seed"), data=made.get("data")
        ),
    )
