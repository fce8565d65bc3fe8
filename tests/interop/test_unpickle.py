"""Pickles that try to run something. Each would create the file `pwned`, and none may."""

from __future__ import annotations

import collections
import copyreg
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from deadhead.errors import DataError, FileFormatError
from deadhead.interop import unpickle
from deadhead.interop.unpickle import LARGEST

TABLE = np.arange(6.0).reshape(2, 3)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


def written(tmp_path, content):
    path = tmp_path / "table.pkl"
    path.write_bytes(content)
    return path


def plain(value, protocol=4):
    return pickle.dumps(value, protocol)


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def legacy(value):
    return saved(value, _use_new_zipfile_serialization=False)


def text(value):
    raw = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def named(module, name):
    return text(module) + text(name) + pickle.STACK_GLOBAL


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        TABLE,
        np.asfortranarray(TABLE),
        TABLE[:, ::2],
        TABLE.astype(">f4"),
        TABLE.astype(np.float16),
        TABLE.astype(np.uint8),
        TABLE.reshape(1, 2, 3).transpose(2, 0, 1),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back(tmp_path, array, protocol):
    found = unpickle(written(tmp_path, plain(array, protocol)))
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("write", [plain, lambda t: plain(t, 2), saved, legacy])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(TABLE),
        torch.tensor(TABLE).half().t(),
        torch.tensor(TABLE).bfloat16()[:, 1:],
        torch.ones(1).expand(3, 3),
        torch.arange(4, dtype=torch.int32),
        torch.nn.Parameter(torch.tensor(TABLE)),
        torch.zeros(0, 3),
        torch.tensor(2.5),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_tensors_come_back(tmp_path, tensor, write):
    found = unpickle(written(tmp_path, write(tensor)))
    assert torch.equal(found, tensor)
    assert found.dtype == tensor.dtype


def test_containers_and_scalars_come_back(tmp_path):
    shared = [np.float32(0.5), np.int64(3), None, True, "x"]
    value = collections.OrderedDict(a=(shared, shared), b={"c": TABLE}, d={1, 2})
    found = unpickle(written(tmp_path, plain(value)))
    assert found["a"] == ([0.5, 3, None, True, "x"],) * 2
    assert np.array_equal(found["b"]["c"], TABLE)
    assert found["d"] == {1, 2}


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """A command and a script that leave a file, and the check that nothing did."""
    monkeypatch.chdir(tmp_path)
    yield "touch pwned", "open('pwned', 'w')"
    assert not (tmp_path / "pwned").exists()


def attacks(command, script):
    run, evaluate = Call(os.system, command), Call(eval, script)
    yield "posix.system", plain(run)
    yield "posix.system", plain(run, 0)
    yield "__builtin__.eval", plain(evaluate, 2)
    yield "builtins.exec", plain(Call(exec, script))
    yield "posix.system", plain([torch.ones(2), {"a": (run,)}])
    yield "", plain(np.array([[run]], dtype=object))
    yield "posix.system", saved(run)
    yield "posix.system", legacy(run)
    yield "eval", saved({"a": evaluate})
    for inner in (plain(run), saved(run), legacy(run), legacy([torch.ones(1), evaluate])):
        loads = named("torch.storage", "_load_from_bytes")
        body = pickle.BINBYTES + struct.pack("<I", len(inner)) + inner
        yield "", b"\x80\x04" + loads + body + pickle.TUPLE1 + pickle.REDUCE + b"."
    argument = text(script) + pickle.TUPLE1 + pickle.REDUCE + b"."
    for module, name in (
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("torch.storage", "io.os.system"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections", "_sys.modules"),
        ("numpy", "load"),
        ("numpy", "ndarray.__reduce__"),
        ("numpy.f2py.crackfortran", "myeval"),
        ("numpy.core.multiarray", "frombuffer"),
        ("copyreg", "_reconstructor"),
        ("copyreg", "add_extension"),
        ("copyreg", "__newobj__"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("os", "system"),
    ):
        yield f"{module}.{name}", b"\x80\x04" + named(module, name) + argument
        yield f"{module}.{name}", f"c{module}\n{name}\n".encode() + argument
        yield "", f"({text(script).decode()}i{module}\n{name}\n.".encode()


def test_nothing_in_a_malicious_file_is_run(tmp_path, bait):
    seen = 0
    for name, content in attacks(*bait):
        with pytest.raises(FileFormatError, match=r"wants to run|is damaged or no") as caught:
            unpickle(written(tmp_path, content))
        message = str(caught.value)
        assert "\n" not in message
        if name:
            assert f"table.pkl' wants to run {name}; a file of numbers has no" in message
            assert "convert it to .npy where you trust it" in message
        seen += 1
    assert seen > 60


def test_the_bait_works_where_nothing_guards(tmp_path, monkeypatch):
    """Else the test above could not fail."""
    monkeypatch.chdir(tmp_path)
    with open(written(tmp_path, plain(Call(eval, "open('pwned', 'w').close()"))), "rb") as file:
        pickle.load(file)
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("warm", [False, True])
def test_the_extension_registry_is_not_asked(tmp_path, bait, warm):
    command, _ = bait
    copyreg.add_extension("posix", "system", 241)
    try:
        if warm:  # the cache holds the function itself, and find_class is not called for it
            assert pickle.loads(b"\x80\x02" + pickle.EXT1 + b"\xf1.") is os.system
        content = b"\x80\x02" + pickle.EXT1 + b"\xf1" + text(command)
        with pytest.raises(FileFormatError, match="wants to run code that makes objects"):
            unpickle(written(tmp_path, content + pickle.TUPLE1 + pickle.REDUCE + b"."))
    finally:
        copyreg.remove_extension("posix", "system", 241)
        copyreg.clear_extension_cache()


def call(module, name, arguments):
    """Call an allowed name with whatever arguments."""
    return b"\x80\x04" + named(module, name) + plain(arguments)[2:-1] + pickle.REDUCE + b"."


FLOAT = Call(np.dtype, "f8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (plain(np.array([[{}, []]], dtype=object)), "array of 'O8', not of numbers"),
        (plain(np.zeros(2, dtype=[("a", "f8")])), "an array of 'V8', not of numbers"),
        (plain(np.array(["text"])), "an array of 'U4'"),
        (call("numpy", "dtype", ("O8", False, True)), "array of 'O8'"),
        (call("numpy", "dtype", ({"names": ["a"], "formats": ["O"]},)), "not of numbers"),
        (call("numpy._core.multiarray", "scalar", ("f8", b"12345678")), "array of objects"),
        (call("numpy._core.multiarray", "_reconstruct", (1, (0,), b"b")), "array has no content"),
        (call("numpy._core.numeric", "_frombuffer", (b"1", FLOAT, (9,), "C")), "buffer size"),
        (call("numpy._core.numeric", "_frombuffer", (b"12345678", FLOAT, (9,), "C")), "reshape"),
        (call("_codecs", "encode", ("a", "rot13")), "text in 'rot13'"),
        (call("_codecs", "encode", ("a", "zlib_codec")), "text in 'zlib_codec'"),
        (call("torch._utils", "_rebuild_tensor_v2", (1, 0, (2,), (1,), False, {})), "no storage"),
        (call("collections", "OrderedDict", (1,)), "not iterable"),
        (b"\x80\x04" + named("numpy", "dtype") + b".", "it is a function"),
        (
            b"\x80\x04" + named("numpy", "dtype") + b"N" + pickle.BUILD + b".",
            "sets a state of type",
        ),
        (plain(torch.ones(3).untyped_storage()), "torch finds more|is damaged"),
        (b"\x80\x04]\x94h\x00a.", "it contains itself"),
        (b"\x80\x04" + text("a") + pickle.EMPTY_TUPLE + pickle.REDUCE + b".", "is no function"),
        (b"\x80\x04" + text("a") + pickle.BINPERSID + b".", "code that makes objects"),
    ],
)
def test_allowed_names_cannot_be_misused(tmp_path, content, message):
    with pytest.raises(FileFormatError, match=message) as caught:
        unpickle(written(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (7,), (1,)), (6, (1,), (1,)), (0, (2, 2), (5, 1)), (-1, (1,), (1,)), (0, (2,), (1, 1)),
     (0, (2**40,), (0,)), (0, (2,), (-1,)), (0, (2.0,), (1,))],
)  # fmt: skip
def test_tensors_stay_within_their_storage(tmp_path, offset, size, stride):
    rebuild, (storage, *_) = torch.ones(6).__reduce_ex__(4)
    content = plain(Call(rebuild, storage, offset, size, stride, False, collections.OrderedDict()))
    with pytest.raises(FileFormatError, match=r"table.pkl' is damaged"):
        unpickle(written(tmp_path, content))


def test_shared_lists_do_not_grow(tmp_path):
    nested = [1.0]
    for _ in range(100):
        nested = [nested, nested]
    found = unpickle(written(tmp_path, plain(nested)))
    assert found[0] is found[1]


@pytest.mark.parametrize("write", [plain, saved, legacy])
def test_truncated_files_are_refused_wherever_they_end(tmp_path, write):
    content = write(torch.tensor(TABLE))
    for stop in range(0, len(content) - 1, max(1, len(content) // 40)):
        with pytest.raises(FileFormatError, match=r"is damaged or no pickle|wants to run \S+;"):
            unpickle(written(tmp_path, content[:stop]))


def refusal(path):
    try:
        unpickle(path)
    except FileFormatError as error:
        return str(error)
    return None


def test_damaged_bytes_give_one_line_or_a_value(tmp_path, bait):
    rng = np.random.default_rng(0)
    good = [plain(torch.tensor(TABLE)), plain(TABLE, 2), plain(TABLE, 5), legacy(torch.ones(2))]
    refusals = []
    for number in range(200):
        content = bytearray(good[number % 4])
        for at in rng.integers(0, len(content), 3):
            content[at] = rng.integers(256)
        refusals.append(refusal(written(tmp_path, bytes(content))))
    lines = [line for line in refusals if line is not None]
    assert len(lines) > 50
    assert all(line.isprintable() for line in lines)


def test_too_large_files_are_refused_unread(tmp_path):
    path = tmp_path / "table.pkl"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(FileFormatError, match="too many for a table of numbers"):
        unpickle(path)
    huge = b"\x80\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", 2**40) + b"."
    with pytest.raises(FileFormatError, match="it is cut off"):
        unpickle(written(tmp_path, huge))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(LARGEST + 1))
    with pytest.raises(FileFormatError, match="unpacked it is too large"):
        unpickle(path)
    with pytest.raises(DataError, match="there is no file"):
        unpickle(tmp_path / "nowhere.pkl")
