"""deadhead list: every name that the other commands know."""

from __future__ import annotations

from deadhead.cli.console import show, show_json
from deadhead.cli.options import Screen
from deadhead.pruning.recipe import AUTO


def list_names(screen: Screen) -> None:
    """List criteria, strategies, groupings, actions, tasks, model types and policies."""
    from deadhead.criteria import CRITERIA
    from deadhead.losses import LOSSES
    from deadhead.models.architectures import ARCHITECTURES
    from deadhead.repair import REPAIRS
    from deadhead.report.text_table import TextTable
    from deadhead.similarity import GROUPINGS, METRICS
    from deadhead.strategies import STRATEGIES
    from deadhead.strategies.units import SCOPES
    from deadhead.surgery import POLICIES
    from deadhead.surgery.apply import ACTION
    from deadhead.tasks import KINDS

    known = {
        "criteria": CRITERIA.described(),
        "strategies": {
            AUTO: "compares several rankings on held-out texts; the default of prune",
            **STRATEGIES.described(),
        },
        "repairs": REPAIRS.described(),
        "groupings": {n: _first_line(f) for n, f in GROUPINGS.items()},
        "distances": dict.fromkeys(METRICS, ""),
        "actions": {n: _first_line(f) for n, f in ACTION.items()},
        "losses": {n: _first_line(f) for n, f in LOSSES.items()},
        "tasks": {n: _first_line(k) for n, k in KINDS.items()},
        "model types": dict.fromkeys(ARCHITECTURES, ""),
        "gqa policies": {n: _first_line(f) for n, f in POLICIES.items()},
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


def _first_line(thing: object) -> str:
    return "" if thing is None else (thing.__doc__ or "").strip().split("\n")[0]
