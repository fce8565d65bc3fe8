"""A small model with everything that deadhead writes about it, and the command in this process."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
import typer

from deadhead import Head, HeadModel, PruningPlan, cli, load_model, remove_, save_model

HANG = 20  # seconds
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
ROWS = [(f"film number {i} of {'good' if i % 2 else 'bad'} ones", i % 2) for i in range(20)]


class HangError(BaseException):
    """Nobody may catch it."""


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Fail what takes too long."""

    def stop(*_: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Command:
    """The command, built once: that takes longer than most of what it is asked for here."""

    def __init__(self) -> None:
        self.group = typer.main.get_command(cli.command())

    def __call__(self, *args: object) -> tuple[int, str]:
        """Run it; check that it ends in time, with a known code, and says what a screen can show.

        Returns:
            The exit code and the error.
        """
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        sys.argv, code = ["deadhead", *map(str, args)], 0
        from deadhead.cli import console

        consoles = ((console.OUT, out), (console.ERR, err))
        try:
            for each, stream in consoles:
                each.file = stream
            with no_hang(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.run(self.group)  # type: ignore[arg-type]
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.argv = argv
            for each, _ in consoles:
                each.file = None
        said = err.getvalue()
        assert code in (0, 2, 130), (code, said)
        assert "Traceback" not in said
        assert not _CONTROL.search(out.getvalue() + said), (out.getvalue(), said)
        if code == 2:
            assert said.count("error: ") >= 1
            assert "\n" not in said[said.rindex("error: ") :].strip(), said
        return code, said


class World:
    """A folder with a model, a cut model, and one good file of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = load_model("bundled:encoder")
        config = transformers.BertConfig(
            vocab_size=len(source.tokenizer),
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=8,
            max_position_embeddings=32,
        )
        torch.manual_seed(0)
        self.model = transformers.BertForSequenceClassification(config).eval()
        self.tokenizer = source.tokenizer
        save_model(self.model, self.tokenizer, folder / "model")
        self.loaded = load_model(str(folder / "model"))
        cut = load_model(str(folder / "model")).model
        remove_(cut, PruningPlan(HeadModel(cut).mask.drop(Head(0, 1), Head(1, 0), Head(1, 2))))
        save_model(cut, self.tokenizer, folder / "cut")
        self.data = folder / "rows.jsonl"
        self.data.write_text(
            "".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in ROWS)
        )

    def json(self, name: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads((self.folder / name).read_text())

    def copy(self, name: str, target: str) -> Path:
        """Copy a folder, in the place of an older copy."""
        shutil.rmtree(self.folder / target, ignore_errors=True)
        return Path(shutil.copytree(self.folder / name, self.folder / target))

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of this folder."""
        content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def clear(self, *names: str) -> None:
        """Remove what a command may have written."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
