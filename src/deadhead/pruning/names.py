"""What there is to choose from: every name that an option takes, with a line each."""

from __future__ import annotations

from importlib import import_module

from deadhead.display import Names, first_lines


def criteria() -> Names:
    """List the criteria that score heads; `a+b` averages the ranks of two."""
    return Names(_entries("criteria.base", "CRITERIA").described())


def strategies() -> Names:
    """List the strategies that choose heads by their scores."""
    auto = "compares several rankings on held-out texts; the default of prune"
    return Names(auto=auto, **_entries("strategies.base", "STRATEGIES").described())


def repairs() -> Names:
    """List the ways in which the remaining heads make up for the removed ones."""
    return Names(_entries("repair.base", "REPAIRS").described())


def losses() -> Names:
    """List the losses that gradient criteria differentiate."""
    return Names(_entries("losses.losses", "LOSSES").described())


def tasks() -> Names:
    """List the kinds of task that models are judged on."""
    return Names(_entries("tasks", "KINDS").described())


def architectures() -> Names:
    """List the model types that are known; `register_architecture` adds one."""
    from deadhead.models.architectures.derived import shipped_records

    written = _entries("models.architectures", "ARCHITECTURES")
    return Names(dict.fromkeys(sorted({*written, *shipped_records()}), ""))


def groupings() -> Names:
    """List the ways in which the strategy `clusters` groups heads."""
    return first_lines(_entries("similarity.groupings", "GROUPINGS"))


def actions() -> Names:
    """List what can become of the chosen heads."""
    return first_lines(_entries("surgery.apply", "ACTION"))


def gqa_policies() -> Names:
    """List the policies for shared key/value heads."""
    return first_lines(_entries("surgery.groups", "POLICIES"))


def budgets() -> Names:
    """List the quantities that a budget bounds: `budget="parameters=80%"`."""
    return Names(_entries("pruning.moves", "MEASURES"))


def _entries(module: str, name: str):
    return getattr(import_module(f"deadhead.{module}"), name)
