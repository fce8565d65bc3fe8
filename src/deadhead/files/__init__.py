"""Reading files that others wrote, and writing files that are whole or not there."""

from deadhead.files.folders import check_empty, whole_folder
from deadhead.files.locks import locked
from deadhead.files.reading import (
    as_json,
    as_path,
    fingerprint,
    parse_json,
    read_bytes,
    read_json,
    read_text,
)
from deadhead.files.text import decode, lines_of, one_line, printable
from deadhead.files.writing import replacing, write_json, write_text

__all__ = [
    "as_json",
    "as_path",
    "check_empty",
    "decode",
    "fingerprint",
    "lines_of",
    "locked",
    "one_line",
    "parse_json",
    "printable",
    "read_bytes",
    "read_json",
    "read_text",
    "replacing",
    "whole_folder",
    "write_json",
    "write_text",
]
