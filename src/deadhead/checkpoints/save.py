"""Writing a cut model: whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deadhead.checkpoints.companions import copy_companions, folder_of
from deadhead.checkpoints.verify import check_heads, tensors_for, weight_files
from deadhead.errors import CheckpointError, DeadheadError
from deadhead.files import one_line, whole_folder
from deadhead.models.manifest import claim_of


def save_model(model: Any, tokenizer: Any, target: str | Path, *, card: str | None = None) -> None:
    """Write a model, cut or not, as plain safetensors with its tokenizer and model card.

    After `import deadhead`, `AutoModel*.from_pretrained(target)` loads it bit for bit. Files beside
    the weights that it was loaded from (`config.name_or_path`), of its processor, of
    sentence-transformers, its license, are copied; see `companions_of`.

    Args:
        model: the model.
        tokenizer: its tokenizer or processor; None if it has none.
        target: a folder that is empty or not there.
        card: the text of README.md; the base model's is then kept as README.base.md.

    Raises:
        OutputExistsError: `target` is not empty, or not a folder.
        CheckpointError: writing failed, or the heads written are not those of the model; `target`
            is as it was.
    """
    with whole_folder(target) as folder:
        try:
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            source = folder_of(model.config.name_or_path)
            if source is not None:
                copy_companions(source, folder, card=card is not None)
        except DeadheadError:
            raise
        except Exception as error:  # the writers in Rust raise classes of their own
            raise CheckpointError(
                f"could not write {Path(target).name!r}: {one_line(error)}; make room or change its"
                " rights"
            ) from error
        if claim_of(model) is not None:
            check_heads(model, tensors_for(model, weight_files(folder)))
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
