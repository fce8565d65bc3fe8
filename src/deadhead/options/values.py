"""Values that options take: choices, which editors complete, and amounts as people type them."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Literal

from deadhead.errors import BudgetError

CriterionName = Literal[
    "ablation",
    "attention_entropy",
    "confidence",
    "file",
    "fisher",
    "gradient_norm",
    "magnitude",
    "output_norm",
    "random",
    "reconstruction",
    "shapley",
    "taylor",
]
Strategy = Literal["auto", "one_shot", "greedy", "second_look", "search", "clusters"]
Repair = Literal["auto", "none", "bias", "least_squares", "least_squares_sequential", "distill"]
DEFAULT_REPAIR = "least_squares"  # what `auto` repairs with
RepairAt = Literal["step", "end"]
Scope = Literal["global", "per_block"]
Gqa = Literal["whole_groups", "equalize", "ungroup"]
Action = Literal["remove", "mask", "duplicate", "fold"]
Slope = Literal["target", "source"]
Loss = Literal["task", "kl", "logit_norm"]
Kind = Literal[
    "classification",
    "embeddings",
    "image_classification",
    "masked_lm",
    "minimal_pairs",
    "multi_label",
    "multiple_choice",
    "perplexity",
    "question_answering",
    "regression",
    "seq2seq",
    "speech_recognition",
    "token_classification",
]
ExportFormat = Literal["padded", "uniform", "onnx"]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Distance = Literal["cosine", "euclidean"]
Grouping = Literal["balanced", "nearest_pairs", "importance_budget", "global", "random"]
Representative = Literal["medoid", "random"]
ClusterUnit = Literal["head", "kv"]
WardOn = Literal["unit", "raw"]
FirstToken = Literal["keep", "drop", "renormalize"]


Amount = int | float | str  # of heads: `36`, `0.5` or `"50%"`


def parse_amount(text: str | float) -> int | float:
    """Read an amount of heads: `36`, `50%` or `0.5`.

    Raises:
        BudgetError: it is neither a count nor a percentage nor a fraction.
    """
    if not isinstance(text, str):
        return text
    try:
        if text.endswith("%"):
            value: int | float = float(text[:-1]) / 100  # NaN is refused below
        else:
            value = int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError as error:
        raise BudgetError(
            f"{text!r} is not an amount of heads; write a count (36), a percentage (50%) or a"
            " fraction (0.5)"
        ) from error
    if not (0 < value <= 1 if isinstance(value, float) else value > 0):
        raise BudgetError(
            f"{text!r} is not an amount of heads: write 1% to 100%, or a count of 1 or more"
        )
    return value


def count_heads(amount: int | float | str, total: int) -> int:
    """Turn an amount of heads into a count: `int` counts, `float` in (0, 1] is a fraction.

    Text is read as `parse_amount` does: `"36"`, `"50%"` or `"0.5"`.

    A fraction is rounded to the nearest count, halves down, so `.5` of 7 is 3.

    Raises:
        BudgetError: a count outside 0..total, or a fraction outside (0, 1].
    """
    if isinstance(amount, bool) or not isinstance(amount, (Real, str)):
        raise BudgetError(
            f"{amount!r:.80} heads: give a count (int), a fraction (float) in (0, 1], or '50%'"
        )
    amount = parse_amount(amount)
    if isinstance(amount, Integral):
        if not 0 <= amount <= total:
            raise BudgetError(f"{amount:.6g} heads were asked for, but the model has {total}")
        return int(amount)
    if not 0 < amount <= 1:
        raise BudgetError(f"{amount!r} of the heads: a fraction is in (0, 1]; for a count give int")
    return math.ceil(amount * total - 0.5 - 1e-9)


def show_amount(amount: Amount) -> str:
    """Write an amount as it is typed: `36` or `50%`."""
    amount = parse_amount(amount)
    if isinstance(amount, int):
        return str(amount)
    percent = amount * 100
    return f"{percent:.0f}%" if math.isclose(percent, round(percent)) else f"{percent:.6g}%"


def parse_shares(text: str) -> tuple[float, ...]:
    """Read shares of the heads with commas: `25%,50%`; each once."""
    amounts = {name: parse_amount(name) for name in parse_names(text)}
    for name, amount in amounts.items():
        if not isinstance(amount, float):
            raise BudgetError(f"{name!r} is a number of heads; give a share of them, as 25%")
    return tuple(dict.fromkeys(map(float, amounts.values())))


def parse_size(text: str) -> int | None:
    """Read a number of examples, or `all`, which is None."""
    if text == "all":
        return None
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise BudgetError(f"{text!r} is not a number of examples; write 1 or more, or all")
    return int(text)


def parse_seed(seed: int) -> int:
    """Check a seed."""
    if seed < 0:
        raise BudgetError(f"seed {seed} cannot be used; give 0 or more")
    return seed


def parse_names(text: str) -> tuple[str, ...]:
    """Read names with commas, each once; `none` is empty."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return () if names == ["none"] else tuple(dict.fromkeys(names))
