"""Ablation as anyone would write it first: one head at a time, in plain forward passes."""

from __future__ import annotations

import torch

from deadhead import HeadModel, masked, score
from deadhead.data.batches import aligned, call
from deadhead.losses.losses import task
from models import batch

DATA = [batch(), batch((5, 9, 6, 2), seed=2, padding_side="left")]


def one_at_a_time(model, data, mask=None, loss=task):
    """Loss without each head, less the loss with all of them, in plain forward passes."""
    view = HeadModel(model)
    whole = view.mask if mask is None else view.mask & mask

    def mean_loss(kept):
        with torch.no_grad(), masked(view, kept):
            losses = [loss(model, call(model, aligned(b)), aligned(b)) for b in data]
        return float(torch.cat(losses).mean())

    return {h: mean_loss(whole.drop(h)) - mean_loss(whole) for h in whole.heads}


def assert_exact(model, data=DATA, mask=None, **options):
    expected = one_at_a_time(model, data, mask)
    found = score(model, data, "ablation", mask=mask, **options)
    worst = max(abs(found[head] - value) for head, value in expected.items())
    assert worst <= 1e-9
    assert len(set(expected.values())) > 1, "nothing was compared"
    return found


def singles(data):
    """Samples one by one, without padding."""
    for inputs in map(aligned, data):
        for row, n in enumerate(inputs["attention_mask"].sum(1).tolist()):
            yield {
                k: v[row : row + 1, :n] if v.dim() == 2 else v[row : row + 1]
                for k, v in inputs.items()
            }
