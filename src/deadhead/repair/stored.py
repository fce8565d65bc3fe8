"""A fitted repair in a file beside its plan, so that applying the plan needs no data."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from deadhead.errors import FileFormatError
from deadhead.files import one_line, replacing
from deadhead.models.heads import HeadModel, output_rows
from deadhead.repair.base import Fit, Fits
from deadhead.types import PruningPlan

KEY = "deadhead"  # of the metadata


def fits_file(plan_file: Path) -> Path:
    """Return where the repair of a plan is stored: `plan.repair.safetensors` of `plan.json`."""
    return plan_file.with_suffix(".repair.safetensors")


def save_fits(file: Path, view: HeadModel, plan: PruningPlan, fits: Fits) -> None:
    """Store fits in the dtype of the model, with what they were made for.

    Raises:
        CheckpointError: writing failed; nothing is left behind.
    """
    tensors = {}
    for number, fit in fits.items():
        dtype = output_rows(view.blocks[number].output).dtype
        tensors[f"{number}.weight"] = fit.weight.to("cpu", dtype).contiguous()
        tensors[f"{number}.bias"] = fit.bias.to("cpu", dtype).contiguous()
    with replacing(file) as temporary:
        save_file(tensors, temporary, metadata={KEY: fits_key(view, plan)})


def read_fits(file: Path, view: HeadModel, plan: PruningPlan) -> Fits | None:
    """Read fits; None if there is no file, or it was made for another plan or other weights.

    Raises:
        FileFormatError: the file is not a stored repair.
    """
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            if (stored.metadata() or {}).get(KEY) != fits_key(view, plan):
                return None
            numbers = sorted({int(name.split(".")[0]) for name in stored.keys()})  # noqa: SIM118
            return {
                number: Fit(*(stored.get_tensor(f"{number}.{part}") for part in ("weight", "bias")))
                for number in numbers
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(
            f"{str(file)!r} is not a stored repair ({one_line(error)}); remove it, and plan again"
            " or give --calibration"
        ) from error


def fits_key(view: HeadModel, plan: PruningPlan) -> str:
    """Return a short hex of a plan and of the output projections that its repair replaces."""
    values = {name: value for name, value in plan.to_json().items() if name != "provenance"}
    digest = blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=12)
    for block in view.blocks:
        rows = output_rows(block.output).detach().cpu().contiguous()
        digest.update(rows.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
