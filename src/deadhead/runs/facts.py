"""What a result has to say about its model, its data and its software."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from deadhead.data.prompts import Prompts
from deadhead.measure import model_size
from deadhead.runs.settings import ModelSettings
from deadhead.tasks import Task


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("deadhead", "torch", "transformers", "numpy")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}


def data_facts(**sets: Task | Prompts | None) -> dict[str, Any]:
    """Return `{role: {fingerprint, size, name}}` of the sets that are there."""
    return {
        role: {"fingerprint": task.fingerprint, "size": task.size, "name": task.name}
        for role, task in sets.items()
        if task is not None
    }


def size_facts(model: Any) -> dict[str, int | None]:
    """Return parameters, and the bytes of KV cache per token (None for encoders)."""
    size = model_size(model)
    return {"parameters": size.parameters, "kv_bytes_per_token": size.kv_bytes_per_token}


def model_facts(
    name: str, model: Any, settings: ModelSettings, *, before: dict[str, int | None]
) -> dict[str, Any]:
    """Return `RunSummary.model` of a cut model; `before` is its `size_facts` before the cut."""
    after = size_facts(model)
    return {
        "name": name,
        "hub_id": settings.hub_id,
        "model_type": model.config.model_type,
        "auto_class": _auto_class(model),
        "needs_deadhead": getattr(model.config, "quantization_config", None) is not None,
        **{f"{size}_before": value for size, value in before.items()},
        **{f"{size}_after": value for size, value in after.items()},
    }


def _auto_class(model: Any) -> str:
    name = type(model).__name__
    for ending, auto in (
        ("ForSequenceClassification", "AutoModelForSequenceClassification"),
        ("ForMaskedLM", "AutoModelForMaskedLM"),
        ("ForCausalLM", "AutoModelForCausalLM"),
        ("LMHeadModel", "AutoModelForCausalLM"),
    ):
        if name.endswith(ending):
            return auto
    return "AutoModel"
