"""Which records to try for a stack: by what counts its heads, and by what else moves with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from deadhead.derivation.records import HIDDEN, Candidate
from deadhead.derivation.trace import is_linear
from deadhead.models.architectures import Architecture, PerHead
from deadhead.models.architectures.adapters import TABLE, select_arguments, share_position_bias


def variants(candidate: Candidate, model: nn.Module) -> Iterator[Architecture]:
    """Yield the records to try, the likeliest first: by attributes, then by what else moves.

    The last one leaves the module as it is and hands it zeros for heads that are gone.
    """
    record = candidate.record
    norms = tuple(rows for rows in record.rows if _is_norm(model, candidate, rows))
    rest = tuple(rows for rows in record.rows if rows not in norms)
    path = f"{candidate.block}.{record.attention}".strip(".")
    attention = model.get_submodule(path)
    once = tuple(rows for rows in record.rows if TABLE not in rows.parameter)
    changes: list[dict[str, Any]] = [{}, {"after_cut": select_arguments}]
    if norms:
        changes.insert(0, {"rows": rest, "selected": norms})
    if once != record.rows or hasattr(attention, f"has_{TABLE}"):
        changes.insert(0, {"rows": once, "after_cut": share_position_bias})
    for change in changes:
        for shrink in _shrinks(candidate.counted):
            yield replace(record, shrink=shrink, **change)
    if not candidate.grouped:
        block = model.get_submodule(candidate.block)
        linear = tuple(rows for rows in record.rows if _is_output(block, rows))
        yield replace(record, rows=linear, padded=True)


def _is_output(block: nn.Module, rows: PerHead) -> bool:
    """Whether rows are output features of a linear map."""
    return rows.dim == 0 and is_linear(block.get_submodule(rows.parameter.rpartition(".")[0]))


def _is_norm(model: nn.Module, candidate: Candidate, rows: PerHead) -> bool:
    """Whether rows are the weight of a module over all heads whose inputs all heads share."""
    tensor = model.get_parameter(f"{candidate.block}.{rows.parameter}".lstrip("."))
    path = rows.parameter.rpartition(".")[0]
    named = rows.parameter.endswith("weight") and ("norm" in path or "_ln" in path)
    return named and tensor.dim() == 1


def _shrinks(counted: Mapping[str, str]) -> list[dict[str, str]]:
    """List the sets of attributes to try, in order: the likeliest first."""
    own = {n: of for n, of in counted.items() if "." not in n or not n.startswith("config.")}
    hidden = {n for n in own if n.split(".")[-1] in HIDDEN}
    plain = {n: of for n, of in own.items() if n not in hidden}
    configured = {n: of for n, of in counted.items() if n.startswith("config.")}
    heads = {n: of for n, of in configured.items() if of != "width"}
    tried = [plain, own, plain | heads, own | heads, own | configured]
    return [v for i, v in enumerate(tried) if v not in tried[:i]]
