"""How alike heads are: distances between their attention maps, and groups of heads alike."""

from deadhead.options.clustering import Clustering
from deadhead.similarity.agreement import adjusted_rand, agreement, removed_share
from deadhead.similarity.clustering import GramFn, check_units, cluster, measured, unmeasured
from deadhead.similarity.clusters import REPRESENTATIVES, WARD_ON, cut, linkage
from deadhead.similarity.distances import (
    METRICS,
    HeadDistances,
    Unit,
    distances,
    kv_units,
    read_distances,
    save_distances,
)
from deadhead.similarity.gram import FIRST_TOKEN, SCOPES, HeadGrams, head_grams
from deadhead.similarity.groupings import GROUPINGS, group
from deadhead.similarity.groups import Group, copies_of, labels_of

__all__ = [
    "FIRST_TOKEN",
    "GROUPINGS",
    "METRICS",
    "REPRESENTATIVES",
    "SCOPES",
    "WARD_ON",
    "Clustering",
    "GramFn",
    "Group",
    "HeadDistances",
    "HeadGrams",
    "Unit",
    "adjusted_rand",
    "agreement",
    "check_units",
    "cluster",
    "copies_of",
    "cut",
    "distances",
    "group",
    "head_grams",
    "kv_units",
    "labels_of",
    "linkage",
    "measured",
    "read_distances",
    "removed_share",
    "save_distances",
    "unmeasured",
]
