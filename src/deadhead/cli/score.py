"""deadhead score: scores without pruning, and the diagnosis of where they come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from deadhead.checkpoints import load_model
from deadhead.cli import choosing as c
from deadhead.cli import options as o
from deadhead.cli.console import progress_bar, say, show, show_json, typed_command
from deadhead.files import write_json
from deadhead.losses.losses import loss_named
from deadhead.models.heads import HeadModel
from deadhead.report import score_table
from deadhead.report.diagnosis import diagnosis_table
from deadhead.runs import DataSettings, data_facts, versions
from deadhead.scoring import score_all
from deadhead.scoring.diagnose import diagnose
from deadhead.scoring.spec import CriterionSpec


def score(
    model: o.ModelArgument,
    task: o.TaskOption = None,
    criterion: c.CriterionOption = "gradient_norm",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the scores to this JSON file.")
    ] = None,
    diagnosis: Annotated[
        bool,
        typer.Option(
            "--diagnose",
            help="Look for non-finite values, underflow and vanishing gradients per block and"
            " projection, and say what to do.",
        ),
    ] = False,
    loss: c.LossOption = None,
    kind: o.KindOption = None,
    calibration: o.CalibrationOption = None,
    text_column: o.TextColumnOption = None,
    text_pair_column: o.TextPairColumnOption = None,
    label_column: o.LabelColumnOption = None,
    calibration_size: o.CalibrationSizeOption = "512",
    batch_size: o.BatchSizeOption = None,
    max_length: o.MaxLengthOption = None,
    allow_overlap: o.OverlapOption = False,
    seed: o.SeedOption = 0,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = None,
    trust_remote_code: o.RemoteCodeOption = False,
    as_json: o.JsonOption = False,
) -> None:
    """Score every head by one criterion or several, in one pass over the data.

    Criteria that look at gradients share one backward pass: taylor,gradient_norm costs one.

    Examples:
      deadhead score bundled:encoder -t bundled:sentiment -c taylor,gradient_norm

      deadhead score my-bert -t data/ -c gradient_norm --diagnose
    """
    names = criterion.split(",")
    if loss is not None:
        loss_named(loss)
    specs = [CriterionSpec.parse(name) for name in names]
    loaded = load_model(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    batches = []
    provenance = {"model": loaded.name, "command": typed_command(), "versions": versions()}
    if diagnosis or any(spec.uses_data for spec in specs):
        data = DataSettings(
            spec=task,
            kind=kind,
            calibration=calibration,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            calibration_size=o.size(calibration_size),
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            allow_overlap=allow_overlap,
        )
        source = data.open_one("calibration", loaded.tokenizer, loaded.model.config)
        batches = source.batches()
        provenance["data"] = data_facts(calibration=source)
        say(f"scoring on {source.size} examples of {source.name}")
    view = HeadModel(loaded.model)
    if diagnosis:
        wanted = [name for spec in specs for name in spec.losses]
        differentiated = loss or ("task" if "task" in wanted else next(iter(wanted), None))
        with progress_bar("diagnosing", len(batches), hidden=as_json) as advance:
            found = diagnose(view, batches, loss=differentiated, on_batch=advance)
        show_json(found.to_json()) if as_json else show(*diagnosis_table(found))
        return
    with progress_bar("scoring", len(batches) or None, hidden=as_json) as advance:
        scores = score_all(view, batches, names, loss=loss, seed=seed, on_batch=advance)
    scores = {
        name: replace(s, provenance={**s.provenance, **provenance}) for name, s in scores.items()
    }
    values = {name: s.to_json() for name, s in scores.items()}
    if output is not None:
        write_json(output, values)
    if as_json:
        show_json(values)
        return
    for name, found_scores in scores.items():
        shared = found_scores.provenance.get("loss")
        show(f"{name}" + (f" (loss: {shared})" if shared else ""), score_table(found_scores))
    if output is not None:
        show(f"scores: {output}")
