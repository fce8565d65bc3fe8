"""deadhead explain: what every removed head was worth, what it cost, what the repair gave back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deadhead.cli.console import progress_bar, say
from deadhead.cli.options import Screen
from deadhead.errors import DataError
from deadhead.files import check_file, replacing
from deadhead.options.fields import check_choices, option, settings
from deadhead.options.settings import METHOD, MODEL, size_option, trust_option
from deadhead.options.values import parse_names


@settings
class ExplainSettings:
    """What `deadhead explain` takes."""

    run: Path = option(help="Folder that deadhead prune wrote.", metavar="RUN", kw_only=False)
    criteria: tuple[str, ...] = option(
        default=("all",),
        shown="all",
        flags=("--criteria", "-c"),
        help="Criteria that score the dense model, with commas; all: those that share one pass (not"
        " ablation, shapley, file, random); or none.",
        parse=parse_names,
    )
    output: Path | None = option(
        default=None, flags=("--output", "-o"), help="Write the table to this CSV file."
    )
    loss: Literal["task", "kl", "logit_norm", "own"] | None = option(
        default=None,
        help="Loss of all gradient criteria; own: each its own, a pass per loss. By default the"
        " run's, in one pass.",
        panel=METHOD,
    )
    measure: bool = option(
        default=True,
        flags=("--measure/--no-measure",),
        help="Measure after every step how far the model is from the dense one.",
        panel=METHOD,
    )
    samples: int | None = size_option(
        128,
        "128",
        "Calibration samples to measure on, evenly over all of them; or all.",
        panel=METHOD,
        group="samples",
    )
    model: str | None = option(
        default=None, help="Where the model is now, as it was before the run.", panel=MODEL
    )
    task: str | None = option(
        default=None,
        flags=("--task", "-t"),
        help="Where the run's data are now.",
        panel=MODEL,
    )
    calibration: tuple[str, ...] = option(
        default=(), help="Where the run's calibration data are now.", panel=MODEL
    )
    device: str | None = option(
        default=None, help="cpu, cuda, cuda:1, mps; by default the run's.", panel=MODEL
    )
    trust_remote_code: bool = trust_option()

    def __post_init__(self) -> None:
        from deadhead.scoring.spec import CriterionSpec

        check_choices(self)
        for name in self.names or ():
            CriterionSpec.parse(name)
        if self.output is not None and self.output.suffix.lower() != ".csv":
            raise DataError(
                f"--output {str(self.output)!r} is not a CSV file; give a name that ends in .csv"
            )

    @property
    def names(self) -> tuple[str, ...] | None:
        """The criteria; None: all that share one pass."""
        return None if self.criteria == ("all",) else self.criteria

    def idle(self) -> set[str]:
        """Return the groups of options that do nothing here."""
        return set() if self.measure else {"samples"}


def explain_run(asked: ExplainSettings, screen: Screen) -> None:
    """Explain a run: per removed head its scores, what it cost, and what the repair gave back.

    The heads are listed in the order in which they were removed. The run's model and calibration
    data are opened again; nothing is written into the run.

    Example: deadhead explain runs/bundled-encoder-auto-auto-50%
    """
    from deadhead.models.heads import HeadModel
    from deadhead.report import legend, removed_table
    from deadhead.runs.explain import FinishedRun

    if asked.output is not None:
        check_file(asked.output)
    finished = FinishedRun.read(asked.run)
    if not finished.removed:
        said = f"{asked.run}: the run removed no heads: there is nothing to explain"
        screen.end({"run": str(asked.run), "rows": []}, said)
        return
    with progress_bar("loading", None, hidden=screen.as_json) as advance:
        loaded = finished.open_model(
            asked.model, asked.device, trust_remote_code=asked.trust_remote_code
        )
        source = finished.open_calibration(loaded, asked.task, asked.calibration)
        say(f"{loaded.name}: {finished.removed} heads removed, scored on {source.size} samples")
        found = finished.explain(
            HeadModel(loaded.model),
            source,
            criteria=asked.names,
            loss=asked.loss,
            samples=asked.samples if asked.measure else 0,
            on_work=lambda what: advance(description=what),
        )
    lines = [removed_table(found, [*found.criteria]), *legend(found)]
    if asked.output is not None:
        with replacing(asked.output) as temporary:
            found.to_frame().to_csv(temporary, index=False)
        lines.append(f"table: {asked.output}")
    screen.end({"run": str(asked.run), **found.to_json()}, *lines)
