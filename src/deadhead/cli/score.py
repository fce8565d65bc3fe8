"""deadhead score: scores without pruning, and the diagnosis of where they come from."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path

from deadhead.cli.console import progress_bar, say
from deadhead.cli.options import Screen
from deadhead.files import check_file, write_json
from deadhead.options.fields import check_choices, option, part, settings
from deadhead.options.settings import METHOD, loss_option, seed_option
from deadhead.options.values import Loss
from deadhead.runs.settings import TESTING, DataSettings, ModelSettings


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
    loss: Loss | None = loss_option()
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
    from deadhead.models.architectures import origin_of
    from deadhead.models.heads import HeadModel
    from deadhead.report import score_table
    from deadhead.report.tables import diagnosis_table
    from deadhead.runs.facts import data_facts, provenance_of
    from deadhead.scoring import score_all
    from deadhead.scoring.diagnose import diagnose
    from deadhead.scoring.spec import CriterionSpec

    if asked.output is not None:
        check_file(asked.output)
    names = asked.criterion.split(",")
    specs = [CriterionSpec.parse(name) for name in names]
    loaded = asked.model.load()
    batches, data = [], None
    if asked.diagnose or any(spec.uses_data for spec in specs):
        source = asked.data.open_one("calibration", loaded.reader, loaded.model.config)
        batches, data = source.batches(), data_facts(calibration=source)
        say(f"scoring on {source.size} examples of {source.name}")
    view = HeadModel(loaded.model)
    total, hidden = len(batches) or None, screen.as_json
    if asked.diagnose:
        wanted = [name for spec in specs for name in spec.losses]
        loss = asked.loss or ("task" if "task" in wanted else next(iter(wanted), None))
        with progress_bar("diagnosing", total, hidden=hidden) as advance:
            diagnosis = diagnose(view, batches, loss=loss, on_batch=advance)
        screen.end(diagnosis.to_json(), *diagnosis_table(diagnosis))
        return
    with progress_bar("scoring", total, hidden=hidden) as advance:
        found = score_all(view, batches, names, loss=asked.loss, seed=asked.seed, on_batch=advance)
    record = origin_of(view.records)
    facts = provenance_of(model=loaded.name, record=record, command=asked.command, data=data)
    values, lines = {}, [record] if record else []
    for name, scores in found.items():
        loss = scores.provenance.get("loss")
        lines += [f"{name}" + (f" (loss: {loss})" if loss else ""), score_table(scores)]
        values[name] = replace(scores, provenance={**scores.provenance, **facts}).to_json()
    if asked.output is not None:
        write_json(asked.output, values)
        lines.append(f"scores: {asked.output}")
    screen.end(values, *lines)
