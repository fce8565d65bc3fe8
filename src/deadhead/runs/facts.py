"""Where a result comes from: its model, its data, its software, the command that made it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from deadhead.data.prompts import Prompts
from deadhead.measure import ModelSize, Timer, cut_summary, model_size
from deadhead.models.architectures import origin_of, records_of
from deadhead.models.purpose import purpose_of
from deadhead.runs.settings import ModelSettings
from deadhead.tasks import Task


def provenance_of(
    *,
    model: Any = None,
    record: str | None = None,
    data: Mapping[str, Any] | None = None,
    command: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Return where a result comes from, for the file that holds it; what is None is left out.

    Args:
        model: name of the model.
        record: how its heads were found, if not by a written record; see `origin_of`.
        data: its sets.
        command: as it was typed.
        seed: of all that was drawn.
    """
    packages = ("deadhead", "torch", "transformers", "numpy")
    versions = {"python": platform.python_version(), **{p: version(p) for p in packages}}
    facts = {
        "command": command,
        "model": model,
        "record": record,
        "versions": versions,
        "data": data,
        "seed": seed,
    }
    return {name: value for name, value in facts.items() if value is not None}


def begun_with(settings: Any, data: Mapping[str, Any], importance: Any) -> dict[str, Any]:
    """Return what has to be the same when a run goes on."""
    return {
        **settings.header(),
        **provenance_of(),
        "fingerprints": data,
        "weights": settings.model.fingerprint(),
        "importance": importance,
    }


def occasion(timer: Timer, device: str) -> dict[str, Any]:
    """Return when and on what machine a result was made, and how long that took."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": timer.seconds,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
    }


def data_facts(**sets: Task | Prompts | None) -> dict[str, Any]:
    """Return `{role: {fingerprint, size, name}}` of the sets that are there."""
    return {
        role: {"fingerprint": task.fingerprint, "size": task.size, "name": task.name}
        for role, task in sets.items()
        if task is not None
    }


def size_facts(size: ModelSize, ending: str = "") -> dict[str, int | None]:
    """Return parameters, and the bytes of KV cache per token (None for encoders)."""
    return {
        f"parameters{ending}": size.parameters,
        f"kv_bytes_per_token{ending}": size.kv_bytes_per_token,
    }


def model_facts(
    name: str, model: Any, settings: ModelSettings, *, before: ModelSize
) -> dict[str, Any]:
    """Return `RunSummary.model` of a cut model; `before` is its size before the cut."""
    after = model_size(model)
    return {
        "name": name,
        "hub_id": settings.hub_id,
        "model_type": model.config.model_type,
        "record": origin_of(records_of(model)),
        "auto_class": _auto_class(model),
        "needs_deadhead": getattr(model.config, "quantization_config", None) is not None,
        **size_facts(before, "_before"),
        **size_facts(after, "_after"),
        "saved": str(cut_summary(before, after)),
    }


# class names end so, and are loaded by this class of transformers
_AUTO_CLASSES = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForMultipleChoice": "AutoModelForMultipleChoice",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForAudioClassification": "AutoModelForAudioClassification",
    "ForCTC": "AutoModelForCTC",
}


def _auto_class(model: Any) -> str:
    if purpose_of(model) == "seq2seq":
        heard = getattr(model, "main_input_name", "") == "input_features"
        return "AutoModelForSpeechSeq2Seq" if heard else "AutoModelForSeq2SeqLM"
    name = type(model).__name__
    return next((auto for end, auto in _AUTO_CLASSES.items() if name.endswith(end)), "AutoModel")
