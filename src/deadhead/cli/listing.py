"""deadhead list: every name that the other commands know."""

from __future__ import annotations

from deadhead.cli.console import show, show_json
from deadhead.cli.options import Screen


def list_names(screen: Screen) -> None:
    """List criteria, strategies, groupings, actions, tasks, model types and policies."""
    from deadhead.pruning import names
    from deadhead.report.text_table import TextTable
    from deadhead.similarity import METRICS
    from deadhead.strategies.base import SCOPES

    known = {
        "criteria": names.criteria(),
        "strategies": names.strategies(),
        "repairs": names.repairs(),
        "groupings": names.groupings(),
        "distances": dict.fromkeys(METRICS, ""),
        "budgets": names.budgets(),
        "actions": names.actions(),
        "losses": names.losses(),
        "tasks": names.tasks(),
        "model types": names.architectures(),
        "gqa policies": names.gqa_policies(),
        "scopes": dict.fromkeys(SCOPES, ""),
        "bundled models": {
            "bundled:encoder": "task bundled:sentiment",
            "bundled:decoder": "tasks bundled:agreement, bundled:text",
        },
    }
    if screen.as_json:
        show_json({kind: sorted(entries) for kind, entries in known.items()})
        return
    for kind, entries in known.items():
        rows = [[name, line] for name, line in entries.items()]
        if not any(entries.values()):
            rows = [[", ".join(entries), ""]]
        show(TextTable((kind, ""), rows, words=(kind, ""), keys=2))
