"""Imports between folders point one way, in the order that pyproject.toml states."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "deadhead"
ORDER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["deadhead"]["imports"]
RANK = {
    name: rank
    for rank, names in enumerate(ORDER.split("<-"))
    for name in (n.strip() for n in names.split(","))
}
FILES = sorted(f for f in SOURCE.rglob("*.py") if f.name not in ("__main__.py",))


def places(file: Path) -> set[str]:
    """Return the folders that a file imports from, at any level."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deadhead."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "deadhead":
            found |= {alias.name for alias in node.names if alias.name in RANK}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
@pytest.mark.slow
def test_imports_point_one_way(file):
    here = file.relative_to(SOURCE).with_suffix("").parts[0]
    if here == "__init__":
        return
    wrong = {p for p in places(file) if p != here and RANK[p] > RANK[here]}
    same = {p for p in places(file) if p != here and RANK[p] == RANK[here]}
    assert not wrong, f"{here} may not import {sorted(wrong)}"
    for other in same:  # folders of one rank may not import each other in a circle
        back = set().union(*(places(f) for f in FILES if other in f.relative_to(SOURCE).parts[0]))
        assert here not in back, f"{here} and {other} import each other"


def test_every_folder_has_its_place():
    rooms = {f.relative_to(SOURCE).with_suffix("").parts[0] for f in FILES} - {"__init__"}
    assert rooms == set(RANK)


def test_contributing_quotes_the_order():
    assert ORDER in (ROOT / "CONTRIBUTING.md").read_text()
