"""What judges the models of a run: a task, or without labels how near they are to the dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deadhead.data.batches import Batch, call, ready, samples_in, take_samples
from deadhead.errors import BudgetError
from deadhead.losses.answers import has_head
from deadhead.losses.embeddings import Embedder, cosines, embedder_of
from deadhead.losses.losses import Probe
from deadhead.models.heads import HeadModel
from deadhead.models.hooks import eval_mode
from deadhead.pruning.recipe import Recipe
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassSettings

if TYPE_CHECKING:
    from deadhead.tasks import Evaluation, Task, TaskSet

COSINE = "cosine"  # the metric of models without a head
DIVERGENCE = "divergence"  # the metric where nothing says what is right
OWN_TEXTS = 16  # that a cut model is compared with the dense one on
FROM = 64  # test examples that they begin with or are joined of

Change = Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class RunJudge:
    """What judges the model of a run, as it was given and as a context changes it.

    Attributes:
        on: the set that it looks at: `test`, `selection` or `held_out`.
        metric: name of the metric.
        greater_is_better: False for perplexity and divergence.
        size: number of examples.
        points: how many points of a curve are worth judging, the dense model aside.
        dense: judges the model as it was given.
        changed: judges what a context changes the model to, or what model it yields.
    """

    on: str
    metric: str
    greater_is_better: bool
    size: int
    points: int
    dense: Callable[[], Evaluation]
    changed: Callable[[Change], Evaluation]


def _by_task(view: HeadModel, task: Task, on: str) -> RunJudge:
    def changed(change: Change) -> Evaluation:
        with change() as model:
            return task.evaluate(model)

    points = 8  # ten models in all, with the dense one and the one that is really cut
    better = task.greater_is_better
    dense = partial(task.evaluate, view.model)
    size = getattr(task, "size", 0)  # a task of a caller may not know
    return RunJudge(on, task.metric, better, size, points, dense, changed)


def _by_text(view: HeadModel, text: Task | None) -> RunJudge:
    """Judge by the divergence from the dense model's answers, in nats: two passes a model."""
    probes = [Probe(batch) for batch in text.batches()] if text is not None else []
    size = 0 if text is None else text.size

    return RunJudge(
        "held_out",
        DIVERGENCE,
        greater_is_better=False,
        size=size,
        points=1,
        dense=lambda: _divergence(torch.zeros(size)),
        changed=lambda change: _divergence(*divergences_of(view, probes, [change])),
    )


def _divergence(values: Tensor) -> Evaluation:
    from deadhead.tasks import Evaluation

    mean = float(values.mean()) if len(values) else float("nan")
    return Evaluation(DIVERGENCE, mean, {DIVERGENCE: mean}, values.numpy())


def _by_embeddings(view: HeadModel, samples: Task, embed: Embedder) -> RunJudge:
    """Judge by the cosine of each embedding to the dense model's: two passes a model."""
    batches = samples.batches()

    def evaluation(pairs: Sequence[tuple[Tensor, Tensor]]) -> Evaluation:
        from deadhead.tasks import Evaluation

        near = torch.cat([cosines(*pair).cpu() for pair in pairs]).double()
        far = torch.cat([((a - b) ** 2).sum(-1).sqrt().cpu() for a, b in pairs]).double()
        scale = torch.cat([a.norm(dim=-1).cpu() for a, _ in pairs]).double()
        metrics = {
            COSINE: float(near.mean()),
            "lowest_cosine": float(near.min()),
            "relative_distance": float((far / scale.clamp(min=1e-12)).mean()),
        }
        return Evaluation(COSINE, metrics[COSINE], metrics, near.numpy())

    def changed(change: Change) -> Evaluation:
        pairs = []
        with view.at_rest(), torch.no_grad():
            for batch in ready(view.model, batches):
                dense = embed(view.model, call(view.model, batch), batch)
                with change() as model:
                    pairs.append((dense, embed(model, call(model, batch), batch)))
        return evaluation(pairs)

    itself = torch.ones(samples.size, 1)
    return RunJudge(
        "held_out",
        COSINE,
        greater_is_better=True,
        size=samples.size,
        points=1,
        dense=lambda: evaluation([(itself, itself)]),
        changed=changed,
    )


def _is_headless(view: HeadModel, samples: Task) -> bool:
    """Whether a model predicts nothing and gives hidden states, as seen on one sample."""
    batch = next(ready(view.model, (take_samples(b, [0]) for b in samples.batches())), None)
    if batch is None:
        return False
    with view.at_rest(), torch.no_grad():
        return not has_head(call(view.model, batch))


@contextmanager
def as_it_is(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model of its own, in eval mode."""
    with eval_mode(model):
        yield model


def judge_for(view: HeadModel, tasks: TaskSet, recipe: Recipe) -> RunJudge:
    """Return what judges a run: the selection set under `max_drop`, the test set, or other data.

    Without labels a model is judged by its divergence from the dense one; a model without a head by
    how near its embeddings are.
    """
    if recipe.max_drop is None:
        if tasks.test is not None:
            return _by_task(view, tasks.test, "test")
        if tasks.held_out is not None and _is_headless(view, tasks.held_out):
            return _by_embeddings(view, tasks.held_out, embedder_of(view.model.config))
        return _by_text(view, tasks.held_out)
    if tasks.selection is None:
        raise BudgetError(
            "max_drop stops on a selection set, and there is none; give one with --selection"
            " (the test set is for reporting only)"
        )
    return _by_task(view, tasks.selection, "selection")


def divergences_of(
    view: HeadModel, probes: Sequence[Probe], changes: Sequence[Change]
) -> list[Tensor]:
    """Return how far each of some changes takes a model from the dense one, by answers.

    Shape: (answers,) for each. Unit: nats.
    Cost: a forward pass over the probes for the dense model and each change, a batch at a time.
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


def divergences_by_text(
    view: HeadModel, task: Task, change: Change, *, seed: int = 0
) -> dict[str, Evaluation]:
    """Return how far a change takes a model from its own answers, by kind of text.

    The kinds are `test`, a quarter of a task's examples, and `own`, text of the model's own making
    (see `OwnText`) that no repair was fitted on; models without such text have no `own`.

    Unit: nats per answer; of predicted numbers, half a squared distance.
    Cost: two forward passes over these examples, and another to write some.
    """
    batches: list[Batch] = []
    for batch in task.batches():
        batches.append(batch)
        if sum(map(samples_in, batches)) >= FROM:
            break
    settings = PassSettings(seed + 1)  # not the texts that a repair kept to
    own = OwnText(view, batches, settings, rows=OWN_TEXTS)
    streams = {"test": task.probes(), "own": [Probe(batch) for batch in own.batches]}
    found = {name: divergences_of(view, probes, [change])[0] for name, probes in streams.items()}
    return {name: _divergence(values) for name, values in found.items() if len(values)}
