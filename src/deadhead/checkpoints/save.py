"""Writing a cut model: whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from deadhead.errors import CheckpointError, OutputExistsError


def check_empty(folder: Path) -> None:
    """Refuse an output folder that something is in.

    Raises:
        OutputExistsError: it is not empty, or not a folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(
            f"output folder {str(folder)!r} is not empty; choose another with -o, or remove it"
        )


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a temporary folder next to `target` that takes its name once everything is in it.

    Raises:
        CheckpointError: writing failed (disk full, no permission); nothing is left behind.
    """
    working = target.with_name(f".{target.name}.writing")
    shutil.rmtree(working, ignore_errors=True)
    try:
        working.mkdir(parents=True)
        yield working
        if target.exists():
            shutil.rmtree(target)
        working.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(working, ignore_errors=True)
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"could not write {target.name!r}: {error}; make room or choose another folder"
        ) from error
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise


def save_model(model: Any, tokenizer: Any, target: Path, *, card: str | None = None) -> None:
    """Write a model, cut or not, as plain safetensors with its tokenizer and model card.

    After `import deadhead`, `AutoModel*.from_pretrained(target)` loads it bit for bit.

    Raises:
        CheckpointError: writing failed; `target` is as it was.
    """
    with whole_folder(target) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        if card is not None:
            (folder / "README.md").write_text(card)
