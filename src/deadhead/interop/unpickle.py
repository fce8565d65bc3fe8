"""Pickles read as data: tensors, arrays and plain containers, and nothing else is ever called.

A pickle is a program: `GLOBAL` fetches any function and `REDUCE` calls it. Here every name that a
file of numbers may hold stands in one table beside a function of ours, so that no object of torch
or numpy is reached by name, and arrays are built from their bytes only after the program has ended.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

from deadhead.errors import DeadheadError, FileFormatError
from deadhead.files import as_path, one_line, read_bytes
from deadhead.files.reading import LARGEST
from deadhead.interop.rebuild import REBUILD, Rebuilt

_LEGACY = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
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

    The interpreter in Python, because the one in C looks into the extension cache, and calls
    `__setstate__` of whatever is on its stack, without asking `find_class`.
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
        found = REBUILD.get((module, name))
        if found is not None:
            return found
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        raise _RefusedError(one_line(f"{module}.{name}"))

    def load_reduce(self) -> None:
        """Call one of our functions."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is ours for ours in (_load_storage, *REBUILD.values())):
            raise pickle.UnpicklingError("it calls something that is no function")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        """Give a state to one of our stand-ins; dicts lose what was attached to them."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Rebuilt):
            self.stack[-1].set_state(state)
        elif type(self.stack[-1]) is not dict:
            raise pickle.UnpicklingError(f"it sets a state of {type(self.stack[-1]).__name__}")

    def load_bytearray8(self) -> None:
        """Read bytes, of which there are not more than the file has."""
        n = int.from_bytes(self.read(8), "little")
        if n > self.size:
            raise pickle.UnpicklingError("it is cut off")
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
    if not isinstance(content, bytes) or not content.startswith((_ZIP, _LEGACY)):
        raise pickle.UnpicklingError("a storage is not what torch wrote")
    found = _load_torch(content)
    if not isinstance(found, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a storage is something else")
    return found


def _load_torch(content: bytes) -> Any:
    """Read what `torch.save` wrote, with torch's own restricted reader."""
    if content.startswith(_ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
                raise pickle.UnpicklingError("unpacked it is too large")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = _REFUSED.search(str(error))
        if found is None:  # torch's own words advise to load it unrestricted
            raise pickle.UnpicklingError("torch finds more than tensors in it") from error
        raise _RefusedError(one_line(found[1])) from error


def _finished(found: Any, done: dict[int, Any]) -> Any:
    """Turn stand-ins into arrays, at any depth; `done` keeps what is met twice from growing."""
    key = id(found)
    if key in done:
        if done[key] is done:
            raise pickle.UnpicklingError("it contains itself")
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
        raise pickle.UnpicklingError("it is a function")
    done[key] = result
    return result
