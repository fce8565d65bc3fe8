"""How heads are grouped by what they attend to, as plain values."""

from __future__ import annotations

from functools import partial

from deadhead.options.choices import (
    ClusterUnit,
    Distance,
    FirstToken,
    Grouping,
    Representative,
    WardOn,
)
from deadhead.options.fields import check_choices, option, settings
from deadhead.options.flags import seed_option
from deadhead.options.panels import CLUSTERS

of_clusters = partial(option, panel=CLUSTERS, group="clusters")


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
