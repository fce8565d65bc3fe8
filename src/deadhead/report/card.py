"""The README.md of a cut checkpoint."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from deadhead.display.head_map import grid_text
from deadhead.display.words import short_name
from deadhead.report.contents import cost_table, run_facts
from deadhead.report.page import data_table, provenance_table
from deadhead.report.summary import RunSummary
from deadhead.report.tables import speed_table
from deadhead.report.text_table import markdown_text
from deadhead.report.wording import caveats, outcome

LOADING = """\
import deadhead  # registers the loader of cut checkpoints
from transformers import {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder")"""


def model_card(summary: RunSummary) -> str:
    """Write the README.md of a cut checkpoint, with front matter for the Hugging Face Hub.

    `summary.run["command"]` appears as it was typed, so that it can be typed again. An absolute
    path in `summary.model["name"]` is reduced to its last part.
    """
    title = markdown_text(short_name(summary.title))
    parts = [
        f"---\n{_front_matter(summary)}---\n",
        f"# {title}\n",
        f"{markdown_text(outcome(summary))}\n",
        "## Load it\n",
        *_loading(summary.model),
        "## Numbers\n",
        f"{cost_table(summary).markdown()}\n",
    ]
    if summary.speed:
        parts += ["Speed, beside its ceiling:\n", f"{speed_table(summary.speed).markdown()}\n"]
    parts += [
        "## Heads\n",
        "Kept `#`, removed `.`; a line per block, heads by original index.\n",
        _fenced(grid_text(summary.plan.mask.kept), "text"),
    ]
    if notes := caveats(summary):
        lines = "".join(f"- {markdown_text(note)}\n" for note in notes)
        parts += ["## Before you rely on this\n", lines]
    parts += ["## Provenance\n", _provenance(summary)]
    if command := summary.run.get("command"):
        parts += ["The exact command:\n", _fenced(str(command), "sh")]
    return "\n".join(parts)


def _loading(model: dict[str, Any]) -> list[str]:
    code = LOADING.format(auto_class=_auto_class(model))
    if model.get("needs_deadhead", True):
        return [
            _fenced(code, "python"),
            "Run `pip install deadhead` first: plain transformers cannot build layers that differ\n"
            "in their number of heads. No remote code runs.\n",
        ]
    return [
        _fenced(code.split("\n", 1)[1], "python"),
        "Any tool that uses transformers loads it.\n",
    ]


def _front_matter(summary: RunSummary) -> str:
    import yaml  # comes with huggingface_hub

    fields: dict[str, Any] = {"library_name": "transformers", "tags": ["deadhead", "pruned"]}
    if hub_id := summary.model.get("hub_id"):  # a link: nothing else can be followed
        fields = {"base_model": " ".join(str(hub_id).split()), **fields}
    # one line per value: a value that is wrapped could put "---" at the start of a line
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=float("inf"))


def _public_name(name: str) -> str:
    name = " ".join(name.split())
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(name).is_absolute():
            return kind(name).name
    return name


def _auto_class(model: dict[str, Any]) -> str:
    """Return the recorded class; else the one that a KV cache suggests."""
    given = str(model.get("auto_class") or "")
    if given.isidentifier():
        return given
    is_decoder = model.get("kv_bytes_per_token_before") is not None
    return "AutoModelForCausalLM" if is_decoder else "AutoModel"


def _provenance(summary: RunSummary) -> str:
    facts = run_facts(summary)
    facts["model"] = _public_name(str(facts["model"])) if facts["model"] else None
    tables = [provenance_table(summary.run, facts), data_table(summary.run.get("data"))]
    return "".join(f"{table.markdown()}\n" for table in tables if table)


def _fenced(text: str, language: str) -> str:
    """Fence code with more backticks than it holds in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
