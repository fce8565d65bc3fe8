"""Ways to run a model, or its towers, so that its attention modules run."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from deadhead.derivation.inputs import SAMPLES, Inputs
from deadhead.derivation.makers import make, widen
from deadhead.derivation.promotion import exact
from deadhead.errors import UnsupportedModelError
from deadhead.files import one_line

ATTEMPTS = 14  # runs of one module, each with an argument more, fewer or of another shape
MAIN = (
    "input_ids",
    "decoder_input_ids",
    "pixel_values",
    "input_features",
    "input_values",
    "image_grid_thw",
    "mm_token_type_ids",
    "bbox",
)  # arguments that are given if forward takes them
CROSSING = ("encoder_hidden_states", "cross_attention_states", "image_hidden_states")
EXCLUSIVE = (("input_ids", "inputs_embeds"), ("decoder_input_ids", "decoder_inputs_embeds"))
UNMATCHED = re.compile(r"tokens: ?(\d+),?\s+features:? ?(\d+)")


@dataclass(frozen=True)
class Exercise:
    """One way to run a model or a part of it.

    Attributes:
        path: dotted name of the module to call; "" for the whole model.
        kwargs: arguments of the call.
    """

    path: str
    kwargs: dict[str, Any]


def exercises(model: PreTrainedModel) -> list[Exercise]:
    """Find inputs for a model, and for its towers if their attention has not run.

    The whole model comes first (unless no inputs were found for it), then, for attention modules
    that have not run, the smallest `PreTrainedModel` around each that could be run on its own.
    A statement about the outputs of a tower is one about the model, which is a function of them.

    Cost: up to some dozens of forward passes without gradients.
    """
    found: list[Exercise] = []
    missing = set(attention_modules(model))
    tried: set[str] = set()
    for path in _candidates(model, ""):
        missing = _extend(model, path, found, missing)
        tried.add(path)
    for module in sorted(missing):
        for path in _candidates(model, module):
            if module in missing and path not in tried:
                tried.add(path)
                missing = _extend(model, path, found, missing)
    return found


def _candidates(model: PreTrainedModel, module: str) -> Iterator[str]:
    """Yield the paths of the pretrained models around a module, the smallest first."""
    parts = module.split(".")
    for length in range(len(parts), -1, -1):
        path = ".".join(parts[:length])
        if (path or length == 0) and isinstance(model.get_submodule(path), PreTrainedModel):
            yield path


def _extend(
    model: PreTrainedModel, path: str, found: list[Exercise], missing: set[str]
) -> set[str]:
    """Add the best exercise of a path, if it runs anything new; return what is still missing."""
    part = model.get_submodule(path)
    best: tuple[set[str], Exercise] | None = None
    for names in _beginnings(part):
        kwargs = find_inputs(part, names)
        if kwargs is None:
            continue
        exercise = Exercise(path, kwargs)
        left = missing & set(not_exercised(model, [exercise]))
        if best is None or len(left) < len(best[0]):
            best = left, exercise
        if not left:
            break
    if best is not None and (path == "" or len(best[0]) < len(missing)):
        found.append(best[1])
        return best[0]
    return missing


def _beginnings(module: nn.Module) -> Iterator[list[str]]:
    """Yield the arguments to begin with: all that are common, the main one, the required ones."""
    parameters = _parameters(module)
    required = [name for name, p in parameters.items() if p.default is p.empty]
    main = getattr(module, "main_input_name", "input_ids")
    decoder = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    common = [n for n in MAIN if n in parameters and (n != "decoder_input_ids" or decoder)]
    crossing = [name for name in CROSSING if name in parameters]
    sounds = [name for name in common if not name.startswith(("pixel", "image"))]
    beginnings = [
        [*required, *common],
        [*required, *common, *crossing],
        [*required, *sounds],
        [*required, main],
        required,
    ]
    seen = []
    for names in beginnings:
        names = [name for name in dict.fromkeys(names) if name in parameters]
        if names and set(names) not in seen:
            seen.append(set(names))
            yield names


def _parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    signature = inspect.signature(module.forward)
    return {name: p for name, p in signature.parameters.items() if p.kind not in kinds}


def find_inputs(module: nn.Module, names: Sequence[str]) -> dict[str, Any] | None:
    """Find arguments with which a module runs, beginning with some names; None if none were found.

    Each error message says what to try next: a missing argument, placeholders for features, or
    another shape of the images or the audio.
    """
    parameters = _parameters(module)
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float64)
    grids = any("grid_thw" in name for name in parameters)
    inputs = Inputs(getattr(module, "config", None), dtype, grids)
    chosen = dict.fromkeys(names)
    for _ in range(ATTEMPTS):
        kwargs = {name: make(inputs, name) for name in chosen}
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        error = _error_of(module, kwargs)
        if error is None:
            return kwargs
        if not _mend(error, chosen, inputs, parameters):
            return None
    return None


def need_exercises(model: PreTrainedModel) -> list[Exercise]:
    """Find inputs for a model as `exercises` does.

    Raises:
        UnsupportedModelError: there are none; says what its forward takes, and what it says of the
            inputs that were tried first.
    """
    found = exercises(model)
    if found:
        return found
    names = next(_beginnings(model), [])
    inputs = Inputs(model.config, model.dtype)
    given = {name: make(inputs, name) for name in names}
    error = _error_of(model, {name: value for name, value in given.items() if value is not None})
    said = one_line(f"{type(error).__name__}: {error}", longest=160)
    raise UnsupportedModelError(
        f"no inputs were found with which a tiny {model.config.model_type!r} runs: given"
        f" {', '.join(names) or 'nothing'}, {type(model).__name__} says {said}"
    )


def perform(model: PreTrainedModel, exercise: Exercise) -> Any:
    """Run an exercise and return what the module returns, the same each time.

    The default dtype of torch is that of the model meanwhile, since some models make tensors of the
    default dtype, and a model in float64 casts nothing to float32; the random state is as it was
    afterwards.
    """
    module = model.get_submodule(exercise.path)
    before = torch.get_default_dtype()
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            with exact(module):
                return module(**exercise.kwargs)
        finally:
            torch.set_default_dtype(before)


def _error_of(module: nn.Module, kwargs: dict[str, Any]) -> Exception | None:
    part: Any = module
    with torch.no_grad():
        try:
            perform(part, Exercise("", kwargs))
        except Exception as error:  # whatever a model says of inputs that do not fit
            return error
    return None


def _mend(
    error: Exception,
    chosen: dict[str, None],
    inputs: Inputs,
    parameters: dict[str, inspect.Parameter],
) -> bool:
    """Change the arguments as an error suggests; False if it suggests nothing."""
    message = str(error)
    unmatched = UNMATCHED.search(message)
    if unmatched:
        kind = next((k for k in ("video", "audio") if k in message.lower()), "image")
        count = int(unmatched[2]) // SAMPLES
        if inputs.lengths.get(kind) == count:  # some messages count numbers, not features
            count //= inputs.number(inputs.text, "hidden_size", "d_model", default=count)
        if inputs.special(kind) is not None and count > 0:
            inputs.lengths[kind] = count
            return True
    named = _suggested(error, parameters)
    if "both" in message and "same time" in message and set(named) & set(chosen):
        chosen.pop(next(name for name in named if name in chosen))
        return True
    for name in named:
        excluded = any(name in pair and set(pair) & set(chosen) for pair in EXCLUSIVE)
        if name not in chosen and not excluded and make(inputs, name) is not None:
            chosen[name] = None
            return True
    if widen(inputs, message, list(chosen)):
        return True
    for name in (
        "pixel_values",
        "pixel_values_videos",
        "input_features",
        "input_values",
        "input_ids",
        "past_values",
    ):
        if name in chosen and inputs.vary(name):
            return True
    return False


def _suggested(error: Exception, parameters: dict[str, inspect.Parameter]) -> list[str]:
    """Return the arguments that a message names, or that the failing line uses."""
    words = re.findall(r"\w+", str(error))
    if "NoneType" in words:
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            words += re.findall(r"\w+", frame.line or "")
    return [word for word in words if word in parameters]


def attention_modules(model: nn.Module) -> list[str]:
    """Return the paths of the modules that attend: by the name of their class, or by a softmax."""
    return [path for path, module in model.named_modules() if _attends(type(module))]


@cache
def _attends(kind: type[nn.Module]) -> bool:
    if kind.forward is nn.Module.forward or issubclass(kind, PreTrainedModel):
        return False
    if re.search(r"Loss|Matcher", kind.__name__):
        return False
    if re.search(r"Attention|Attn", kind.__name__):
        return True
    try:
        return "softmax" in inspect.getsource(kind.forward)
    except (OSError, TypeError):
        return False


def not_exercised(model: PreTrainedModel, found: Sequence[Exercise]) -> list[str]:
    """Return the paths of the attention modules that no exercise runs.

    Cost: one forward pass per exercise, without gradients.
    """
    ran: set[str] = set()
    with _recorded(model, ran):
        for exercise in found:
            _error_of(model.get_submodule(exercise.path), exercise.kwargs)
    return [
        path
        for path in attention_modules(model)
        if path not in ran and not any(other.startswith(f"{path}.") for other in ran)
    ]


@contextmanager
def _recorded(model: nn.Module, ran: set[str]) -> Iterator[None]:
    """Write the paths of all modules that run into a set."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    hooks = [
        module.register_forward_hook(lambda *_, names=tuple(names): ran.update(names))
        for module, names in paths.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
