"""One writer for each output, also when another process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from deadhead.errors import OutputExistsError
from deadhead.files import locked, whole_folder

HOLD = """
import sys
from deadhead.files import locked, whole_folder
with {what}(sys.argv[1]) as folder:
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(what: str, output) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(what=what), str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("what", ["locked", "whole_folder"])
def test_a_second_process_is_refused_until_the_first_ends_or_is_killed(tmp_path, what):
    output = tmp_path / "out"
    (tmp_path / "link").symlink_to(tmp_path)
    first = hold(what, output)
    for spelled in (output, tmp_path / "link" / "out"):
        with pytest.raises(OutputExistsError, match="being written by another process"):
            whole_folder(spelled).__enter__()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    with whole_folder(output) as working:
        (working / "file").touch()
        assert [p.name for p in tmp_path.glob(".out.*.writing")] == [working.parent.name]
    assert {p.name for p in tmp_path.iterdir()} == {"out", "link"}
    assert [p.name for p in output.iterdir()] == ["file"]


def test_a_second_thread_is_refused_and_the_same_thread_may_go_on(tmp_path):
    def other():
        with locked(tmp_path / "out"):
            pass

    with ThreadPoolExecutor(1) as pool, locked(tmp_path / "out"):
        with locked(tmp_path / "out"):
            assert (tmp_path / ".out.lock").exists()
        with pytest.raises(OutputExistsError, match="being written"):
            pool.submit(other).result()
    other()
    assert not list(tmp_path.iterdir())


def test_what_deadhead_did_not_write_is_never_removed(tmp_path):
    names = (".out.writing", ".out.12345678.writing", "out.partial", ".out.partial")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("precious")
    with whole_folder(tmp_path / "out"):
        pass
    assert all((tmp_path / name / "mine.txt").exists() for name in names)
