"""Reading files that others wrote, and writing files that are whole or not there."""

from typing import TYPE_CHECKING

from deadhead.files.lazy import lazy_exports

if TYPE_CHECKING:
    from deadhead.files.folders import check_empty, whole_folder
    from deadhead.files.locks import locked
    from deadhead.files.malformed import refusing
    from deadhead.files.reading import (
        as_json,
        as_path,
        fingerprint,
        json_number,
        parse_json,
        read_bytes,
        read_json,
        read_text,
    )
    from deadhead.files.text import decode, lines_of, one_line, printable
    from deadhead.files.writing import replacing, write_json, write_text

__getattr__, __dir__ = lazy_exports(__name__, __file__)
