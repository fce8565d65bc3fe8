"""Compare an export with the cut model, in a process that does not import deadhead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deadhead.derivation.exercises import exercises
from deadhead.display import Brief
from deadhead.errors import CheckpointError
from deadhead.exports import plain
from deadhead.models.hooks import eval_mode

# how far numbers of size 1 may be off by the order of sums alone
ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
KEEP_IT = "keep the checkpoint as it is, which loads after import deadhead"


@dataclass(frozen=True, repr=False)
class Agreement(Brief):
    """How an export compares with the cut model.

    Attributes:
        difference: largest difference of an output, as a share of the largest output if that is
            more than 1.
        tokens: how many tokens were generated greedily, all equal; 0 of models that do not
            generate.
    """

    difference: float
    tokens: int

    def __str__(self) -> str:
        said = f"outputs differ by {self.difference:.1e} at most"
        return said + (f", {self.tokens} generated tokens are equal" if self.tokens else "")


@dataclass(frozen=True)
class Trial:
    """What an export has to give, run by a script in a process without deadhead.

    Attributes:
        runner: the script's file name, in this folder.
        calls: arguments of forward passes.
        expected: what the cut model gives, by name; `tokens` for what it writes.
        prompts: token ids to continue; None for models that do not write.
        settings: what the script has to know besides.
        tolerance: the largest difference that is taken for rounding.
    """

    runner: str
    calls: list[dict[str, Tensor]]
    expected: dict[str, Tensor]
    prompts: Tensor | None
    settings: dict[str, Any]
    tolerance: float


def plain_trial(model: Any) -> Trial:
    """Run the cut model as `plain.py` runs a checkpoint of transformers."""
    calls, prompts = calls_of(model)
    with eval_mode(model):
        expected = plain.outputs_of(model, calls, prompts)
    settings = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
    }
    return Trial("plain.py", calls, expected, prompts, settings, ROUNDING[model.dtype])


def calls_of(model: Any) -> tuple[list[dict[str, Tensor]], Tensor | None]:
    """Make inputs for a model, of text also padded ones, and a prompt if it generates from text."""
    calls = [exercise.kwargs for exercise in exercises(model) if not exercise.path]
    calls = [{k: v for k, v in call.items() if isinstance(v, Tensor)} for call in calls]
    prompts = None
    for call in calls[:1]:
        ids = call.get("input_ids")
        if ids is not None and ids.dim() == 2 and "attention_mask" not in call:
            mask = torch.ones_like(ids)
            mask[0, -2:] = 0
            calls.append({**call, "attention_mask": mask})
        if ids is not None and set(call) <= {"input_ids", "attention_mask", "decoder_input_ids"}:
            prompts = ids[:1] if _generates(model) else None
    if not calls:
        raise CheckpointError(
            f"no inputs were found for a {type(model).__name__}, so the export cannot be checked;"
            " export the model with its head on top"
        )
    return calls, prompts


def start_of(model: Any) -> int | None:
    """Return the token that a decoder beside an encoder begins with; None if it is not known."""
    known = (model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id)
    return next((token for token in known if token is not None), None)


def _generates(model: Any) -> bool:
    """Whether a model continues token ids; a decoder beside an encoder needs a token to start."""
    if not model.can_generate():
        return False
    return not model.config.is_encoder_decoder or start_of(model) is not None


def check_export(trial: Trial, folder: Path) -> Agreement:
    """Load an export without deadhead, and compare what it gives with what the cut model gives.

    Args:
        trial: what it has to give.
        folder: the export.

    Raises:
        CheckpointError: it does not load, or its outputs differ by more than rounding.
    """
    with tempfile.TemporaryDirectory(prefix="deadhead-") as made:
        place = Path(made)
        (place / "model").symlink_to(folder.resolve())
        _write(place, trial)
        _run(place, trial.runner)
        return _compared(trial, load_file(place / "outputs.safetensors"))


def _write(place: Path, trial: Trial) -> None:
    tensors = {
        f"{i}.{k}": v.contiguous().clone()
        for i, call in enumerate(trial.calls)
        for k, v in call.items()
    }
    if trial.prompts is not None:
        tensors["prompts"] = trial.prompts.clone()
    calls = [{name: f"{i}.{name}" for name in call} for i, call in enumerate(trial.calls)]
    about = json.dumps({"calls": calls, **trial.settings})
    (place / "inputs.json").write_text(about, encoding="utf-8")
    save_file(tensors, place / "inputs.safetensors")


def _run(place: Path, runner: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).resolve().with_name(runner)), str(place)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise CheckpointError(
            f"the export does not load without deadhead: {lines[-1] if lines else done.returncode};"
            f" {KEEP_IT}"
        )


def _compared(trial: Trial, found: dict[str, Tensor]) -> Agreement:
    difference = 0.0
    for name, value in trial.expected.items():
        value, other = value.cpu(), found[name]
        if name == "tokens" or value.shape != other.shape:
            off = 0.0 if torch.equal(value, other) else float("inf")
        else:
            scale = max(1.0, float(value.abs().max()))
            off = float((value - other).abs().max()) / scale
        difference = max(difference, float("inf") if off != off else off)
    if difference > trial.tolerance:
        raise CheckpointError(
            "the export does not compute what the cut model computes: outputs differ by"
            f" {difference:.1e}; {KEEP_IT}"
        )
    return Agreement(difference, plain.NEW_TOKENS if "tokens" in trial.expected else 0)
