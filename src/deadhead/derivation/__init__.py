"""Find the heads of a model type that has no written record, by tracing a tiny random model."""

from typing import TYPE_CHECKING

from deadhead.files import lazy_exports

if TYPE_CHECKING:
    from deadhead.derivation.exercises import Exercise
    from deadhead.derivation.tiny import default_config, model_class, tiny_config, tiny_model

__getattr__, __dir__ = lazy_exports(__name__, __file__)
