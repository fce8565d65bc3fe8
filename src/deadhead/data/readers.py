"""The parts of a processor: what reads text, images and sound for a model."""

from __future__ import annotations

from typing import Any

from deadhead.errors import DataError


def tokenizer_in(reader: Any) -> Any:
    """Return the tokenizer of a processor; a tokenizer, and what has none, is returned as it is."""
    return getattr(reader, "tokenizer", None) or reader


def image_processor_in(reader: Any) -> Any:
    """Return the image processor of a processor, or what is one itself.

    Raises:
        DataError: there is none.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    return _part(reader, "image_processor", ImageProcessingMixin, "images")


def feature_extractor_in(reader: Any) -> Any:
    """Return the feature extractor for sound of a processor, or what is one itself.

    Raises:
        DataError: there is none.
    """
    from transformers import SequenceFeatureExtractor

    return _part(reader, "feature_extractor", SequenceFeatureExtractor, "sound")


def _part(reader: Any, name: str, kind: type, what: str) -> Any:
    found = getattr(reader, name, reader)
    if isinstance(found, kind):
        return found
    given = "nothing" if reader is None else f"only a {type(reader).__name__}"
    raise DataError(
        f"the model has no {name.replace('_', ' ')} to read {what} with, {given}; put its"
        " preprocessor_config.json (or processor_config.json) into the folder, or give its"
        " AutoProcessor"
    )
