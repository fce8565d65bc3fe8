"""From sites that were found in a tiny model to architecture records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from deadhead.derivation.rows import (
    SHARED,
    Owned,
    group_size,
    layout_of,
    owned,
    per_head_rows,
    roles,
)
from deadhead.derivation.trace import LinearCall, Site
from deadhead.models.architectures import LAYOUTS, PARTS, Architecture, HeadCounts, PerHead
from deadhead.models.blocks import output_rows

WIDTHS = ("all_head_size", "inner_dim", "attn_dim", "attention_dim", "split_size", "projection_dim")
HIDDEN = ("embed_dim", "hidden_size", "d_model", "hidden_dim", "dim", "n_embd", "width")


@dataclass(frozen=True)
class Place:
    """Where a site is: the pattern of its blocks, and the modules relative to a block."""

    blocks: str
    block: str
    attention: str
    output: str


@dataclass(frozen=True)
class Candidate:
    """One stack: a record without attributes to shrink, and the attributes that may be.

    Attributes:
        record: the record.
        counted: per attribute of the attention module (dotted), what its value equals.
        sites: paths of the output projections of its sites.
        block: path of the block of its first site.
        grouped: whether heads share key/value heads.
    """

    record: Architecture
    counted: Mapping[str, str]
    sites: tuple[str, ...]
    block: str
    grouped: bool = False


def starred(path: str) -> str:
    """Write `*` for the numbers in a path."""
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def place_of(site: Site, parameters: Sequence[str]) -> Place:
    """Split the paths of a site at its block: the last numbered module that holds both."""
    common = _common(site.attention, site.output)
    parts = common.split(".") if common else []
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    end = numbers[-1] + 1 if numbers else len(parts)
    block = ".".join(parts[:end])
    attention = site.attention
    while attention != common and not any(p.startswith(f"{attention}.") for p in parameters):
        attention = attention.rpartition(".")[0]
    pattern = starred(block)
    return Place(pattern, block, _below(block, attention), _below(block, site.output))


def _common(one: str, other: str) -> str:
    pairs = zip(one.split("."), other.split("."), strict=False)
    kept: list[str] = []
    for a, b in pairs:
        if a != b:
            break
        kept.append(a)
    return ".".join(kept)


def _below(block: str, path: str) -> str:
    return path.removeprefix(block).lstrip(".")


def candidates(model: nn.Module, model_type: str, sites: Sequence[Site]) -> list[Candidate]:
    """Make one candidate per stack of sites that are alike."""
    stacks: dict[tuple[str, str, str], list[tuple[Site, Place]]] = {}
    for site in sites:
        names = [name for name, _ in model.named_parameters()]
        place = place_of(site, names)
        stacks.setdefault((place.blocks, place.attention, place.output), []).append((site, place))
    return [_candidate(model, model_type, *group[0], group) for group in stacks.values()]


def stack_labels(records: Sequence[Architecture]) -> list[str]:
    """Name stacks by the words of their paths in which they differ; one alone has no name."""
    if len(records) == 1:
        return [""]
    words = []
    for record in records:
        path = f"{record.blocks}.{record.attention}".split(".")
        kept = [w for w in path if w != "*"]
        cross = any(re.search("cross|encoder_attn|EncDec", word, re.IGNORECASE) for word in kept)
        words.append((kept, cross))
    labels: list[str] = []
    for kept, cross in words:
        others = [set(k) for k, _ in words if k is not kept]
        common = set.intersection(*others) if others else set()
        own = [w for w in kept if w not in common] or kept
        stack = next((w for w in own if re.search("coder|vision|text|audio|language", w)), own[0])
        stack = re.sub("_(model|tower|encoder)$", "", stack)
        labels.append(f"{stack}.cross" if cross else stack)
    numbered = [f"{name}.{number}" for number, name in enumerate(labels)]
    pairs = zip(labels, numbered, strict=True)
    return [one if labels.count(one) == 1 else other for one, other in pairs]


def _candidate(
    model: nn.Module,
    model_type: str,
    site: Site,
    place: Place,
    group: Sequence[tuple[Site, Place]],
) -> Candidate:
    found = owned(model, site, place.block)
    size = group_size(found, site.n_heads)
    counts = HeadCounts(site.n_heads, site.n_heads // size, site.head_dim)
    linear = {
        event.path: event
        for event in site.projections
        if event.path.startswith(f"{place.block}.") and event.output.requires_grad
    }
    named = _named(model, site, counts, found, linear)
    if named and counts.n_kv_heads == counts.n_heads:
        rows = output_rows(model.get_submodule(named["value"])).shape[0]
        if named["query"] != named["value"]:
            counts = replace(counts, n_kv_heads=rows // site.head_dim)
        elif not any(p.startswith(named["value"]) and SHARED not in o for p, o in _of(found)):
            counts = replace(counts, n_kv_heads=1)
    taken = {f"{path}.{kind}" for path in named.values() for kind in ("weight", "bias")}
    rows = [
        per_head_rows(each, counts.n_heads, counts.n_kv_heads, _below(place.block, each.path))
        for each in found
        if each.path not in taken
    ]
    attention = model.get_submodule(f"{place.block}.{place.attention}".strip("."))
    layout = "separate"
    if named and named["query"] == named["value"]:
        owners = dict(_of(found))[f"{named['query']}.weight"]
        layout = layout_of(owners, counts) or "separate"
    relative: dict[str, Any] = {part: _below(place.block, path) for part, path in named.items()}
    base = _base(model)
    record = Architecture(
        model_type,
        _below(base, place.blocks) if place.blocks.startswith(base) else place.blocks,
        place.attention,
        output=place.output,
        **relative,
        layout=LAYOUTS[layout],
        rows=tuple(r for r in rows if isinstance(r, PerHead)),
        maps="none",
        derived=True,
        **_numbers(attention, counts, bool(named)),
    )
    some = _is_some(model, record, len(group))
    return Candidate(
        replace(record, some=some),
        dict(_counted(attention, counts)),
        tuple(s.output for s, _ in group),
        place.block,
        counts.n_kv_heads != counts.n_heads,
    )


def _base(model: nn.Module) -> str:
    """Return the path of the base model, which the paths of records begin at."""
    inner = getattr(model, "base_model", model)
    return next((path for path, module in model.named_modules() if module is inner), "")


def _of(found: Sequence[Owned]) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((each.path, each.owners) for each in found)


def _is_some(model: nn.Module, record: Architecture, sites: int) -> bool:
    from deadhead.models.stacks import children_at

    return len(children_at(model.get_submodule(_base(model)), record.blocks)) > sites


def _named(
    model: nn.Module,
    site: Site,
    counts: HeadCounts,
    found: Sequence[Owned],
    linear: Mapping[str, LinearCall],
) -> dict[str, str]:
    """Return the paths of query, key and value if all have `head_dim` features a head."""
    owners = {each.path: each.owners for each in found if each.dim == 0 or "." in each.path}
    of = dict(roles(site, dict(linear)))
    whole = {path: names[0] for path, names in of.items() if len(set(names)) == 1}
    parts: dict[str, str] = {}
    for part in PARTS:
        paths = [path for path, name in whole.items() if name == part]
        wide = [path for path in paths if _rows_fit(model, path, counts, owners)]
        if len(wide) == 1:
            parts[part] = wide[0]
    if len(parts) == len(PARTS):
        return parts
    for path, names in of.items():
        if set(names) == set(PARTS) and f"{path}.weight" in owners:
            for kv in (counts.n_kv_heads, 1):
                shape = replace(counts, n_kv_heads=kv)
                layout = layout_of(owners[f"{path}.weight"], shape)
                if layout and _in_order(names, layout, shape):
                    return dict.fromkeys(PARTS, path)
    return {}


def _rows_fit(
    model: nn.Module, path: str, counts: HeadCounts, owners: Mapping[str, tuple[int, ...]]
) -> bool:
    rows = output_rows(model.get_submodule(path)).shape[0]
    of = owners.get(f"{path}.weight")
    if of is None:
        return rows == counts.head_dim  # one key/value head for all
    heads = [row // counts.head_dim for row in range(rows)]
    return list(of) in (heads, [counts.n_heads + h for h in heads])


def _in_order(names: Sequence[str], layout: str, shape: HeadCounts) -> bool:
    for part in PARTS:
        for index in range(shape.count(part)):
            first = LAYOUTS[layout](part, index, shape)
            if any(name != part for name in names[first : first + shape.head_dim]):
                return False
    return True


def _numbers(attention: nn.Module, counts: HeadCounts, named: bool) -> dict[str, Any]:
    """Return by which attributes the heads of a model of original size are counted."""
    own = _integers(attention)
    sizes = [
        name
        for name, value in own.items()
        if value == counts.head_dim and "head" in name and ("dim" in name or "size" in name)
    ]
    sizes.sort(key=lambda name: (not name.startswith("v_"), name != "head_dim", len(name)))
    heads = _by_value(own, counts.n_heads, "head") or _by_value(own, counts.n_heads, "groups")
    given = {"head_dim": sizes[0]} if sizes else {"heads": heads[0]} if heads else {}
    grouped = counts.n_kv_heads != counts.n_heads
    kv_heads = [n for n in _by_value(own, counts.n_kv_heads, "head") if "k" in n.split(".")[-1]]
    if grouped and not named and kv_heads:
        given["kv_heads"] = kv_heads[0]
    return given


def _by_value(own: Mapping[str, int], value: int, word: str) -> list[str]:
    found = [n for n, v in own.items() if v == value and word in n.split(".")[-1]]
    return sorted(found, key=lambda n: ("." in n, "key" in n or "kv" in n, len(n)))


def _integers(attention: Any, prefix: str = "") -> dict[str, int]:
    """List the whole-number attributes of a module, of its config and of its children."""
    found: dict[str, int] = {}
    for name, value in vars(attention).items():
        if type(value) is int and not name.startswith("_"):
            found[f"{prefix}{name}"] = value
        if isinstance(value, PreTrainedConfig):
            for key, number in value.to_dict().items():
                if type(number) is int:
                    found[f"{prefix}{name}.{key}"] = number
    for name, child in getattr(attention, "_modules", {}).items():
        if child is not None and not list(child.children()):
            found |= {
                f"{prefix}{name}.{key}": number
                for key, number in _integers(child).items()
                if "." not in key and "features" not in key
            }
    return found


def _counted(attention: nn.Module, counts: HeadCounts) -> Iterator[tuple[str, str]]:
    """Yield the attributes whose values count heads, with what they count."""
    values = {
        "heads": counts.n_heads,
        "kv_heads": counts.n_kv_heads,
        "groups": counts.group_size,
        "width": counts.n_heads * counts.head_dim,
        "kv_width": counts.n_kv_heads * counts.head_dim,
    }
    for name, value in _integers(attention).items():
        last = name.split(".")[-1]
        key = "key" in last or "kv" in last
        if "group" in last or last == "n_rep":
            of = "groups"
        elif "head" in last and "size" not in last and "dim" not in last:
            of = "kv_heads" if key else "heads"
        elif value == values["kv_width"] and key:
            of = "kv_width"
        elif last in (*WIDTHS, *HIDDEN) or "width" in last:
            of = "width"
        else:
            continue
        if value == values[of]:
            yield name, of
