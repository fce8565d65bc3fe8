"""Architecture records: the only place that knows module names. Importing it registers all."""

from deadhead.architectures import decoders, encoders, fused  # noqa: F401 - they register
from deadhead.architectures.layouts import (
    PARTS,
    HeadCounts,
    features,
    fused_by_part,
    fused_per_head,
    separate,
)
from deadhead.architectures.record import (
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
    "separate",
]
