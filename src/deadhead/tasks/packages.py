"""Optional packages that compute metrics."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from deadhead.errors import MissingDependencyError


def metric_package(module: str, package: str, kind: str) -> Any:
    """Import a module of an optional package.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"task kind {kind!r} needs {package}, which is not installed; pip install"
            ' "deadhead[tasks]"'
        ) from error
