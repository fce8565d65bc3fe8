"""Images and recordings: files, or bytes in a table, by their content."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from deadhead.data.rows import Rows
from deadhead.errors import DataError, MissingDependencyError
from deadhead.files import one_line, read_bytes

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au"}
MEDIA_COLUMNS = ("image", "audio", "file_name", "path", "file")  # looked at before all others


@dataclass(frozen=True, eq=False)
class Media:
    """One image or recording.

    Attributes:
        name: its file, or where its bytes were found.
        content: its bytes; None if they are in the file.
    """

    name: str
    content: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """Return its bytes."""
        if self.content is not None:
            return self.content
        return read_bytes(self.name, "an image or a recording", limit=None)

    @cached_property
    def digest(self) -> bytes:
        """blake2b of its bytes: what makes two of them the same example."""
        return blake2b(self.read(), digest_size=12).digest()

    def __str__(self) -> str:
        return self.name


def media_of(rows: Rows, column: str) -> list[Media]:
    """Read a column of file names, relative to their table, or of what `datasets` keeps as media.

    Raises:
        DataError: a file is not there, or a value is neither.
    """
    found = []
    values: list[Any] = rows.values(column)
    for value, (file, row) in zip(values, rows.origins, strict=True):
        content = value.get("bytes") if isinstance(value, dict) else None
        name = value.get("path") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            found.append(Media(f"{name or column} in row {row} of {file}", content))
            continue
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"row {row} of {file!r} has {value!r:.80} as {column!r}, which is no file name;"
                " correct or remove it, or choose another column of"
                f" {', '.join(rows.columns)}"
            )
        place = Path(name)
        if not place.is_absolute() and Path(file).is_file():
            place = Path(file).parent / name
        if not place.is_file():
            raise DataError(
                f"row {row} of {file!r} names {name!r}, and there is no file {str(place)!r};"
                " write paths relative to the table, or remove the row"
            )
        found.append(Media(str(place)))
    return found


def need_pillow() -> Any:
    """Return the module that reads images."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            "images need Pillow, which is not installed; pip install 'deadhead[vision]'"
        ) from error
    return Image


def need_soundfile() -> Any:
    """Return the module that reads sound."""
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without libsndfile
        raise MissingDependencyError(
            "sound needs soundfile, which is not installed; pip install 'deadhead[speech]'"
        ) from error
    return soundfile


def image_of(media: Media) -> Any:
    """Decode an image as a PIL image of three colors.

    Raises:
        DataError: it is no image, or not a whole one.
        MissingDependencyError: Pillow is not installed.
    """
    library = need_pillow()
    try:
        with library.open(io.BytesIO(media.read())) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        raise DataError(
            f"{media.name!r} is no image that Pillow can read ({_reason(error)}); correct or"
            " remove it"
        ) from error


def wave_of(media: Media, rate: int) -> np.ndarray:
    """Decode a recording as one channel at a rate: channels are averaged, and it is resampled.

    Shape: (samples,), float32 in [-1, 1].
    Cost: of other rates a polyphase filter (`scipy.signal.resample_poly`).

    Args:
        media: the recording.
        rate: samples per second that the model wants.

    Raises:
        DataError: it is no recording, or has no samples, or some that are not finite.
        MissingDependencyError: soundfile is not installed.
    """
    library = need_soundfile()
    try:
        wave, its_rate = library.read(io.BytesIO(media.read()), dtype="float32", always_2d=True)
    except (RuntimeError, TypeError) as error:  # LibsndfileError is a RuntimeError
        raise _unreadable(media, error) from error
    wave = wave.mean(1)
    if not len(wave) or not np.isfinite(wave).all():
        what = "samples that are not finite" if len(wave) else "no samples"
        raise DataError(f"{media.name!r} has {what}; correct or remove it")
    if its_rate == rate:
        return wave
    from scipy.signal import resample_poly

    common = math.gcd(its_rate, rate)
    return resample_poly(wave, rate // common, its_rate // common).astype(np.float32)


def samples_of(media: Media, rate: int) -> int:
    """Return how many samples `wave_of` gives, without decoding them."""
    library = need_soundfile()
    try:
        about = library.info(io.BytesIO(media.read()))
    except (RuntimeError, TypeError) as error:
        raise _unreadable(media, error) from error
    return math.ceil(about.frames * rate / about.samplerate)


def kind_of_file(path: Path) -> str | None:
    """Return `image` or `audio` by the ending of a file; None of others."""
    ending = path.suffix.lower()
    return "image" if ending in IMAGES else "audio" if ending in SOUNDS else None


def media_in(rows: Rows, named: str | None = None) -> tuple[str, str] | None:
    """Find what a table is of, `image` or `audio`, and its column; None of other tables.

    Args:
        rows: the table.
        named: its column, by the user; else one of a usual name whose first value is such a file.
    """
    for column in (named,) if named else (*MEDIA_COLUMNS, *rows.columns):
        if column not in rows.columns or not len(rows):
            continue
        value = rows.frame[column].iloc[0]
        name = value.get("path") if isinstance(value, dict) else value
        kind = kind_of_file(Path(name)) if isinstance(name, str) and len(name) < 500 else None
        if kind is None and isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            kind = "image" if column in ("image", "img") else "audio"
        if kind is not None:
            return kind, str(column)
    return None


def _unreadable(media: Media, error: Exception) -> DataError:
    return DataError(
        f"{media.name!r} is no recording that soundfile can read ({_reason(error)}); convert it to"
        " WAV or FLAC, or remove it"
    )


def _reason(error: Exception) -> str:
    return one_line(error, longest=100).rstrip(". ") or type(error).__name__
