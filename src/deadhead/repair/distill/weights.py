"""The weights that a distillation trains: those of the model, or adapters on its projections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from deadhead.errors import HeadError
from deadhead.models.heads import HeadModel
from deadhead.repair.distill.adapters import adapted, cut_projections
from deadhead.repair.distill.judge import Best
from deadhead.repair.distill.state import Sleepers, copies, put_back_, wide


class Weights:
    """The weights of a model that change, and what they were.

    Raises:
        HeadError: there is nothing to train.
    """

    def __init__(self, view: HeadModel, rank: int):
        self.view, self.rank = view, rank
        self.sleepers = Sleepers(view)
        self.projections = cut_projections(view, self.sleepers) if rank else {}
        adapted_ = [_weight(module) for module in self.projections.values()]
        self.changing = adapted_ if rank else trainable(view.model)
        self.start = copies(self.changing)
        half = any(p.element_size() < 4 for p in self.changing)
        # in the end the best weights are merged or rounded, and are no longer what was judged
        self.approximate = half or rank > 0

    @contextmanager
    def training(self, best: Best) -> Iterator[list[nn.Parameter]]:
        """Yield what to train; however the context is left, the model then has the best of them."""
        model = self.view.model
        try:
            with wide(model), ExitStack() as stack:
                adapters, trained = None, self.changing
                if self.rank:
                    adapters = stack.enter_context(adapted(model, self.projections, self.rank))
                    trained = [p for p in model.parameters() if p.requires_grad]
                model.requires_grad_(False)
                for parameter in trained:
                    parameter.requires_grad_(True)
                stack.enter_context(self.sleepers.silenced())
                try:
                    yield trained
                finally:
                    if best.weights is not None:
                        put_back_(trained, best.weights)
                        if adapters is not None:
                            adapters.merge = True
        finally:
            self.sleepers.zero_()
            if best.weights is None:
                self.undo_()

    def undo_(self) -> None:
        """Give the model the weights that it came with, bit for bit."""
        put_back_(self.changing, self.start)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return every weight that is not frozen, without token embeddings and what is tied to them.

    They are most of a small model, and no head ever touched them.

    Raises:
        HeadError: there is none.
    """
    given: Any = model
    embeddings = given.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    left_out = set() if embeddings is None else {id(p) for p in embeddings.parameters()}
    found = [p for p in model.parameters() if p.requires_grad and id(p) not in left_out]
    if not found:
        raise HeadError(
            "every weight of the model is frozen; call model.requires_grad_(True), or train"
            " adapters (lora=8)"
        )
    return found


def _weight(module: Any) -> nn.Parameter:
    return module.weight
