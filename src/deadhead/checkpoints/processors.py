"""Loading what turns images and sound into a model's inputs, where its files are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deadhead.errors import CheckpointError, MissingDependencyError
from deadhead.files import one_line

FILES = ("processor_config.json", "preprocessor_config.json", "image_processor_config.json")


def has_processor(path: str) -> bool:
    """Whether a folder, or the copy of a hub id on this machine, has files of a processor."""
    if Path(path).is_dir():
        return any((Path(path) / name).is_file() for name in FILES)
    from transformers.utils import cached_file

    quiet = {"_raise_exceptions_for_missing_entries": False}
    quiet |= {"_raise_exceptions_for_connection_errors": False}
    return any(cached_file(path, name, **quiet) is not None for name in FILES)


def load_processor(path: str, *, trust_remote_code: bool = False) -> Any:
    """Load a model's processor, or its image processor or feature extractor alone.

    Args:
        path: a folder or hub id for which `has_processor` is true.
        trust_remote_code: run code that comes with the checkpoint; only if the user says so.

    Raises:
        MissingDependencyError: it needs a package that is not installed.
        CheckpointError: its files are not whole, or of no class of transformers.
    """
    import transformers

    failed: list[Exception] = []
    for name in ("AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor"):
        try:
            found = getattr(transformers, name).from_pretrained(
                path, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # each processor class has its own
            failed.append(error)
            continue
        if not isinstance(found, transformers.PreTrainedTokenizerBase):
            return found
    missing = next((error for error in failed if isinstance(error, ImportError)), None)
    if missing is not None:
        raise MissingDependencyError(
            f"the processor of {Path(path).name!r} needs a package that is not installed:"
            f" {_requirement(missing)}"
        ) from missing
    reason = one_line(failed[-1] if failed else "it is a tokenizer", longest=200)
    raise CheckpointError(
        f"cannot load the processor of {Path(path).name!r}: {reason}; copy"
        " preprocessor_config.json, or processor_config.json, from where the model was written"
    )


def _requirement(error: ImportError) -> str:
    """Return the line in which transformers says what to install."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "pip install" in line), (lines or [repr(error)])[0])
    return one_line(said, longest=200)
