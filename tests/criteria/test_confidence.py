"""confidence against the maps that transformers returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, score
from deadhead.errors import ScoreError
from explicit import each_alone
from models import BACKENDS, MODEL_TYPES, batch, make


def written_out(model_type, inputs):
    """Mean over samples (of ALBERT: and applications) of the mean largest weight of a query."""
    model = make(model_type, "base", backend="eager")
    physical = HeadModel(model).blocks
    rows = [[] for _ in physical]
    for row in each_alone(inputs):
        with torch.no_grad():
            maps = model(input_ids=row["input_ids"], output_attentions=True).attentions
        for layer, found in enumerate(maps):
            choice = (found[0] > 0).all(0).sum(-1) > 1  # (query,): sees more than one key
            largest = found[0].amax(-1)[:, choice]
            if choice.any():
                rows[layer * len(physical) // len(maps)].append(largest.mean(-1).numpy())
    return np.concatenate([np.mean(r, axis=0) for r in rows])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_is_the_mean_of_the_largest_weights(model_type, backend):
    inputs = batch((9, 6, 4, 2))
    found = score(make(model_type, "base", backend=backend), [inputs], "confidence")
    assert found.criterion == "confidence"
    np.testing.assert_allclose(
        np.concatenate(found.values), written_out(model_type, inputs), rtol=1e-6
    )


def test_a_head_that_looks_at_one_token_is_sure_and_a_uniform_head_is_not():
    model = make("bert")
    sure, uniform = Head(2, 1), Head(2, 4)
    with torch.no_grad():
        view = HeadModel(model)
        for part in ("query", "query_bias"):
            view.head_weights(sure)[part].mul_(1e6)
            view.head_weights(uniform)[part].zero_()
    scores = score(model, [batch((8, 8))], "confidence")
    assert scores[uniform] == pytest.approx(1 / 8, abs=1e-12)
    assert scores[sure] == pytest.approx(1, abs=1e-3)
    assert (scores.ranking()[0], scores.ranking()[-1]) == (uniform, sure)


def test_samples_of_one_token_have_nothing_to_choose():
    with pytest.raises(ScoreError, match="confidence saw nothing to count in block 0"):
        score(make("bert"), [batch((1, 1))], "confidence")
    with_one = score(make("gpt2"), [batch((7, 1))], "confidence")
    without = score(make("gpt2"), [batch((7,))], "confidence")
    np.testing.assert_allclose(np.stack(with_one.values), np.stack(without.values), rtol=1e-6)
