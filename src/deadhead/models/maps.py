"""Attention maps during the forward pass: one chunk of one block in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.errors import ScoreError, UnsupportedModelError
from deadhead.models.heads import HeadModel
from deadhead.models.hooks import Note

MapFn = Callable[[int, slice, Tensor, Tensor | None], None]

_BACKEND = "deadhead_maps"
_CHUNK = 1 << 21  # elements of attention maps that are held at once


@contextmanager
def hook_maps(view: HeadModel, fn: MapFn) -> Iterator[None]:
    """Call `fn(block, rows, maps, visible)` on the attention maps of every block.

    Shape: `rows` are samples of the batch; `maps` is (rows, heads now, query, key), each row
    a probability distribution; `visible` is (rows or 1, 1, query, key), True where a query may
    look, or None where every query sees every key.
    Cost: the forward pass, with attention computed chunk by chunk, so that only one chunk of maps
    is in memory. Models that build their own maps (BLOOM) keep one block's maps in any case.

    The context switches the model's attention backend and switches it back.

    Raises:
        UnsupportedModelError: the record of a custom module does not say where its maps are;
            or something bypasses the hooks.
        ScoreError: a block returned no maps.
    """
    _check_shown(view)

    def shown(number: int, rows: slice, maps: Tensor, visible: Tensor | None) -> None:
        block = view.blocks[number]
        fn(number, rows, maps[:, block.original.heads] if block.record.padded else maps, visible)

    with ExitStack() as stack:
        if any(record.maps == "interface" for record in view.records):
            _register_backend()
            stack.enter_context(_switched(view.model, _BACKEND))
        elif hasattr(view.model, "set_attn_implementation"):
            stack.enter_context(_switched(view.model, "eager"))  # no other returns maps
        modules = {n: block.attention for n, block in enumerate(view.blocks) if block.n_heads}
        note = stack.enter_context(view.hooked(modules))
        for number, attention in modules.items():
            if view.blocks[number].record.maps == "interface":
                stack.enter_context(_told(attention, (number, shown, note)))
            else:
                hook = _reader(number, shown, note)
                handle = attention.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _check_shown(view: HeadModel) -> None:
    for record in view.records:
        maps, interface = record.maps, hasattr(view.model, "set_attn_implementation")
        if maps == "none" or (maps == "interface" and not interface):
            advice = 'let its attention return (output, maps) and set maps="output"'
            if record.derived:
                advice = "choose what needs no maps, e.g. the criterion taylor, fisher or magnitude"
            raise UnsupportedModelError(
                f"the attention maps of {record.model_type!r} cannot be seen: its record has"
                f" maps={maps!r}; {advice}"
            )


@contextmanager
def _switched(model: Any, backend: str) -> Iterator[None]:
    """Switch the attention of every part of a model, and each part back to what it had."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    model.set_attn_implementation(backend)
    try:
        yield
    finally:
        for config, value in before:  # the outer ones first, as they set those inside
            config._attn_implementation = value


@contextmanager
def _told(attention: nn.Module, watcher: tuple[int, MapFn, Note]) -> Iterator[None]:
    """Tell our backend who watches an attention module; contexts nest."""
    before = attention.__dict__.get(_BACKEND, ())
    attention.__dict__[_BACKEND] = (*before, watcher)
    try:
        yield
    finally:
        attention.__dict__[_BACKEND] = before
        if not before:
            del attention.__dict__[_BACKEND]


def _register_backend() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(_BACKEND, _attend)
    AttentionMaskInterface.register(_BACKEND, eager_mask)


def _attend(
    module: nn.Module,
    query: Tensor,  # (batch, heads, query, head_dim)
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    watchers = module.__dict__.get(_BACKEND, ())  # none: it belongs to no stack
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    chunks = []
    for rows in _chunks(query.shape[0], query.shape[1] * query.shape[2] * key.shape[2]):
        scores = (query[rows] @ key[rows].transpose(-1, -2)).mul_(scale)
        mask = None if attention_mask is None else _of(attention_mask, rows)
        if mask is not None:
            scores = scores.add_(mask)
        maps = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        del scores
        for number, fn, note in watchers:
            note(number, module)
            fn(number, rows, maps.detach(), _visible(mask))
        chunks.append(maps.to(value.dtype) @ value[rows])
    return torch.cat(chunks).transpose(1, 2).contiguous(), None


def _reader(number: int, fn: MapFn, note: Note) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        note(number, module)
        maps = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(maps, Tensor):
            raise ScoreError(
                f"{type(module).__name__} returns no attention maps; a module registered with"
                ' maps="output" returns (output, maps), maps (batch, heads, query, key)'
            )
        mask = kwargs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 4 else None
        for rows in _chunks(maps.shape[0], maps[0].numel()):
            visible = None if mask is None else _visible(_of(mask, rows))
            fn(number, rows, maps[rows].detach(), visible)

    return hook


def _chunks(batch: int, elements_per_row: int) -> Iterator[slice]:
    size = max(1, _CHUNK // max(1, elements_per_row))
    return (slice(i, min(i + size, batch)) for i in range(0, batch, size))


def _of(mask: Tensor, rows: slice) -> Tensor:
    return mask[rows] if mask.shape[0] > 1 else mask


def _visible(mask: Tensor | None) -> Tensor | None:
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask > torch.finfo(mask.dtype).min / 2
