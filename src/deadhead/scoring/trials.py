"""Trials: the loss under many masks, several masks in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deadhead.data.batches import (
    Batch,
    Part,
    call,
    check_batch,
    parts_of,
    to_device,
    valid_tokens,
    vocabulary_of,
)
from deadhead.data.inputs import is_text, with_decoder_inputs
from deadhead.errors import DataError, ScoreError, not_finite
from deadhead.losses.losses import Loss, divergence_from, loss_named
from deadhead.models.blocks import output_rows
from deadhead.models.heads import HeadModel
from deadhead.scoring.passes import check_shape, not_finite_loss
from deadhead.scoring.replay import OneToken, Recording, one_token, repeated, tensors_in
from deadhead.types import HeadMask

# in one forward pass, all its trials together
FEWEST_TOKENS, MOST_TOKENS = 512, 8192
HIDDEN = 1 << 24  # tokens * features
CPU_HIDDEN = 1 << 18  # per thread: more run out of the cache
MAX_LOGITS = 1 << 26  # 256 MiB in float32
_TRIALS = 4  # as many fit in, at least, unless a single sample is too long


def check_value(loss: str | Loss) -> None:
    """Refuse a loss that does not say how good a model is."""
    if loss_named(loss) is loss_named("logit_norm"):
        raise ScoreError(
            "the loss 'logit_norm' does not say how good a model is; choose 'kl', which needs no"
            " labels, or 'task'"
        )


class Trials:
    """Mean losses of a model on the same samples, with other heads masked in each trial.

    Args:
        view: the model; hooked only while losses are computed.
        data: batches; kept in memory.
        loss: `task`, `kl` (here the divergence from the model as it is given, which needs no
            labels), or a callable `(model, outputs, batch) -> (batch,)`.
        mask: heads it drops are masked in every trial.
        on_batch: called as often as there are batches.
        max_tokens: in one forward pass, unless a single sample has more; None: what suits the
            device.
    """

    def __init__(
        self,
        view: HeadModel,
        data: Iterable[Batch] | None,
        loss: str | Loss = "task",
        *,
        mask: HeadMask | None = None,
        on_batch: Callable[[], None] | None = None,
        max_tokens: int | None = None,
    ):
        check_value(loss)
        self.view = view
        self.mask = view.mask if mask is None else view.mask & mask
        self.loss = loss_named(loss)
        self.diverges = self.loss is loss_named("kl")
        self.max_tokens = _best(view) if max_tokens is None else max_tokens
        batches = list(data or ())
        for number, batch in enumerate(batches):
            check_batch(batch, number, vocabulary_of(view.model))
        batches = [with_decoder_inputs(view.model, batch) for batch in batches]
        self.parts = parts_of(batches, self.max_tokens // _TRIALS)
        self.samples = sum(part.samples for part in self.parts)
        if not self.samples:
            raise DataError("there are no calibration samples; give at least one batch")
        if any(len(valid_tokens(part.inputs)) != part.samples for part in self.parts):
            raise DataError(
                "trials of many masks cannot run samples of several choices (multiple choice);"
                " choose a criterion other than ablation and shapley"
            )
        self.ran: set[int] = set()
        self._token: OneToken | None = None
        self._progress = _Progress(len(batches), on_batch or (lambda: None))

    def losses(self, masks: Sequence[HeadMask], *, share: float = 1.0) -> np.ndarray:
        """Return the mean loss over samples under each mask and `self.mask`.

        Shape: (masks,), float64. `share` is how much of the progress bar this call is.
        Unit: that of the loss; nats for `task` and `kl`; lower is better.
        Cost: one forward pass (two for `kl` with heads off in every trial), and for each mask the
        layers from the first block that differs from `self.mask`, without its attention.

        Raises:
            ScoreError: a loss is not finite, or not one number per sample.
            DataError: the batches lack labels.
        """
        plan = _Plan(self.view, self.mask, [self.mask & mask for mask in masks])
        totals = torch.zeros(len(masks), dtype=torch.float64)
        with self.view.at_rest(), torch.no_grad():
            for part in self.parts:
                for trials, losses in self._of(part, plan):
                    totals[trials] += losses.sum(-1)
                self._progress.add(share * part.samples / self.samples)
        return (totals / self.samples).numpy()

    def _of(self, part: Part, plan: _Plan) -> Iterator[tuple[list[int], Tensor]]:
        """Yield (numbers of trials, their losses of shape (trials or 1, samples)) of one part."""
        view, samples = self.view, part.samples
        inputs, recording = to_device(part.inputs, view.device), Recording(view, samples)
        dense = call(view.model, inputs) if self.diverges and self.mask != view.mask else None
        with plan.on([], samples):
            with recording.recording():
                outputs = call(view.model, inputs)
            self.ran |= recording.ran
            loss = self.loss
            if self.diverges:
                loss = divergence_from(view.model, outputs if dense is None else dense, inputs)
            losses = loss(view.model, outputs, inputs)
            check_shape(losses, samples)
            if not torch.isfinite(losses).all():
                raise not_finite_loss(view, inputs, _batch(losses, part))
            token = self._token_of(part, inputs, outputs, recording)
        largest = max((x.numel() for x in tensors_in(outputs)), default=1)
        most = min(self.max_tokens // part.tokens, MAX_LOGITS // max(1, largest))
        del dense, outputs
        yield plan.unchanged, _wide(losses)[None]
        for block, trials in plan.changed.items():
            for some in _evenly(trials, max(1, most)):
                several = {k: repeated(v, samples, len(some)) for k, v in inputs.items()}
                # blocks of several stacks are not numbered in the order in which they are computed
                one = len(view.records) == 1 and recording.by_sample
                replaying = recording.replaying(block, len(some)) if one else nullcontext()
                with plan.on(some, samples), token.alone(), replaying:
                    outputs = call(view.model, several)
                losses = loss(view.model, outputs, several)
                check_shape(losses, len(some) * samples)
                losses = losses.unflatten(0, (len(some), samples))
                if not torch.isfinite(losses).all():
                    raise plan.not_finite(some, losses, part)
                yield some, _wide(losses)

    def _token_of(self, part: Part, inputs: Batch, outputs: Any, recording: Recording) -> OneToken:
        """Find the token that is read; without padding it is at the same end at any length."""
        if len(self.view.records) > 1 or not is_text(inputs):
            return OneToken()
        if part.padded:
            return one_token(self.view, inputs, outputs, recording)
        if self._token is None:
            self._token = one_token(self.view, inputs, outputs, recording)
        return self._token.among(part.tokens // part.samples)


class _Plan:
    """Which heads are on in which trial, and from which block on that matters."""

    def __init__(self, view: HeadModel, always: HeadMask, masks: Sequence[HeadMask]):
        self.view, self.always, self.masks = view, always, masks
        self._on = [  # per block (trials, heads there now)
            torch.tensor([[m.kept[b][i] for i in block.original.heads] for m in (always, *masks)])
            for b, block in enumerate(view.blocks)
        ]
        self.unchanged: list[int] = []
        self.changed: dict[int, list[int]] = {}
        for trial, mask in enumerate(masks):
            blocks = (b for b, row in enumerate(mask.kept) if row != always.kept[b])
            first = next(blocks, None)
            if first is not None and len(view.records) > 1:
                first = 0  # nothing is replayed
            at = self.unchanged if first is None else self.changed.setdefault(first, [])
            at.append(trial)

    def on(self, trials: list[int], samples: int) -> AbstractContextManager[None]:
        """Gate the model for these trials, one copy of the samples each; none: `always`."""
        rows = [1 + trial for trial in trials] or [0]
        gates = [on[rows].repeat_interleave(samples, 0) for on in self._on]
        return self.view.gated([gate.to(self.view.device) for gate in gates])

    def not_finite(self, trials: list[int], losses: Tensor, part: Part) -> ScoreError:
        """Say which trial of which batch is not finite."""
        trial = int(torch.nonzero(~torch.isfinite(losses).all(1))[0])
        gone = set(self.always.heads) - set(self.masks[trials[trial]].heads)
        names = ", ".join(map(str, sorted(gone)[:3])) + (", ..." if len(gone) > 3 else "")
        loss = float(losses[trial].sum())
        return not_finite(
            f"the loss of batch {_batch(losses[trial], part)} is {loss} without head {names}"
        )


class _Progress:
    """Calls back as often as there are batches, however the work is cut."""

    def __init__(self, batches: int, on_batch: Callable[[], None]):
        self.batches, self.on_batch = batches, on_batch
        self.done, self.told = 0.0, 0

    def add(self, share: float) -> None:
        self.done += share
        while self.told + 1 <= self.done * self.batches + 1e-6:
            self.told += 1
            self.on_batch()


def _best(view: HeadModel) -> int:
    """Return how many tokens a forward pass should have: few for a wide model on a CPU."""
    hidden = max(len(output_rows(block.output)) for block in view.blocks)
    on_cpu = view.device.type == "cpu"
    fit = CPU_HIDDEN * torch.get_num_threads() if on_cpu else HIDDEN
    return min(max(fit // hidden, FEWEST_TOKENS), MOST_TOKENS)


def _batch(losses: Tensor, part: Part) -> int:
    return part.batches[int(torch.nonzero(~torch.isfinite(losses))[0])]


def _evenly(trials: list[int], most: int) -> Iterator[list[int]]:
    for some in np.array_split(trials, -(-len(trials) // most)):
        yield some.tolist()


def _wide(losses: Tensor) -> Tensor:
    return losses.detach().cpu().double()  # some devices lack float64
