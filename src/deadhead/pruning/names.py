"""What there is to choose from: every name that an option takes, with a line each."""

from __future__ import annotations

from deadhead.display import Names, first_lines


def criteria() -> Names:
    """List the criteria that score heads; `a+b` averages the ranks of two."""
    from deadhead.criteria.base import CRITERIA

    return Names(CRITERIA.described())


def strategies() -> Names:
    """List the strategies that choose heads by their scores."""
    from deadhead.strategies.base import STRATEGIES

    auto = "compares several rankings on held-out texts; the default of prune"
    return Names(auto=auto, **STRATEGIES.described())


def repairs() -> Names:
    """List the ways in which the remaining heads make up for the removed ones."""
    from deadhead.repair.base import REPAIRS

    return Names(REPAIRS.described())


def losses() -> Names:
    """List the losses that gradient criteria differentiate."""
    from deadhead.losses.losses import LOSSES

    return Names(LOSSES.described())


def tasks() -> Names:
    """List the kinds of task that models are judged on."""
    from deadhead.tasks import KINDS

    return Names(KINDS.described())


def architectures() -> Names:
    """List the model types that are known; `register_architecture` adds one."""
    from deadhead.models.architectures import ARCHITECTURES

    return Names(dict.fromkeys(ARCHITECTURES, ""))


def groupings() -> Names:
    """List the ways in which the strategy `clusters` groups heads."""
    from deadhead.similarity.groupings import GROUPINGS

    return first_lines(GROUPINGS)


def actions() -> Names:
    """List what can become of the chosen heads."""
    from deadhead.surgery.apply import ACTION

    return first_lines(ACTION)


def budgets() -> Names:
    """List the quantities that a budget bounds: `budget="parameters=80%"`."""
    from deadhead.pruning.moves import MEASURES

    said = {
        "parameters": "parameters of the whole model",
        "kv_bytes": "bytes of key/value cache per token",
        "flops": "multiplications and additions per token, for sequences of 512 tokens",
        "latency": "median time of a forward pass, measured on cut models",
    }
    return Names({name: said[name] for name in MEASURES})


def gqa_policies() -> Names:
    """List the policies for shared key/value heads."""
    from deadhead.surgery.groups import POLICIES

    return first_lines(POLICIES)
