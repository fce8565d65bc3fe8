"""Compute the last layer for the one token that predictions are read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.inputs import Batch, call, valid_tokens
from deadhead.models.blocks import is_conv1d
from deadhead.models.heads import HeadModel
from deadhead.scoring.replay import Recording, forward_as, tensors_in


@dataclass(frozen=True)
class OneToken:
    """Projections whose results matter for one token of each sample alone.

    Attributes:
        modules: the projections; none: all tokens matter, or it is not known.
        place: of the token in its sample.
        tokens: in each sample.
    """

    modules: Sequence[nn.Module] = ()
    place: int = 0
    tokens: int = 0

    def among(self, tokens: int) -> OneToken:
        """Return the same end of samples of another length."""
        return replace(self, place=tokens - 1 if self.place else 0, tokens=tokens)

    @contextmanager
    def alone(self, fill: float = 0.0) -> Iterator[None]:
        """Project that token alone; the results for the others are `fill`."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(forward_as(module, self._alone(module.forward, fill)))
            yield

    def _alone(self, forward: Callable[..., Tensor], fill: float) -> Callable[..., Tensor]:
        def one(*args: Any, **kwargs: Any) -> Tensor:
            if kwargs or not self.fits(args):
                return forward(*args, **kwargs)
            (x,) = args
            result = forward(x[:, self.place])
            whole = result.new_full((len(x), self.tokens, result.shape[-1]), fill)
            whole[:, self.place] = result
            return whole

        return one

    def fits(self, args: tuple[Any, ...]) -> bool:
        """Whether a projection was given these samples' tokens side by side, and nothing else."""
        x = args[0] if len(args) == 1 else None
        return isinstance(x, Tensor) and x.dim() == 3 and x.shape[1] == self.tokens


def one_token(view: HeadModel, batch: Batch, outputs: Any, recording: Recording) -> OneToken:
    """Find the token that every prediction is read from: the first (BERT) or the last (GPT-2).

    This is tested: with NaN for all other tokens in every projection of the last layer (except keys
    and values), the model has to return the same. So a model that pools over tokens, or mixes them
    after attention, is computed whole.

    Cost: a small part of the last layer, if the model gives one prediction a sample; else nothing.
    """
    before, (samples, tokens) = tensors_in(outputs), valid_tokens(batch).shape
    last = recording.last
    by_sample = before and all(x.dim() == 2 and len(x) == samples for x in before)
    if not by_sample or tokens < 2 or last is None:
        return OneToken()
    modules = _projections(view, last)
    for place in (0, tokens - 1):
        tried = OneToken(modules, place, tokens)
        seen: list[nn.Module] = []
        with ExitStack() as stack:
            for module in modules:
                hook = _noted(tried, seen)
                stack.callback(module.register_forward_pre_hook(hook).remove)
            stack.enter_context(tried.alone(torch.nan))
            stack.enter_context(recording.replaying(last, 1, attention=False))
            after = tensors_in(call(view.model, batch))
        pairs = zip(before, after, strict=True)
        if all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs):  # NaN is not close
            return OneToken(tuple(seen), place, tokens)
    return OneToken()


def _projections(view: HeadModel, last: int) -> list[nn.Module]:
    """Return the last layer's projections that no other part of the model shares."""
    block = view.blocks[last]
    uses = Counter(m for _, m in view.model.named_modules(remove_duplicate=False))
    return [
        module
        for module in view.model.get_submodule(block.name).modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module))
        and uses[module] == 1
        and module is not block.key
        and module is not block.value
    ]


def _noted(tried: OneToken, seen: list[nn.Module]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if tried.fits(args) and module not in seen:
            seen.append(module)

    return hook
