"""The law of saving: a cut model is saved, loaded in a new process, and gives the same outputs."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import init_hf_modules

from deadhead.derivation.exercises import Exercise
from deadhead.derivation.laws import difference, run_exercises
from deadhead.derivation.results import NotApplicable, Refuted
from deadhead.surgery.remove import remove_
from deadhead.types import HeadMask, PruningPlan

SECONDS = 300  # that a new process may take
COMMAND = (
    "import sys, deadhead; from deadhead.derivation.reloading import answer; answer(*sys.argv[1:])"
)


def saved_and_loaded(
    model: PreTrainedModel, exercises: Sequence[Exercise], mask: HeadMask, *, fresh_process: bool
) -> str:
    """Save a cut copy with plain `save_pretrained`, load it by its class, compare bit for bit.

    Where the uncut model does not survive this either, the law says nothing.
    """
    off, reason = reload_difference(model, exercises, mask, fresh_process=fresh_process)
    if off == 0.0:
        return "equal bit for bit, " + ("in a new process" if fresh_process else "in this process")
    if _off(model, exercises, fresh_process=False)[0] != 0.0:
        raise NotApplicable("transformers does not load the uncut tiny model as it was saved")
    raise Refuted(reason or f"the loaded model's outputs differ by {off:.1e}")


def reload_difference(
    model: PreTrainedModel,
    exercises: Sequence[Exercise],
    mask: HeadMask,
    *,
    fresh_process: bool = False,
) -> tuple[float, str]:
    """Return how far a cut model and the one that its checkpoint loads as differ; inf, and why.

    The model that is cut is loaded first, since a model that was built may have other buffers.
    """
    with tempfile.TemporaryDirectory(prefix="deadhead-") as folder:
        try:
            model.save_pretrained(folder)  # type: ignore[operator]
            dense = _loaded(type(model), folder, model.dtype)
        except Exception as error:  # transformers cannot load its own model
            return float("inf"), _line(error)
    cut: Any = remove_(dense, PruningPlan(mask, gqa="equalize"))
    return _off(cut, exercises, fresh_process=fresh_process)


def _off(
    model: PreTrainedModel, exercises: Sequence[Exercise], *, fresh_process: bool
) -> tuple[float, str]:
    """Return how far the outputs of a loaded model differ; inf, with the reason, if it fails."""
    expected = run_exercises(_aligned(copy.deepcopy(model)), exercises)
    kind = type(model)
    with tempfile.TemporaryDirectory(prefix="deadhead-") as folder:
        place = Path(folder)
        try:
            model.save_pretrained(place / "model")  # type: ignore[operator]
            if not fresh_process:
                found = run_exercises(_loaded(kind, place / "model", model.dtype), exercises)
            else:
                _write_exercises(place, exercises)
                dtype = str(model.dtype).removeprefix("torch.")
                _in_a_new_process(place, (str(place), kind.__module__, kind.__qualname__, dtype))
                tensors = load_file(place / "outputs.safetensors")
                found = [tensors[str(number)] for number in range(len(tensors))]
        except Exception as error:  # saving and loading fail in many ways
            return float("inf"), _line(error)
    return difference(expected, found), ""


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _loaded(kind: Any, folder: str | Path, dtype: torch.dtype) -> Any:
    eager: dict[str, Any] = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return _aligned(kind.from_pretrained(folder, dtype=dtype, **eager).to(dtype).eval())


def _aligned(model: Any) -> Any:
    """Move weights to memory of their own: how a file aligns them decides how sums are rounded."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return model


def _in_a_new_process(folder: Path, arguments: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # sums round alike
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Refuted(f"the new process failed: {lines[-1] if lines else done.returncode}")


def answer(folder: str, module: str, name: str, dtype: str) -> None:
    """Load the model in a folder, run the exercises beside it, and write down the outputs."""
    place = Path(folder)
    init_hf_modules()  # where classes of remote code are imported from
    kind: Any = getattr(import_module(module), name)
    outputs = run_exercises(
        _loaded(kind, place / "model", getattr(torch, dtype)), _read_exercises(place)
    )
    save_file(
        {str(number): tensor.contiguous().clone() for number, tensor in enumerate(outputs)},
        place / "outputs.safetensors",
    )


def _write_exercises(folder: Path, exercises: Sequence[Exercise]) -> None:
    """Write exercises as tensors and JSON: nothing that is read back is executed."""
    tensors: dict[str, Tensor] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[str(len(tensors))] = value.contiguous().clone()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value

    values = [[e.path, {name: plain(value) for name, value in e.kwargs.items()}] for e in exercises]
    (folder / "exercises.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(tensors, folder / "exercises.safetensors")


def _read_exercises(folder: Path) -> list[Exercise]:
    tensors = load_file(folder / "exercises.safetensors")

    def back(value: Any) -> Any:
        if isinstance(value, list):
            return [back(each) for each in value]
        return tensors[value["tensor"]] if isinstance(value, dict) else value

    values = json.loads((folder / "exercises.json").read_text(encoding="utf-8"))
    return [Exercise(path, {n: back(v) for n, v in kwargs.items()}) for path, kwargs in values]
