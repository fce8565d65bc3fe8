"""Pickles read as data: tensors, arrays and plain containers, and nothing else is ever called.

A pickle is a program: `GLOBAL` fetches any function and `REDUCE` calls it. Here every name that a
file of numbers may hold stands in one table beside a function of ours, so that no object of torch
or numpy is reached by name, and arrays are built from their bytes only after the program has ended.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch

from deadhead.errors import DeadheadError, FileFormatError
from deadhead.files import as_path, one_line, read_bytes
from deadhead.files.reading import LARGEST

_LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_MOST = 2**24  # numbers of a tensor: a view can claim any size over one
_ZIP = b"PK\x03\x04"
_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)")
# how an object is made of a class, an extension code or an outer store: no table needs it
_NEVER = (
    pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.INST + pickle.OBJ + pickle.NEWOBJ
    + pickle.NEWOBJ_EX + pickle.PERSID + pickle.BINPERSID + pickle.NEXT_BUFFER
    + pickle.READONLY_BUFFER
)  # fmt: skip


def unpickle(path: str | Path) -> Any:
    """Read a pickled or `torch.save`d file of numbers without running anything in it.

    Tensors, numpy arrays of whole and floating-point numbers, numbers, texts, and lists, tuples,
    sets and dicts of these. Tensors come to the CPU, without gradients or hooks. `torch.save` files
    are left to `torch.load(weights_only=True)`.

    Not covered: arrays of objects, structured arrays, sparse and quantized tensors in plain
    pickles, and pickles of Python 2.

    Raises:
        DataError: there is no such file.
        FileFormatError: it wants to call anything else, or is damaged, too large or no pickle.
    """
    path = as_path(path, "a table of numbers")
    return unpickle_bytes(read_bytes(path, "a table of numbers"), str(path))


def unpickle_bytes(content: bytes, name: str) -> Any:
    """Do what `unpickle` does with a file's content; `name` is for messages.

    Raises:
        FileFormatError: as `unpickle`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on its own old storages
            if content.startswith((_ZIP, _LEGACY)):
                return _load_torch(content)
            return _finished(_Reader(io.BytesIO(content), len(content)).load(), {})
    except _RefusedError as error:
        raise FileFormatError(
            f"{name!r} wants to run {error}; a file of numbers has no business doing that;"
            " convert it to .npy where you trust it"
        ) from error
    except DeadheadError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        reason = one_line(error) or type(error).__name__
        raise FileFormatError(
            f"{name!r} is damaged or no pickle of numbers ({reason}); make it again, or convert it"
            " to .npy"
        ) from error


class _RefusedError(Exception):
    """The name of what a file wanted to call."""


class _Reader(pickle._Unpickler):
    """Interpret a pickle with the names of `REBUILD` only.

    In Python: the interpreter in C calls `__setstate__` and extensions without `find_class`.
    """

    stack: list[Any]  # the base class makes these when it loads
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO, size: int) -> None:
        super().__init__(file)
        self.size = size

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table; dots are no path here."""
        if (module, name) not in REBUILD:
            raise _RefusedError(one_line(f"{module}.{name}"))
        return REBUILD[module, name]

    def load_reduce(self) -> None:
        """Call one of our functions."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is ours for ours in REBUILD.values()):
            raise UnpicklingError("it calls something that is no function")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        """Give a state to one of our stand-ins; dicts lose what was attached to them."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Rebuilt):
            self.stack[-1].set_state(state)
        elif type(self.stack[-1]) is not dict:
            raise UnpicklingError(f"it sets a state of {type(self.stack[-1]).__name__}")

    def load_bytearray8(self) -> None:
        """Read bytes, of which there are not more than the file has."""
        n = int.from_bytes(self.read(8), "little")
        if n > self.size:
            raise UnpicklingError("it is cut off")
        self.append(bytes(self.read(n)))

    def refuse(self) -> None:
        """Stop at an instruction that makes objects in other ways."""
        raise _RefusedError("code that makes objects of unknown classes")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch.update(dict.fromkeys(_NEVER, refuse))


def _load_storage(content: bytes) -> Any:
    """Read the storage of a plainly pickled tensor, where torch itself would unpickle anything."""
    torchs = isinstance(content, bytes) and content.startswith((_ZIP, _LEGACY))
    found = _load_torch(content) if torchs else None
    if not isinstance(found, torch.storage.TypedStorage):
        raise UnpicklingError("a storage is not what torch wrote")
    return found


def _load_torch(content: bytes) -> Any:
    """Read what `torch.save` wrote, with torch's own restricted reader."""
    if content.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise UnpicklingError("unpacked it is too large")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = _REFUSED.search(str(error))
        if found is None:  # torch's own words advise to load it unrestricted
            raise UnpicklingError("torch finds more than tensors in it") from error
        raise _RefusedError(one_line(found[1])) from error


def _finished(found: Any, done: dict[int, Any]) -> Any:
    """Turn stand-ins into arrays, at any depth; `done` keeps what is met twice from growing."""
    key = id(found)
    if key in done:
        if done[key] is done:
            raise UnpicklingError("it contains itself")
        return done[key]
    done[key] = done
    result = found
    if isinstance(found, Rebuilt):
        result = found.value()
    elif isinstance(found, dict):
        result = {_finished(k, done): _finished(v, done) for k, v in found.items()}
    elif isinstance(found, (list, tuple, set, frozenset)):
        result = type(found)([_finished(each, done) for each in found])
    elif callable(found):
        raise UnpicklingError("it is a function")
    done[key] = result
    return result


class Rebuilt:
    """Something that a pickle describes in steps, checked before numpy or torch sees it."""

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
    last = start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) > _MOST or (math.prod(shape) and last >= storage._size()):
        raise UnpicklingError("a tensor is larger than its storage, or than any table")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage._untyped_storage, start, shape, strides)  # pyright: ignore


def _sizes(given: Any) -> tuple[int, ...]:
    """Check a shape, strides or axes."""
    sizes = tuple(given)
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise UnpicklingError(f"it holds numbers in a shape of {sizes!r:.40}")
    return sizes


REBUILD: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): lambda items=(): dict(items),
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch.storage", "_load_from_bytes"): _load_storage,
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
