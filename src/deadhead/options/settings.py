"""Options that several commands share, and the settings of the strategy clusters and of distill."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from deadhead.errors import BudgetError
from deadhead.options.fields import check_choices, option, settings
from deadhead.options.values import (
    ClusterUnit,
    Distance,
    FirstToken,
    Grouping,
    Representative,
    WardOn,
    parse_seed,
    parse_size,
)

METHOD = "Method"
LIMITS = "How much, and where to stop"
DATA = "Data"
CLUSTERS = "Strategy clusters"
PROMPTS = "Prompts"
DISTILL = "Repair distill"
LM_EVAL = "lm-eval"
MODEL = "Model and device"
OUTPUT = "Output"
PANELS = (METHOD, LIMITS, DATA, PROMPTS, CLUSTERS, DISTILL, LM_EVAL, MODEL, OUTPUT)


NEW_FOLDER = Path("runs/...")  # until it is known what the folder is called


def seed_option() -> Any:
    """Make a field for `--seed`."""
    return option(
        default=0,
        help="Seed of everything that is random: 0 or more.",
        panel=DATA,
        parse=parse_seed,
        raw=int,
    )


def size_option(default: int | None, shown: str, help: str, *flags: str, **more: Any) -> Any:
    """Make a field for a number of examples, or all, which is None."""
    return option(default=default, shown=shown, help=help, flags=flags, parse=parse_size, **more)


def loss_option() -> Any:
    """Make a field for `--loss`."""
    said = "Loss of gradient criteria; by default the criterion's own."
    return option(default=None, help=said, panel=METHOD)


def max_length_option() -> Any:
    """Make a field for `--max-length`."""
    return option(default=None, help="Tokens per example at most.", panel=DATA)


def batch_size_option() -> Any:
    """Make a field for `--batch-size`."""
    return option(
        default=None, help="Examples per batch at most; by default by tokens.", panel=DATA
    )


def strict_option() -> Any:
    """Make a field for `--strict`."""
    return option(
        default=False,
        help="Refuse what otherwise ends in a note: prompts longer than the model's context; fewer"
        " calibration tokens than a repair has unknowns; blocks whose heads give the same output"
        " for every token.",
        panel=DATA,
        group="strict",
    )


def trust_option() -> Any:
    """Make a field for `--trust-remote-code`."""
    return option(default=False, help="Run code that comes with the checkpoint.", panel=MODEL)


def folder_option() -> Any:
    """Make a field for the folder to write; see `run_folder`."""
    return option(
        default=NEW_FOLDER,
        flags=("--output", "-o"),
        help="Folder to write. By default one below runs/ that is named after the options.",
    )


def run_folder(output: Path, *parts: str) -> Path:
    """Return the folder of a run: `output`, or if that is not set, one that is named by `parts`."""
    if output != NEW_FOLDER:
        return output
    name = "-".join(p.strip("./").replace("/", "-").replace(":", "-") for p in parts if p)
    return NEW_FOLDER.with_name(name)


def speed_option(help: str) -> Any:
    """Make a field for `--speed`."""
    return option(default=True, flags=("--speed/--no-speed",), help=help, panel=OUTPUT)


# Of each group of options, what it is for: without that, its options do nothing and are refused.
GROUPS = {
    "heads": "runs without --budget",
    "distill": "--repair distill",
    "groupings": "groupings of heads (--strategy clusters; in a sweep --grouping)",
    "importance": "--grouping importance_budget",
    "prompts": "groupings that compare heads",
    "prompt details": "--prompts",
    "strict": "--prompts",
    "steps": "strategies that remove heads in several moves",
    "scores": "choices that look at scores, made here by a criterion",
    "lm-eval": "--lm-eval",
    "plan": "--plan",
    "calibration": "the repair of a --plan",
    "data": "data that judge (--task)",
    "important": "--importance",
    "samples": "measuring (not --no-measure)",
}

of_clusters = partial(option, panel=CLUSTERS, group="groupings")


@settings
class Clustering:
    """How heads are grouped by what they attend to.

    Raises:
        UnknownNameError: a name that is not known.
    """

    distance: Distance = of_clusters(
        default="cosine",
        help="Distance between attention maps.",
    )
    grouping: Grouping = of_clusters(
        default="balanced",
        help="How heads are grouped; groups of global may span blocks, random is a baseline.",
    )
    representative: Representative = of_clusters(
        default="medoid",
        help="Which head of a group is kept.",
    )
    unit: ClusterUnit = of_clusters(
        default="head",
        help="What is grouped: single heads, or whole key/value heads with their query heads.",
    )
    ward_on: WardOn = of_clusters(
        default="unit",
        help="Run Ward on unit vectors, or on the raw distances, as published.",
    )
    include_padding: bool = of_clusters(
        default=False,
        help="Include padding in the head vectors, as published.",
    )
    first_token: FirstToken = of_clusters(
        default="keep",
        help="What to do with attention to the first token.",
    )
    importance: str | None = option(
        default=None,
        help="Table of scores for grouping importance_budget (.npy, .csv, .json, .safetensors, a"
        " pickled tensor; FILE:KEY if it holds several). By default --criterion scores.",
        panel=CLUSTERS,
        group="importance",
    )
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_choices(self)

    @property
    def scope(self) -> str:
        """What grams the grouping needs: `per_block` or `global`."""
        return "global" if self.grouping == "global" else "per_block"

    @property
    def needs_prompts(self) -> bool:
        """Whether grouping looks at distances: random groups with random representatives do not."""
        return (self.grouping, self.representative) != ("random", "random")

    @property
    def needs_importance(self) -> bool:
        """Whether grouping looks at scores, by a criterion or from a table."""
        return self.grouping == "importance_budget"

    @property
    def needs_scores(self) -> bool:
        """Whether grouping looks at scores by a criterion."""
        return self.needs_importance and self.importance is None

    @property
    def name(self) -> str:
        """Short name for tables: `cosine balanced`."""
        return self.grouping if self.grouping == "random" else f"{self.distance} {self.grouping}"


RANK = 8  # of `lora=True`


of_distill = partial(option, panel=DISTILL, group="distill")


@settings
class Distillation:
    """How a cut model is trained against the dense one.

    Attributes:
        max_steps: optimizer steps, instead of `epochs`.
        warmup: fraction of the steps in which the learning rate rises; then it falls to zero.
        batch_size: samples per step at most; batches are split, never merged.
        logits_weight, outputs_weight: of the divergence from the dense logits, and of the relative
            error of the attention blocks' outputs.
        temperature: of the softmax that logits are compared by.
        evaluations: how often the selection set is evaluated, evenly over the steps.
        patience: stop after so many evaluations without a better one; None: never.
        own_text: share of the tokens that are of text of the model's own making, see
            `deadhead.scoring.own_text.OwnText`; less of large data, as at most 256 texts are made.

    Raises:
        BudgetError: a value with which nothing could be trained.
    """

    epochs: int = of_distill(default=2, help="How often distill sees every text.")
    learning_rate: float = of_distill(
        default=2e-4,
        help="Peak learning rate of distill: the default is for small models and full training;"
        " 1e-3 for --lora, 2e-5 for billions of parameters.",
    )
    seconds: float | None = of_distill(
        default=None,
        help="Time limit of distill in seconds, evaluations included; with one, runs on different"
        " machines differ.",
    )
    lora: int = of_distill(
        default=0,
        help="Rank of adapters that distill trains instead of the weights (8 is usual); 0: none.",
    )
    own_text: float = of_distill(
        default=0.3,
        help="Share of the tokens that distill trains on of which the model is the author, so that"
        " it stays good at other text too; 0: none.",
    )
    max_steps: int | None = None
    warmup: float = 0.05
    batch_size: int = 32
    logits_weight: float = 1.0
    outputs_weight: float = 1.0
    temperature: float = 1.0
    dropout: bool = False
    evaluations: int = 8
    patience: int | None = None
    seed: int = seed_option()

    def __post_init__(self) -> None:
        count = ("epochs", "batch_size", "evaluations", "max_steps", "patience")
        positive = ("learning_rate", "temperature", "seconds")
        for names, fits, allowed in (
            (count, lambda x: x >= 1, "1 or more"),
            (positive, lambda x: 0 < x < math.inf, "a positive number"),
            (("warmup",), lambda x: 0 <= x < 1, "a number in [0, 1); 0.05 is usual"),
            (("own_text",), lambda x: 0 <= x < 1, "a share in [0, 1); 0.3 is usual"),
            (("logits_weight", "outputs_weight"), lambda x: x >= 0, "0 or more"),
            (("weights",), lambda x: x > 0, "logits_weight and outputs_weight not both 0"),
            (("lora",), lambda x: x >= 0, "a rank such as 8, or 0 for none"),
        ):
            for name in names:
                value = getattr(self, name)
                if value is not None and not fits(value):
                    raise BudgetError(f"{name} {value!r} of distill cannot be; give {allowed}")

    @property
    def weights(self) -> float:
        """Sum of both weights."""
        return self.logits_weight + self.outputs_weight

    @property
    def rank(self) -> int:
        """Rank of the adapters; 0 is none."""
        return RANK if self.lora is True else int(self.lora)
