"""Derive the records of a model type from a tiny random model, and prove them on it."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from deadhead.derivation.exercises import (
    Exercise,
    attention_modules,
    exercises,
    need_exercises,
    not_exercised,
)
from deadhead.derivation.laws import (
    TOLERANCE,
    draw_masks,
    known,
    mask_equals_removal,
    run_exercises,
    wrong_cuts,
)
from deadhead.derivation.records import Candidate, candidates, stack_labels, starred
from deadhead.derivation.reloading import reload_difference
from deadhead.derivation.tiny import default_config, tiny_model
from deadhead.derivation.trace import Site, record, sites_in
from deadhead.derivation.traits import backends, headless, samples_at, with_maps
from deadhead.derivation.variants import variants
from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures import Architecture, Records, has_derived, records_named
from deadhead.models.architectures.derived import as_data, records_from
from deadhead.models.heads import HeadModel


@dataclass(frozen=True)
class Derived:
    """What a derivation found.

    Attributes:
        records: the proven records, one per stack.
        difference: largest difference between mask and removal, relative, in float64.
        reloaded: the same between a cut model and the one that its checkpoint loads as.
        left_out: stacks that were found and could not be cut exactly, with the reason.
        not_exercised: attention modules that never ran.
        kept_whole: attention modules that ran and are in no proven stack.
    """

    records: Records
    difference: float
    reloaded: float
    left_out: dict[str, str] = field(default_factory=dict)
    not_exercised: tuple[str, ...] = ()
    kept_whole: tuple[str, ...] = ()


def derive(given: str | PreTrainedConfig) -> Derived:
    """Find and prove the records of a model type.

    Args:
        given: a model type, or the config of a model.

    Cost: some hundred passes of a model with two small layers; seconds.

    Raises:
        UnsupportedModelError: there is no tiny model or no way to run it, no heads were found, or
            no stack passes the proof; says why.
    """
    config = default_config(given) if isinstance(given, str) else given
    grouped = copy.deepcopy(config)
    tried = [grouped, config] if _share_keys_(grouped) else [config]
    best: Derived | None = None
    reason: UnsupportedModelError | None = None
    for each in tried:
        try:
            found = _derive(each)
        except UnsupportedModelError as error:
            reason = error
            continue
        if best is None or len(found.left_out) < len(best.left_out):
            best = found
        if not best.left_out:
            return best
    if best is not None:
        return best
    raise reason or UnsupportedModelError(f"{config.model_type!r} cannot be derived")


def proven_as_written(model_type: str) -> Derived:
    """Prove the records that a model type has, on a tiny model of its default config.

    Raises:
        UnsupportedModelError: there are none, or there is no way to run a tiny model.
    """
    model = tiny_model(default_config(model_type))
    found = exercises(model)
    records = records_named(model_type)
    with known(records):
        view = HeadModel(model)
        names = {id(module): name for name, module in model.named_modules()}
        outputs = [names[id(block.output)] for block in view.blocks]
        if min(wrong_cuts(view, found).values(), default=1) <= TOLERANCE:
            raise UnsupportedModelError("a wrong cut gives the same outputs")
    idle = not_exercised(model, found)
    return Derived(
        records,
        together(model, found, records),
        reloaded(model, found, records),
        {},
        tuple(path for path in idle if _attends(model.get_submodule(path))),
        tuple(kept_whole(model, outputs, idle)),
    )


def _heads_of(config: Any) -> int | None:
    heads = vars(config).get("num_attention_heads")
    return heads if type(heads) is int and heads % 2 == 0 else None


def _share_keys_(config: Any) -> bool:
    """Let heads share key/value heads wherever a config has a number of them."""
    changed = False
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            changed |= _share_keys_(value)
        elif re.search(r"(key_value|kv)_heads$", name) and value == _heads_of(config):
            setattr(config, name, value // 2)
            changed = True
    return changed


def _derive(config: PreTrainedConfig) -> Derived:
    model = tiny_model(config)
    name = config.model_type
    found = need_exercises(model)
    sites = list(_sites(model, found))
    if not sites:
        raise UnsupportedModelError(
            f"a tiny {name!r} ran, and no softmax in it feeds a row of heads in front of a linear"
            f" projection; {_where_it_attends(model)}"
        )
    proven: list[Architecture] = []
    left_out: dict[str, str] = {}
    paths: list[str] = []
    for candidate in candidates(model, name, sites):
        result = prove(model, found, candidate)
        if isinstance(result, str):
            left_out[f"{candidate.record.blocks}.{candidate.record.attention}"] = result
        else:
            proven.append(result)
            paths += candidate.sites
    if not proven:
        where, reason = next(iter(left_out.items()))
        raise UnsupportedModelError(f"the heads at {where} cannot be cut exactly: {reason}")
    labels = stack_labels(proven)
    proven = [replace(r, stack=label) for r, label in zip(proven, labels, strict=True)]
    idle = not_exercised(model, found)
    worst = together(model, found, tuple(proven))
    proven = [replace(r, difference=float(f"{worst:.1e}")) for r in proven]
    return Derived(
        tuple(proven),
        worst,
        reloaded(model, found, tuple(proven)),
        left_out,
        tuple(path for path in idle if _attends(model.get_submodule(path))),
        tuple(kept_whole(model, paths, idle)),
    )


def _where_it_attends(model: nn.Module) -> str:
    paths = [p for p in attention_modules(model) if _attends(model.get_submodule(p))]
    named = dict.fromkeys(starred(path) for path in paths)
    return f"its attention: {', '.join(named)}" if named else "it has no attention modules"


def _sites(model: PreTrainedModel, found: Sequence[Exercise]) -> Iterator[Site]:
    seen: set[str] = set()
    for exercise in found:
        for site in sites_in(record(model, exercise)):
            if site.output not in seen:
                seen.add(site.output)
                yield site


def kept_whole(model: nn.Module, outputs: Sequence[str], idle: Sequence[str]) -> list[str]:
    """List attention modules that ran and hold or neighbor no output projection of a site."""
    parents = {path.rpartition(".")[0] for path in outputs}
    parents |= {p.rpartition(".")[0] for p in parents if p.count(".") > 1}
    found = []
    for path in attention_modules(model):
        inside = any(o.startswith(f"{path}.") for o in outputs)
        beside = path.rpartition(".")[0] in parents or path in parents
        if not inside and not beside and path not in idle and _attends(model.get_submodule(path)):
            found.append(path)
    return found


def _attends(module: nn.Module) -> bool:
    """Whether a module is attention by its name; routers and poolers compute a softmax too."""
    return re.search(r"Attention|Attn", type(module).__name__) is not None


def prove(
    model: PreTrainedModel, found: Sequence[Exercise], candidate: Candidate
) -> Architecture | str:
    """Return the first variant of a record that obeys the laws, or why none does."""
    reason = "no attribute of the attention module counts its heads"
    found = [e for e in found if _runs(model, e, candidate.sites)]
    for tried in variants(candidate, model):
        try:
            with known((tried,)):
                view = HeadModel(model)
                masks = draw_masks(view, 2)
                off = max(mask_equals_removal(m, found, masks) for m in backends(model, found))
                if off > TOLERANCE:
                    reason = f"mask and removal differ by {off:.1e}"
                    continue
                if min(wrong_cuts(view, found).values(), default=1) <= TOLERANCE:
                    reason = "a wrong cut gives the same outputs"
                    continue
        except Exception as error:  # every kind of failure refutes a variant
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            continue
        tried = replace(tried, samples=samples_at(model, found[0], candidate.sites[0]))
        return headless(model, found, with_maps(model, found, tried))
    return reason


def _runs(model: PreTrainedModel, exercise: Exercise, sites: Sequence[str]) -> bool:
    """Whether an exercise runs every site of a stack."""
    ran: set[str] = set()
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.add(path))
        for path in sites
    ]
    try:
        run_exercises(model, [exercise])
    finally:
        for hook in hooks:
            hook.remove()
    return ran == set(sites)


def reloaded(model: PreTrainedModel, found: Sequence[Exercise], records: Records) -> float:
    """Return the largest difference after saving a cut model and loading it again."""
    with known(records):
        return reload_difference(model, found, draw_masks(HeadModel(model), 1, seed=2)[0])[0]


def together(model: PreTrainedModel, found: Sequence[Exercise], records: Records) -> float:
    """Return the largest difference when all stacks are cut at once, five random masks.

    Every attention backend counts that the model runs with: eager, and sdpa.
    """
    with known(records), torch.no_grad():
        masks = draw_masks(HeadModel(model), 5, seed=1)
        return max(mask_equals_removal(m, found, masks) for m in backends(model, found))


def check_derived(config: Any) -> None:
    """Prove derived records on a tiny model of the user's own config, before they are relied on.

    Records that ship were proven on the default config of their type, and options of a config may
    change how attention is computed. Written records, and modules of the user's own, are believed.

    Cost: some dozens of passes of a tiny model, seconds; once per config and process.

    Raises:
        UnsupportedModelError: masking and removal differ, or a tiny model cannot be run.
    """
    if isinstance(config, PreTrainedConfig) and has_derived(config.model_type):
        reason = misfit(config, records_named(config.model_type))
        if reason:
            raise UnsupportedModelError(
                f"the derived record of {config.model_type!r} does not hold for this config"
                f" ({reason}); --derive finds one that does, or says why there is none"
            )


def misfit(config: PreTrainedConfig, records: Records) -> str:
    """Say why records do not hold for a config, proven on a tiny model of it; empty if they do."""
    whole = copy.deepcopy(config)
    whole.__dict__.pop("quantization_config", None)  # as before any cut
    data = json.dumps([as_data(record) for record in records])
    return _misfit(type(whole), whole.to_json_string(use_diff=False), data)


@functools.cache
def _misfit(kind: type[PreTrainedConfig], text: str, data: str) -> str:
    config = kind.from_dict(json.loads(text))
    records = records_from(config.model_type, json.loads(data))
    try:
        model = tiny_model(config)
        off = together(model, exercises(model), records)
    except Exception as error:  # whatever a wrong cut trips over
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return "" if off <= TOLERANCE else f"on a tiny model, mask and removal differ by {off:.1e}"
