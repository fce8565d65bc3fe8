"""An attention block without heads: it adds the output bias and skips attention."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures import project_nothing, records_named
from deadhead.models.blocks import Block
from deadhead.models.heads import HeadModel


class Headless:
    """Mixed into the class of an attention module, in front of it: replaces its forward."""

    deadhead_record: tuple[str, str]  # model type and stack: a record may hold functions

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return (what the block adds, attention maps of no heads), or the first alone."""
        module: Any = self
        _remember_tokens(module, hidden_states, (*args, *kwargs.values()))
        name, stack = self.deadhead_record
        architecture = next(r for r in records_named(name) if r.stack == stack)
        if not callable(architecture.headless):
            path = architecture.output.removeprefix(f"{architecture.attention}.")
            result = project_nothing(module.get_submodule(path), hidden_states)
        else:
            result = architecture.headless(module, hidden_states, args)
        if architecture.maps == "none":
            return result
        batch, tokens = hidden_states.shape[:2]
        return result, hidden_states.new_zeros(batch, 0, tokens, tokens)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the class that the module had, since this one is made on the fly."""
        return _rebuild, (type(self).__mro__[2],), self.__dict__


def _remember_tokens(attention: Any, hidden: Tensor, arguments: tuple[Any, ...]) -> None:
    """Put one number per token into the cache, so that it keeps counting tokens.

    Caches take the number of tokens seen from their first layer, which may be this one.
    """
    for cache in arguments:
        if hasattr(cache, "get_seq_length") and hasattr(cache, "update"):
            token = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)
            cache.update(token, token, attention.layer_idx)


@functools.cache
def _headless_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type(f"Headless{cls.__name__}", (Headless, cls), {})


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    made = _headless_class(cls)
    return made.__new__(made)


def check_headless(view: HeadModel, number: int) -> None:
    """Refuse to remove every head of a block if its return value is then unknown.

    Raises:
        UnsupportedModelError: it is a custom module, and its record does not say.
    """
    record = view.blocks[number].record
    if record.headless == "refused":
        raise UnsupportedModelError(
            f"cannot remove every head of block {number}: the attention of"
            f" {record.model_type!r} needs at least one; keep a head of it, or use the action mask"
        )
    if record.maps == "interface" and not hasattr(view.model, "set_attn_implementation"):
        raise UnsupportedModelError(
            f"cannot remove every head of block {number}: the record of"
            f" {record.model_type!r} does not say what its attention returns; give it"
            ' maps="output" (output, maps) or maps="none" (output alone), or keep a head'
        )


def disable_attention_(block: Block) -> None:
    """Make a block's attention skip attention, in place; its children and names are kept."""
    if block.record.headless == "sliced":
        return
    attention, record = block.attention, block.record
    attention.__class__ = _headless_class(type(attention))
    attention.deadhead_record = (record.model_type, record.stack)  # type: ignore[assignment]
