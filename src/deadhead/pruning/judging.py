"""What judges the models of a run: a task, or the divergence from the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from deadhead.data.inputs import call, ready
from deadhead.errors import BudgetError
from deadhead.losses.divergence import Probe
from deadhead.models.heads import HeadModel
from deadhead.models.modes import eval_mode
from deadhead.pruning.recipe import Recipe

if TYPE_CHECKING:
    from deadhead.tasks import Evaluation, Task, TaskSet

Change = Callable[[], AbstractContextManager[nn.Module]]


class RunJudge(Protocol):
    """Say how good the model of a run is, as it was given and as it is changed.

    Attributes:
        on: the set that it looks at: `test`, `selection` or `held_out`.
        metric: name of the metric.
        greater_is_better: False for perplexity and divergence.
        size: number of examples.
        points: how many points of a curve are worth judging, the dense model aside.
    """

    on: str
    metric: str
    greater_is_better: bool
    points: int

    @property
    def size(self) -> int:
        """Number of examples."""
        ...

    def dense(self) -> Evaluation:
        """Judge the model as it was given."""
        ...

    def changed(self, change: Change) -> Evaluation:
        """Judge what a context changes the model to, or what model it yields."""
        ...


class TaskJudge:
    """Judge by the metric of a task."""

    points = 8  # ten models in all, with the dense one and the one that is really cut

    def __init__(self, view: HeadModel, task: Task, on: str):
        self.view, self.task, self.on = view, task, on
        self.metric, self.greater_is_better = task.metric, task.greater_is_better

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.task.size

    def dense(self) -> Evaluation:
        """Judge the model as it was given."""
        return self.task.evaluate(self.view.model)

    def changed(self, change: Change) -> Evaluation:
        """Judge what a context changes the model to, or what model it yields."""
        with change() as model:
            return self.task.evaluate(model)


class TextJudge:
    """Judge by the divergence from the dense model's answers to held-out text, in nats."""

    on, metric, greater_is_better, points = "held_out", "divergence", False, 1

    def __init__(self, view: HeadModel, text: Task | None):
        self.view = view
        self.probes = [Probe(batch) for batch in text.batches()] if text is not None else []
        self.size = 0 if text is None else text.size

    def dense(self) -> Evaluation:
        """Return no divergence for every example."""
        return _divergence(torch.zeros(self.size))

    def changed(self, change: Change) -> Evaluation:
        """Measure the divergence of what a context changes the model to.

        Cost: two forward passes over the text.
        """
        return _divergence(*divergences_of(self.view, self.probes, [change]))


@contextmanager
def as_it_is(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model of its own, in eval mode."""
    with eval_mode(model):
        yield model


def _divergence(values: Tensor) -> Evaluation:
    from deadhead.tasks import Evaluation

    mean = float(values.mean()) if len(values) else float("nan")
    return Evaluation("divergence", mean, {"divergence": mean}, values.numpy())


def judge_for(view: HeadModel, tasks: TaskSet, recipe: Recipe) -> RunJudge:
    """Return what judges a run: the selection set under `max_drop`, the test set, or text.

    Raises:
        BudgetError: `max_drop` without a selection set.
    """
    if recipe.max_drop is None:
        if tasks.test is not None:
            return TaskJudge(view, tasks.test, "test")
        return TextJudge(view, tasks.held_out)
    if tasks.selection is None:
        raise BudgetError(
            "max_drop stops on a selection set, and there is none; give one with --selection"
            " (the test set is for reporting only)"
        )
    return TaskJudge(view, tasks.selection, "selection")


def divergences_of(
    view: HeadModel, probes: Sequence[Probe], changes: Sequence[Change]
) -> list[Tensor]:
    """Return how far each of some changes takes a model from the dense one, by answers.

    Shape: (answers,) for each. Unit: nats. Cost: a forward pass over the probes for the dense model
    and for each change; one batch's answers in memory.
    """
    found: list[list[Tensor]] = [[] for _ in changes]
    with view.at_rest(), torch.no_grad():
        for probe in probes:
            batch = next(ready(view.model, [probe.batch]), None)
            if batch is None:
                continue
            loss = probe.divergence(view.model, call(view.model, batch), batch)
            for values, change in zip(found, changes, strict=True):
                with change() as model:
                    answers = loss(model, call(model, batch), batch)
                values.append(answers.cpu().double())
    return [torch.cat(values) if values else torch.empty(0) for values in found]
