"""What a pickle of tensors and arrays may call, done by functions and stand-ins of our own.

Numpy's and torch's own functions trust their arguments: a forged dtype or state makes them read
memory as objects. So a stand-in takes what the pickle says, and checks it before numpy or torch
sees it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

# a view can claim any size over one number
_MOST = 2**24


class Rebuilt:
    """Something that a pickle describes in steps."""

    def set_state(self, state: Any) -> None:
        """Take the second step."""
        raise UnpicklingError(f"it sets a state of {type(self).__name__}")

    def value(self) -> Any:
        """Return what was described."""
        raise UnpicklingError(f"it holds {type(self).__name__}, which is no number")


class DType(Rebuilt):
    """The type of numbers, as in `numpy.dtype('f4')`; no objects, records or texts."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1", code):
            raise UnpicklingError(f"it holds an array of {code!r:.40}, not of numbers")
        self.found = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """Take the byte order; all else must be that of plain numbers."""
        _, order, *structure = state
        if order not in ("<", ">", "|", "=") or structure[:3] != [None] * 3:
            raise UnpicklingError("it holds an array of records, not of numbers")
        self.found = self.found.newbyteorder(order)


class Array(Rebuilt):
    """A numpy array, from its bytes."""

    def __init__(self, *_: Any) -> None:
        self.found: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Take shape, type, order and bytes."""
        _, shape, dtype, by_column, content = state
        self.found = _array(content, dtype, shape, "F" if by_column else "C")

    def value(self) -> np.ndarray:
        """Return the array, in the byte order of this machine."""
        if self.found is None:
            raise UnpicklingError("an array has no content")
        return self.found.astype(self.found.dtype.newbyteorder("="))


class _NdArray(Rebuilt):
    """The class `numpy.ndarray`, which is only ever passed on."""


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, DType) or not isinstance(content, bytes):
        raise UnpicklingError("it holds an array of objects, not of numbers")
    return np.frombuffer(content, dtype.found).reshape(_sizes(shape), order=order)  # pyright: ignore


def _from_buffer(content: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Array:
    """Do what numpy pickles of protocol 5 ask `_frombuffer` for."""
    made = Array()
    made.found = _array(content, dtype, shape, "F" if order == "F" else "C")
    if order == "K" and axes is not None:
        made.found = made.found.transpose(_sizes(axes))
    return made


def _scalar(dtype: Any, content: Any) -> int | float | bool:
    return _array(content, dtype, (), "C").item()


def _encode(text: str, encoding: str) -> bytes:
    """Give the bytes that protocol 2 writes as text."""
    if encoding != "latin1":
        raise UnpicklingError(f"it holds text in {encoding!r:.40}")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """View a storage as a tensor; gradients, hooks and metadata are left out."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UnpicklingError("a tensor has no storage")
    shape, strides, (start,) = _sizes(size), _sizes(stride), _sizes((offset,))
    if len(shape) != len(strides) or math.prod(shape) > _MOST:
        raise UnpicklingError("a tensor has sizes and strides that no table has")
    last = start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage._size():
        raise UnpicklingError("a tensor is larger than its storage")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage._untyped_storage, start, shape, strides)  # pyright: ignore


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _dict(items: Iterable[Any] = ()) -> dict[Any, Any]:
    return dict(items)


def _sizes(given: Any) -> tuple[int, ...]:
    """Check a shape, strides or axes."""
    sizes = tuple(given)
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise UnpicklingError(f"it holds numbers in a shape of {sizes!r:.40}")
    return sizes


REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _dict,
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("numpy", "dtype"): DType,
    ("numpy", "ndarray"): _NdArray,
    **{
        (f"{core}.{module}", name): function
        for core in ("numpy.core", "numpy._core")
        for module, name, function in (
            ("multiarray", "_reconstruct", Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
