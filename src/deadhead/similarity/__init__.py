"""How similar heads are: distances between their attention maps, and groups of similar heads."""

from typing import TYPE_CHECKING

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.options.settings import Clustering
    from deadhead.similarity.agreement import adjusted_rand, removed_share
    from deadhead.similarity.clusters import REPRESENTATIVES, WARD_ON, cut_tree, linkage
    from deadhead.similarity.distances import (
        METRICS,
        GramFn,
        HeadDistances,
        Unit,
        check_units,
        kv_units,
        measured,
        read_distances,
        save_distances,
        unmeasured,
    )
    from deadhead.similarity.gram import FIRST_TOKEN, GRAM_SCOPES, HeadGrams, head_grams
    from deadhead.similarity.groupings import GROUPINGS, Group, cluster, copies_of, group, labels_of

__getattr__, __dir__ = lazy_exports(__name__, __file__)
