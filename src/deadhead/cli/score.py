"""deadhead score: scores without pruning, and the diagnosis of where they come from."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deadhead.cli.console import progress_bar, say, show, show_json
from deadhead.cli.options import Screen
from deadhead.files import write_json
from deadhead.options.fields import check_choices, option, part, settings
from deadhead.options.settings import METHOD, seed_option
from deadhead.options.values import Loss
from deadhead.runs.settings import TESTING, DataSettings, ModelSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deadhead.models.heads import HeadModel
    from deadhead.types import HeadScores


@settings
class ScoreSettings:
    """What `deadhead score` takes."""

    model: ModelSettings = part()
    data: DataSettings = part(without=TESTING)
    criterion: str = option(
        default="gradient_norm",
        flags=("--criterion", "-c"),
        help="How to score heads, several with commas: 'deadhead list' names all. Options follow"
        " colons: attention_entropy:normalized=true; names joined by + are combined by rank.",
    )
    output: Path | None = option(
        default=None, flags=("--output", "-o"), help="Write the scores to this JSON file."
    )
    diagnose: bool = option(
        default=False,
        help="Look for non-finite values, underflow and vanishing gradients per block and"
        " projection, and say what to do.",
        panel=METHOD,
    )
    loss: Loss | None = option(
        default=None,
        help="Loss of gradient criteria; by default the criterion's own.",
        panel=METHOD,
    )
    seed: int = seed_option()
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_choices(self)


def score_command(asked: ScoreSettings, screen: Screen) -> None:
    """Score every head by one criterion or several, in one pass over the data.

    Criteria that look at gradients share one backward pass: taylor,gradient_norm costs one.

    Examples:
      deadhead score bundled:encoder -t bundled:sentiment -c taylor,gradient_norm

      deadhead score my-bert -t data/ -c gradient_norm --diagnose
    """
    from deadhead.models.heads import HeadModel
    from deadhead.runs.facts import data_facts, provenance_of
    from deadhead.scoring.spec import CriterionSpec

    names = asked.criterion.split(",")
    specs = [CriterionSpec.parse(name) for name in names]
    loaded = asked.model.load()
    batches, data = [], None
    if asked.diagnose or any(spec.uses_data for spec in specs):
        source = asked.data.open_one("calibration", loaded.tokenizer, loaded.model.config)
        batches, data = source.batches(), data_facts(calibration=source)
        say(f"scoring on {source.size} examples of {source.name}")
    view = HeadModel(loaded.model)
    if asked.diagnose:
        wanted = [name for spec in specs for name in spec.losses]
        own = "task" if "task" in wanted else next(iter(wanted), None)
        _diagnose(view, batches, asked.loss or own, screen)
        return
    facts = provenance_of(model=loaded.name, command=asked.command, data=data)
    _score(view, batches, names, asked, screen, facts)


def _diagnose(view: HeadModel, batches: Sequence[Any], loss: str | None, screen: Screen) -> None:
    from deadhead.report.tables import diagnosis_table
    from deadhead.scoring.diagnose import diagnose

    with progress_bar("diagnosing", len(batches), hidden=screen.as_json) as advance:
        diagnosis = diagnose(view, batches, loss=loss, on_batch=advance)
    show_json(diagnosis.to_json()) if screen.as_json else show(*diagnosis_table(diagnosis))


def _score(
    view: HeadModel,
    batches: Sequence[Any],
    names: Sequence[str],
    asked: ScoreSettings,
    screen: Screen,
    facts: dict[str, Any],
) -> None:
    """Score, write and show."""
    from deadhead.report import score_table
    from deadhead.scoring import score_all

    with progress_bar("scoring", len(batches) or None, hidden=screen.as_json) as advance:
        found = score_all(view, batches, names, loss=asked.loss, seed=asked.seed, on_batch=advance)
    scores: dict[str, HeadScores] = {
        name: replace(each, provenance={**each.provenance, **facts}) for name, each in found.items()
    }
    values = {name: each.to_json() for name, each in scores.items()}
    if asked.output is not None:
        write_json(asked.output, values)
    if screen.as_json:
        show_json(values)
        return
    for name, each in scores.items():
        loss = each.provenance.get("loss")
        show(f"{name}" + (f" (loss: {loss})" if loss else ""), score_table(each))
    if asked.output is not None:
        show(f"scores: {asked.output}")
