"""Reading files that others wrote, and writing files that are whole or not there."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deadhead.files.reading import (
        as_json,
        as_path,
        decode,
        fingerprint,
        json_number,
        lines_of,
        one_line,
        parse_json,
        printable,
        read_bytes,
        read_json,
        read_text,
        refusing,
    )
    from deadhead.files.writing import (
        check_empty,
        check_file,
        locked,
        replacing,
        whole_folder,
        write_json,
        write_text,
    )


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package whose names are imported when they are used.

    The names are those that the package's `__init__` imports under `if TYPE_CHECKING:`, so that
    type checkers see them too. A function cannot have the name of its own module.

    Args:
        package: `__name__` of the package.
        file: `__file__` of its `__init__`.
    """
    homes = {
        alias.name: node.module
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.col_offset
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get, lambda: sorted(homes)


__getattr__, __dir__ = lazy_exports(__name__, __file__)
