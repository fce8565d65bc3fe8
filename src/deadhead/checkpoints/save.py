"""Writing a cut model: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from deadhead.errors import CheckpointError, DeadheadError, OutputExistsError


def check_empty(folder: str | Path) -> None:
    """Refuse an output folder that something is in.

    Raises:
        OutputExistsError: it is not empty, or not a folder.
    """
    path = Path(folder).expanduser()
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise OutputExistsError(
            f"output folder {str(folder)!r} is not empty; choose another with -o, or remove it"
        )


@contextlib.contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """Give a temporary folder next to `target` that takes its name once everything is in it.

    Raises:
        OutputExistsError: `target` is not empty, before or by then; nothing in it is touched.
        CheckpointError: writing failed (disk full, no permission); nothing is left behind.
    """
    check_empty(target)
    whole = Path(target).expanduser().absolute()  # "." has no name to put another beside
    working = whole.with_name(f".{whole.name}.writing")
    shutil.rmtree(working, ignore_errors=True)
    try:
        working.mkdir(parents=True)
        yield working
        check_empty(target)
        if whole.exists():  # perhaps a mount, a link, or where the user's shell is: it stays
            _move_in(working, whole)
        else:
            working.rename(whole)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(working, ignore_errors=True)
        if isinstance(error, DeadheadError):
            raise
        raise CheckpointError(
            f"could not write {whole.name!r}: {error}; make room or change its rights"
        ) from error
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise


def _move_in(working: Path, target: Path) -> None:
    """Move everything from one folder to another, an empty one, or leave that as it was."""
    moved: list[Path] = []
    try:
        for item in sorted(working.iterdir()):
            moved.append(target / item.name)
            shutil.move(item, moved[-1])
        working.rmdir()
    except BaseException:
        for path in moved:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def save_model(model: Any, tokenizer: Any, target: str | Path, *, card: str | None = None) -> None:
    """Write a model, cut or not, as plain safetensors with its tokenizer and model card.

    After `import deadhead`, `AutoModel*.from_pretrained(target)` loads it bit for bit.

    Raises:
        OutputExistsError: `target` is not empty, or not a folder.
        CheckpointError: writing failed; `target` is as it was.
    """
    with whole_folder(target) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
