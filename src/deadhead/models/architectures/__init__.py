"""Architecture records: the only place that knows module names. Importing it registers all."""

from deadhead.models.architectures import decoders, encoders, fused
from deadhead.models.architectures.layouts import (
    PARTS,
    HeadCounts,
    features,
    fused_by_part,
    fused_per_head,
    rows_from,
    separate,
)
from deadhead.models.architectures.record import (
    Architecture,
    architecture_named,
    architecture_names,
    architecture_of,
    model_type_of,
    project_nothing,
    register_architecture,
)

__all__ = [
    "PARTS",
    "Architecture",
    "HeadCounts",
    "architecture_named",
    "architecture_names",
    "architecture_of",
    "features",
    "fused_by_part",
    "fused_per_head",
    "model_type_of",
    "project_nothing",
    "register_architecture",
    "rows_from",
    "separate",
]
