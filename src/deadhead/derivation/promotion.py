"""Models that cast to float32 inside are computed in float64 throughout, so that laws are sharp."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def exact(model: nn.Module) -> AbstractContextManager[Any]:
    """Let a float64 model compute in float64 throughout; leave others as they are."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return _Promoted() if kinds == {torch.float64} else nullcontext()


class _Promoted(TorchFunctionMode):
    """Compute in float64 what a model casts to float32, so that laws hold to rounding."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.float:
            func = Tensor.double
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        if func in (Tensor.to, Tensor.type):
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        return func(*args, **kwargs)
