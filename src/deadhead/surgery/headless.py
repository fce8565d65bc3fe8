"""An attention block that has lost every head: it adds the output bias and attends to nothing."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from deadhead.architectures import Architecture, project_nothing


class Headless:
    """Mixed into the class of an attention module, in front of it: replaces its forward."""

    deadhead_architecture: Architecture
    deadhead_output: Any  # a function, so that the projection is not registered a second time

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return (what the block adds, attention maps of no heads)."""
        _remember_tokens(self, hidden_states, (*args, *kwargs.values()))
        headless = self.deadhead_architecture.headless
        if headless is None:
            result = project_nothing(self.deadhead_output(), hidden_states)
        else:
            result = headless(self, hidden_states, args)  # type: ignore[arg-type]
        batch, tokens = hidden_states.shape[:2]
        return result, hidden_states.new_zeros(batch, 0, tokens, tokens)


def _remember_tokens(attention: Any, hidden: Tensor, arguments: tuple[Any, ...]) -> None:
    """Put one number per token into the cache, so that it goes on counting tokens.

    Caches take the number of tokens seen from their first layer, which may be this one.
    """
    for cache in arguments:
        if hasattr(cache, "get_seq_length") and hasattr(cache, "update"):
            token = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[1], 1)
            cache.update(token, token, attention.layer_idx)


@functools.cache
def _headless_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type(f"Headless{cls.__name__}", (Headless, cls), {})


def behead_(attention: nn.Module, architecture: Architecture) -> None:
    """Make an attention module skip attention, in place; its children and names stay."""
    attention.__class__ = _headless_class(type(attention))
    attention.deadhead_architecture = architecture  # type: ignore[assignment]
    if architecture.headless is None:
        path = architecture.output.removeprefix(f"{architecture.attention}.")
        attention.deadhead_output = functools.partial(attention.get_submodule, path)  # type: ignore[assignment]
