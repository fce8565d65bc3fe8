"""A cut model as an ONNX graph: encoders, decoders with their past, and whole encoder-decoders."""

from __future__ import annotations

import copy
import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from deadhead.errors import MissingDependencyError, UnsupportedModelError
from deadhead.exports.formats import FORMATS, Format
from deadhead.exports.run_onnx import PAST, PRESENT
from deadhead.exports.verify import KEEP_IT, Trial, calls_of, start_of
from deadhead.files import one_line
from deadhead.models.hooks import eval_mode
from deadhead.models.purpose import is_causal_lm

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # ONNX Runtime sums in another order than torch
NEW_TOKENS = 12
PAST_TOKENS, LESS_TOKENS = 5, 2  # of the example that is traced: no two axes have the same size
TEXT = ("batch", "sequence")
AXES = {
    **dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "position_ids"), TEXT),
    **dict.fromkeys(("bbox", "mm_token_type_ids"), TEXT),
    **dict.fromkeys(("decoder_input_ids",), ("batch", "decoder_sequence")),
    "input_values": ("batch", "samples"),
}
LACKING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


@dataclass(frozen=True)
class Signature:
    """What a graph takes and returns.

    Attributes:
        call: arguments to trace it with, by name.
        outputs: names of what it returns, before the keys and values.
        past: keys and values of a past, one pair per layer; empty for models without one.
    """

    call: dict[str, Tensor]
    outputs: tuple[str, ...]
    past: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all arguments, in order."""
        return (*self.call, *(f"{PAST}{n}" for n in self._names))

    @property
    def results(self) -> tuple[str, ...]:
        """Names of everything that is returned, in order."""
        return (*self.outputs, *(f"{PRESENT}{n}" for n in self._names))

    @property
    def _names(self) -> list[str]:
        return [f"{i}.{part}" for i in range(len(self.past)) for part in ("key", "value")]

    @property
    def axes(self) -> list[dict[int, str]]:
        """Names of the axes that may have any size, per argument."""
        named = {name: dict(enumerate(AXES.get(name, ("batch",)))) for name in self.call}
        if self.past and "attention_mask" in named:
            named["attention_mask"][1] = "total_sequence"
        return [*named.values(), *([{0: "batch", 2: "past_sequence"}] * 2 * len(self.past))]


class _Traced(nn.Module):
    """A model that takes and returns plain tensors in the order of a signature."""

    def __init__(self, model: nn.Module, signature: Signature):
        super().__init__()
        self.model = model
        self.signature = signature
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the model with a past made of the last tensors."""
        names, pairs = self.signature.call, len(self.signature.past)
        given: dict[str, Any] = dict(zip(names, tensors[: len(names)], strict=True))
        rest = tensors[len(names) :]
        if pairs:
            past = [(rest[2 * i], rest[2 * i + 1]) for i in range(pairs)]
            given |= {"past_key_values": DynamicCache(past), "use_cache": True}
        found = self.model(**given)
        layers = found.past_key_values.layers if pairs else ()
        kept = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        return (*(found[name] for name in self.signature.outputs), *kept)


def check_onnx_packages() -> None:
    """Refuse before any work if a package is not installed.

    Raises:
        MissingDependencyError: says what to install.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"the format 'onnx' needs {missing[0]}, which is not installed; pip install"
            ' "deadhead[onnx]"'
        )


def in_float32(model: nn.Module) -> nn.Module:
    """Return a model in float32, itself if it is: ONNX Runtime on CPUs has all operators for it."""
    check_onnx_packages()
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return model if types == {torch.float32} else copy.deepcopy(model).float()


def write_onnx(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write `model.onnx`, the config of the architecture and the tokenizer into a folder.

    Raises:
        UnsupportedModelError: ONNX has no operator for a step (says which), or torch cannot trace
            the model.
    """
    calls, _ = calls_of(model)
    with eval_mode(model), torch.no_grad(), _traceable(model), _quiet():
        signature = signature_of(model, calls)
        pairs = [tensor for pair in signature.past for tensor in pair]
        try:
            made: Any = torch.onnx.export(
                _Traced(model, signature),
                (*signature.call.values(), *pairs),
                dynamo=True,
                verbose=False,
                input_names=list(signature.inputs),
                output_names=list(signature.results),
                dynamic_shapes=(tuple(signature.axes),),
            )
        except Exception as error:  # the tracer runs the model's code, which has errors of its own
            raise _refusal(type(model).__name__, error) from error
        folder.mkdir(parents=True)
        made.save(folder / "model.onnx")
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)  # no weights here that it could describe
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def onnx_trial(model: Any) -> Trial:
    """Run the model on inputs of several sizes, and write on without a past."""
    calls, prompts = calls_of(model)
    with eval_mode(model), torch.no_grad():
        signature = signature_of(model, calls)
        calls = [_completed(call, signature) for call in calls]
        calls.append(_resized(calls[-1]))
        expected = {}
        for number, call in enumerate(calls):
            found = model(**call)
            expected |= {f"{number}.{name}": found[name] for name in signature.outputs}
        start = start_of(model) if model.config.is_encoder_decoder else None
        if prompts is not None:
            expected["tokens"] = _greedy(model, prompts, start)
        settings = {"new_tokens": NEW_TOKENS, "start": start}
    return Trial("run_onnx.py", calls, expected, prompts, settings, TOLERANCE)


def signature_of(model: Any, calls: list[dict[str, Tensor]]) -> Signature:
    """Find what a model takes and returns; a model that continues text also takes its past.

    Cost: one or two forward passes.
    """
    call = dict(max(calls, key=len))
    kinds = getattr(model.config.get_text_config(), "type_vocab_size", None) or 0
    if kinds > 1 and "input_ids" in call:
        call["token_type_ids"] = torch.zeros_like(call["input_ids"])
    names = tuple(name for name, value in model(**call).items() if _is_floating(value))
    if not is_causal_lm(model) or set(call) != {"input_ids", "attention_mask"}:
        return Signature(call, names)
    ids = call["input_ids"]
    past = model(input_ids=ids, use_cache=True).get("past_key_values")
    if past is None:
        return Signature(call, names)
    ids = ids[:, LESS_TOKENS:]
    call = {"input_ids": ids, "attention_mask": ids.new_ones(len(ids), PAST_TOKENS + ids.shape[1])}
    if "position_ids" in inspect.signature(model.forward).parameters:
        positions = torch.arange(ids.shape[1], device=ids.device) + PAST_TOKENS
        call["position_ids"] = positions.repeat(len(ids), 1)
    return Signature(call, names, tuple(_past_of(layer) for layer in past.layers))


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _past_of(layer: Any) -> tuple[Tensor, Tensor]:
    """Make keys and values like those that a layer of a cache holds, of another length."""
    kept = [getattr(layer, name, None) for name in ("keys", "values")]
    pair = [tensor for tensor in kept if tensor is not None and tensor.dim() == 4]
    if not isinstance(layer, DynamicLayer) or len(pair) != 2:
        raise UnsupportedModelError(
            f"the format 'onnx' passes on keys and values that grow token by token, and this model"
            f" remembers a {type(layer).__name__}; {KEEP_IT}"
        )
    keys, values = (k.new_zeros(*k.shape[:2], PAST_TOKENS, k.shape[3]) for k in pair)
    return keys, values


def _completed(call: dict[str, Tensor], signature: Signature) -> dict[str, Tensor]:
    """Say outright what models assume of arguments that are not given."""
    filled = dict(call)
    ids = call.get("input_ids")
    if ids is not None:
        made = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        mask = filled.get("attention_mask", made["attention_mask"])
        made["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        filled = {name: made[name] for name in signature.call if name in made} | filled
    return filled


def _resized(call: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make a call with another number of samples and, of text alone, of tokens."""
    short = all(name in AXES for name in call)
    made = {name: value[[0, *range(len(value))]] for name, value in call.items()}
    return {name: value[:, :-1] if short else value for name, value in made.items()}


def _greedy(model: Any, prompts: Tensor, start: int | None) -> Tensor:
    """Write on from prompts, or from a start token beside them, without a past."""
    read = {} if start is None else {"input_ids": prompts}
    name = "input_ids" if start is None else "decoder_input_ids"
    tokens = prompts if start is None else torch.full_like(prompts[:, :1], start)
    for _ in range(NEW_TOKENS):
        logits = model(**read, **{name: tokens}).logits
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    return tokens


@contextmanager
def _traceable(model: Any) -> Iterator[None]:
    """Compute all experts of a mixture at once: which ones are chosen depends on the data."""
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    if not any(part._can_set_experts_implementation() for part in parts):
        yield
        return
    before = model.get_experts_implementation()
    model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch's exporter says about packages and axes that are not used."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _refusal(name: str, error: Exception) -> UnsupportedModelError:
    """Say which operator ONNX lacks, or what the tracer said."""
    reasons: list[BaseException] = [error]
    while reasons[-1].__cause__ is not None:
        reasons.append(reasons[-1].__cause__)
    lacking = next((found for e in reasons if (found := LACKING.search(str(e)))), None)
    if lacking:
        return UnsupportedModelError(
            f"a {name} uses the operator {lacking[1]!r}, which ONNX lacks; {KEEP_IT}"
        )
    return UnsupportedModelError(
        f"torch cannot trace a {name} for ONNX ({one_line(reasons[-1], longest=200)}); {KEEP_IT}"
    )


FORMATS.register(
    "onnx",
    Format(
        write_onnx,
        "Weights are in float32. Axes of samples and tokens may have any size; `past_key_values` of"
        " a decoder have the number of heads that each layer still has, 0 tokens long at first.",
        loading='import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}/model.onnx")',
        library="onnx",
        prepare=in_float32,
        trial=onnx_trial,
    ),
)
