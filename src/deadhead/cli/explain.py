"""deadhead explain: what every removed head was worth, what it cost, what the repair gave back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json
from deadhead.cli.unused import refuse_typed
from deadhead.errors import DataError
from deadhead.files import replacing
from deadhead.losses.losses import loss_named
from deadhead.models.heads import HeadModel
from deadhead.report import legend, removed_table
from deadhead.runs import FinishedRun
from deadhead.runs.explain import OWN
from deadhead.scoring.spec import CriterionSpec


def explain(
    context: typer.Context,
    run: Annotated[
        Path, typer.Argument(help="Folder that deadhead prune wrote.", show_default=False)
    ],
    criteria: Annotated[
        str,
        typer.Option(
            "--criteria",
            "-c",
            help="Criteria that score the dense model, with commas; all: those that share one pass"
            " (not ablation, shapley, file, random); none.",
        ),
    ] = "all",
    loss: Annotated[
        str | None,
        typer.Option(
            help="Loss of all gradient criteria: task, kl, logit_norm; or own: each its own, a"
            " pass per loss. By default the run's, in one pass.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(help="Measure after every step how far the model is from the dense one."),
    ] = True,
    samples: Annotated[
        str,
        typer.Option(help="Calibration samples to measure on, evenly over all of them; or all."),
    ] = "128",
    model: Annotated[
        str | None,
        typer.Option(help="Where the model is now, as it was before the run."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="Where the run's data are now.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Where the run's calibration data are now.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default the run's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the table to this CSV file.")
    ] = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Explain a run: per removed head its scores, what it cost, and what the repair gave back.

    The heads are listed in the order in which they went. The run's model and calibration data are
    opened again; nothing is written into the run.

    Example: deadhead explain runs/bundled-encoder-auto-auto-50%
    """
    if not measure:
        refuse_typed(context, ("samples",), "is for measuring; leave it or --no-measure out")
    names = None if criteria == "all" else o.names(criteria)
    for name in names or ():
        CriterionSpec.parse(name)
    if loss not in (None, OWN):
        loss_named(loss)
    if output is not None and output.suffix.lower() != ".csv":
        raise DataError(
            f"--output {str(output)!r} is not a CSV file; give a name that ends in .csv"
        )
    count = o.size(samples)
    finished = FinishedRun.read(run)
    if not finished.removed:
        show_json({"run": str(run), "rows": []}) if as_json else show(
            f"{run}: the run removed no heads: there is nothing to explain"
        )
        return
    with progress_bar("loading", None, hidden=as_json) as advance:
        loaded = finished.open_model(model, device, trust_remote_code=trust_remote_code)
        source = finished.open_calibration(loaded, task, calibration)
        say(f"{loaded.name}: {finished.removed} heads removed, scored on {source.size} samples")
        found = finished.explain(
            HeadModel(loaded.model),
            source,
            criteria=names,
            loss=loss,
            samples=count if measure else 0,
            on_work=lambda what: advance(description=what),
        )
    if output is not None:
        with replacing(output) as temporary:
            found.to_frame().to_csv(temporary, index=False)
    if as_json:
        show_json({"run": str(run), **found.to_json()})
        return
    show(removed_table(found, [*found.criteria]), *legend(found))
    if output is not None:
        show(f"table: {output}")
