"""What wraps a model: peft, which is looked through, and what hides modules, which is refused."""

from __future__ import annotations

from typing import Any

from torch import nn

from deadhead.errors import UnsupportedModelError


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the model that peft has put adapters into, and any other as it is.

    Raises:
        UnsupportedModelError: another wrapper hides the modules; says how to take it off.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"a model is wanted, and this is a {type(model).__name__}; give the transformers model"
            " (deadhead.load_model(...).model)"
        )
    if is_adapted(model):
        return _adapted(model)
    if any("_orig_mod" in module._modules for module in model.modules()):
        advice = "torch.compile has wrapped it or a layer; take back ._orig_mod, compile afterwards"
    elif any(kind.__module__.startswith("torch.distributed.fsdp") for kind in _kinds(model)):
        advice = "FSDP has divided its weights; load the whole model in one process, cut, then wrap"
    elif "module" in model._modules and len(model._modules) == 1:
        advice = "it wraps another model; give that one: model.module"
    else:
        return model
    raise UnsupportedModelError(f"cannot use this {type(model).__name__}: {advice}")


def _kinds(model: nn.Module) -> set[type]:
    return {kind for module in model.modules() for kind in type(module).__mro__}


def is_adapted(model: nn.Module) -> bool:
    """Whether peft has put adapters into a model, or wraps it."""
    return hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False)


def _adapted(model: Any) -> nn.Module:
    """Return a model with adapters in its layers; refuse adapters that are prompts.

    Raises:
        UnsupportedModelError: they are.
    """
    configs = dict(getattr(model, "peft_config", {}))
    if any(getattr(config, "is_prompt_learning", False) for config in configs.values()):
        raise UnsupportedModelError(
            f"cannot use this {type(model).__name__}: it has learned prompts, which are no part of"
            " any head; give the model inside: model.get_base_model()"
        )
    if hasattr(model, "base_model_prefix") and not hasattr(model, "get_base_model"):
        return model  # of transformers, whose `add_adapter` put them there
    return model.get_base_model() if hasattr(model, "get_base_model") else model.model


def hint(model: nn.Module) -> str:
    """Name the part of a wrapper that is a model with a known type."""
    for path, module in model.named_modules():
        if path and hasattr(module, "config") and hasattr(module, "base_model_prefix"):
            inside = f"model.{path}"
            return f" give the transformers model inside: {inside} (a cut of it is a cut of this);"
    return ""


def quantized(config: Any) -> str | None:
    """Say why a model is refused whose config names a quantization that is not ours."""
    entry = getattr(config, "quantization_config", None)
    if entry is None:
        return None
    get = entry.get if isinstance(entry, dict) else lambda name: getattr(entry, name, None)
    method = get("quant_method")
    if method == "deadhead":
        return None
    return f"its weights are quantized ({method}); prune the full-precision model, then quantize"
