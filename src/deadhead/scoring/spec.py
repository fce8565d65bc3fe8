"""A criterion as people write it, parsed once: `taylor`, `gradient_norm:reduction=batch`, `a+b`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deadhead.criteria.base import CRITERIA, Criterion, ScoresMasks
from deadhead.errors import UnknownNameError, unknown_name
from deadhead.models.heads import HeadModel
from deadhead.types import HeadScores


@dataclass(frozen=True, eq=False)
class CriterionPart:
    """One criterion of a spec, with its options.

    Attributes:
        text: as it was written.
        kind: the registered class.
        options: what it is made with.
    """

    text: str
    kind: Any
    options: Mapping[str, Any]

    def make(self, view: HeadModel, seed: int = 0) -> Criterion:
        """Make the criterion for a model."""
        seeded = {"seed": seed} if "seed" in inspect.signature(self.kind).parameters else {}
        return self.kind(view, **self.options, **seeded)


@dataclass(frozen=True, eq=False)
class CriterionSpec:
    """One criterion, or several joined by `+`, whose ranks are averaged.

    Attributes:
        text: as it was written.
        parts: the criteria.

    Example:
        >>> spec = CriterionSpec.parse("taylor+attention_entropy:normalized=true")
        >>> [part.text for part in spec.parts], spec.losses
        (['taylor', 'attention_entropy:normalized=true'], ['task'])
    """

    text: str
    parts: tuple[CriterionPart, ...]

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> CriterionSpec:
        """Read a spec.

        A `+` that no criterion's name follows is part of an option: of a path, or of `1e+2`.

        Raises:
            UnknownNameError: a criterion or an option is not known, or a name is empty.
        """
        if not isinstance(text, str):
            raise unknown_name("criterion", text, CRITERIA)
        pieces = text.split("+")
        parts: list[str] = []
        for piece in pieces:
            if parts and ":" in parts[-1] and piece.split(":")[0] not in CRITERIA:
                parts[-1] += f"+{piece}"
                continue
            if not piece and len(pieces) > 1:
                raise UnknownNameError(
                    f"criterion {text!r} has an empty part; join names by '+', as in"
                    " taylor+magnitude"
                )
            parts.append(piece)
        return cls(text, tuple(_part(part) for part in parts))

    @property
    def uses_data(self) -> bool:
        """Whether scoring runs the model on data."""
        return any(part.kind.needs for part in self.parts)

    @property
    def needs_trials(self) -> bool:
        """Whether a criterion evaluates many masks."""
        return any("trials" in part.kind.needs for part in self.parts)

    @property
    def scores_masks(self) -> bool:
        """Whether one pass over the dense model scores every mask."""
        return all(issubclass(part.kind, ScoresMasks) for part in self.parts)

    @property
    def losses(self) -> list[str]:
        """The losses that the criteria differentiate where the caller names none."""
        return list(dict.fromkeys(p.kind.loss for p in self.parts if p.kind.loss is not None))

    def combined(self, scores: Mapping[str, HeadScores]) -> HeadScores:
        """Return the scores of its one criterion, or the mean of the ranks of several.

        Ranks run over all scored heads, from 0 (least important) to 1; ties share the mean of their
        ranks. A head that one of the criteria did not score is not scored.

        Args:
            scores: of each part, by its text.
        """
        parts = [part.text for part in self.parts]
        if len(parts) == 1:
            return scores[parts[0]]
        ranks = np.mean([_ranks(scores[part]) for part in parts], axis=0)
        rows = np.split(ranks, np.cumsum(scores[parts[0]].counts)[:-1])
        return HeadScores(tuple(rows), self.text, {part: scores[part].provenance for part in parts})


def make_criterion(text: str, view: HeadModel, *, seed: int = 0) -> Any:
    """Make one criterion from `name` or `name:option=value:option=value`.

    Raises:
        UnknownNameError: there is no such criterion, or it has no such option.
    """
    return _part(text).make(view, seed)


def _part(text: str) -> CriterionPart:
    name, *pairs = text.split(":")
    kind = CRITERIA[name]
    parameters = inspect.signature(kind).parameters
    known = {p: parameters[p].default for p in parameters if p not in ("view", "seed")}
    texts: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        last = next(reversed(texts), None)
        if last is not None and known[last] == "" and not (equals and key in known):
            texts[last] += f":{pair}"  # paths and names of tables may hold colons
            continue
        if not known:
            raise UnknownNameError(f"criterion {name!r} has no options, got {pair!r}")
        if key not in known or not equals:
            raise unknown_name(f"option of {name}", key, known)
        texts[key] = value
    options = {key: _option(name, key, value, known[key]) for key, value in texts.items()}
    return CriterionPart(text, kind, options)


def _option(criterion: str, key: str, text: str, default: Any) -> Any:
    """Read an option's value as the type of its default."""
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text) if kind in (int, float) else text
    except (KeyError, ValueError) as error:
        allowed = "true or false" if kind is bool else f"a number, as in {default}"
        raise UnknownNameError(
            f"option {key}={text!r} of {criterion} cannot be read; write {allowed}"
        ) from error


def _ranks(scores: HeadScores) -> np.ndarray:
    from scipy.stats import rankdata  # slow to import

    flat = np.concatenate(scores.values)
    ranks = rankdata(flat, nan_policy="omit")
    return (ranks - 1) / max(1, np.count_nonzero(~np.isnan(flat)) - 1)
