"""Hooks for attention modules that are handed something with a row per original head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

ROWS_FIRST = ("alibi", "position_bias")  # arguments of three dimensions that begin with heads
TABLE = "relative_attention_bias"  # T5's table of position biases, which later blocks share


class SelectArguments:
    """Forward pre-hook: give an attention module the rows of its own heads only.

    Covers position biases, ALiBi and masks that are (batch or 1, original heads, query, key), and
    the arguments of `ROWS_FIRST` also as (original heads, ...) or (batch * original heads, ...).
    """

    def __init__(self, kept: tuple[int, ...], count: int):
        self.kept, self.count = kept, count

    def __call__(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with rows selected."""
        names = list(inspect.signature(attention.forward).parameters)
        chosen = [self._of(name, value) for name, value in zip(names, args, strict=False)]
        chosen += args[len(chosen) :]
        return tuple(chosen), {name: self._of(name, value) for name, value in kwargs.items()}

    def _of(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() not in (3, 4) or self.count < 2:
            return value
        kept = torch.tensor(self.kept, dtype=torch.long, device=value.device)
        if value.dim() == 4:
            return value.index_select(1, kept) if value.shape[1] == self.count else value
        if name not in ROWS_FIRST or value.shape[0] % self.count:
            return value
        rows = value.reshape(-1, self.count, *value.shape[1:]).index_select(1, kept)
        return rows.reshape(-1, *value.shape[1:])


class SharePositionBias(SelectArguments):
    """Hooks of a T5 attention: a block selects from the position bias that all blocks share.

    The block with the table computes the bias for all original heads, uses its own heads' part and
    passes the whole on. A bias with another number of heads is cross-attention's bias of zeros.
    """

    def before(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Keep the whole bias, hand in this block's part."""
        bias = kwargs.get("position_bias")
        attention.__dict__["deadhead_bias"] = None
        if isinstance(bias, Tensor):
            whole = bias.shape[1] == self.count
            attention.__dict__["deadhead_bias"] = bias if whole else None
            kwargs = {**kwargs, "position_bias": self._of("position_bias", bias) if whole else None}
        return args, kwargs

    def table(self, table: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Keep the whole bias, return this block's part; (query, key, heads)."""
        table.__dict__["deadhead_bias"] = output.permute(2, 0, 1).unsqueeze(0)
        return output[..., list(self.kept)]

    def after(self, attention: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Pass the whole bias on."""
        whole = attention.__dict__.pop("deadhead_bias", None)
        table = getattr(attention, TABLE, None)
        if whole is None and table is not None:
            whole = table.__dict__.pop("deadhead_bias", None)
        if whole is None or not isinstance(output, tuple):
            return output
        return output[0], whole, *output[2:]


def select_arguments(attention: nn.Module, kept: tuple[int, ...]) -> None:
    """Let an attention module select what it is handed per original head, from now on."""
    _unhook(attention)
    count = attention.deadhead_heads.n_heads  # type: ignore[union-attr]
    attention.register_forward_pre_hook(SelectArguments(kept, count), with_kwargs=True)  # pyright: ignore[reportArgumentType]


def share_position_bias(attention: nn.Module, kept: tuple[int, ...]) -> None:
    """Let a T5 attention select from the position bias that its stack shares, from now on."""
    _unhook(attention)
    count = attention.deadhead_heads.n_heads  # type: ignore[union-attr]
    hooks = SharePositionBias(kept, count)  # pyright: ignore[reportArgumentType]
    attention.register_forward_pre_hook(hooks.before, with_kwargs=True)
    attention.register_forward_hook(hooks.after)
    table = getattr(attention, TABLE, None)
    if table is not None:
        _unhook(table)
        table.register_forward_hook(hooks.table)


def select_features(module: nn.Module, index: Tensor) -> None:
    """Let a module return some of its output features only, from now on."""
    _unhook(module)
    module.register_forward_hook(SelectFeatures(tuple(index.tolist())))


class SelectFeatures:
    """Forward hook: keep these output features. For a norm over the heads that were."""

    def __init__(self, kept: tuple[int, ...]):
        self.kept = kept

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the features that are kept."""
        return output[..., list(self.kept)]


class PadFeatures:
    """Forward hook: give outputs their old width again, zeros where features are gone."""

    def __init__(self, kept: tuple[int, ...], size: int):
        self.kept, self.size = kept, size

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the features among zeros."""
        whole = output.new_zeros(*output.shape[:-1], self.size)
        whole[..., list(self.kept)] = output
        return whole


class TakeFeatures:
    """Forward pre-hook: hand on the features that are kept of an input of the old width."""

    def __init__(self, kept: tuple[int, ...], size: int):
        self.kept, self.size = kept, size

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments with features selected."""
        return args[0][..., list(self.kept)], *args[1:]


def pad_features(module: nn.Module, index: Tensor, size: int) -> None:
    """Let a module that lost output features, all but some of `size`, return zeros for them."""
    hook = PadFeatures(*_composed(module._forward_hooks, PadFeatures, index, size))
    _unhook(module)
    module.register_forward_hook(hook)


def take_features(module: nn.Module, index: Tensor, size: int) -> None:
    """Let a module that lost input features, all but some of `size`, take them all the same."""
    hook = TakeFeatures(*_composed(module._forward_pre_hooks, TakeFeatures, index, size))
    _unhook(module)
    module.register_forward_pre_hook(hook)


def _composed(
    hooks: Mapping[int, Any], kind: type, index: Tensor, size: int
) -> tuple[tuple[int, ...], int]:
    """Return which features are kept of how many, all cuts together."""
    before = next((hook for hook in hooks.values() if isinstance(hook, kind)), None)
    kept = tuple(index.tolist())
    return (kept, size) if before is None else (tuple(before.kept[i] for i in kept), before.size)


def first_(module: nn.Module) -> None:
    """Let what a cut has hooked to a module's input come before other hooks, in place."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, TakeFeatures):
            module._forward_pre_hooks.move_to_end(key, last=False)  # type: ignore[attr-defined]


def _unhook(module: nn.Module) -> None:
    """Remove the hooks of an earlier cut."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            owner = getattr(hook, "__self__", hook)
            if isinstance(owner, (SelectArguments, SelectFeatures, PadFeatures, TakeFeatures)):
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
                module._forward_hooks_with_kwargs.pop(key, None)


AFTER_CUT = {f.__name__: f for f in (select_arguments, share_position_bias)}
