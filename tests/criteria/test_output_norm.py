"""output_norm against what each head adds, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, remove_, score
from explicit import class_loss, seen_alone
from masks import random_mask
from models import MODEL_TYPES, batch, make


def written_out(model, inputs):
    """Mean over samples (of ALBERT: and applications) of the mean norm of what a head adds."""
    view = HeadModel(model)
    expected = []
    for number, applied in enumerate(seen_alone(model, inputs, class_loss)):
        heads = [Head(number, i) for i in view.blocks[number].original.heads]
        slices = [view.head_weights(h)["output"].detach().numpy() for h in heads]
        rows = [
            [
                np.linalg.norm(x.reshape(len(x), len(heads), -1)[:, at] @ w.T, axis=1).mean()
                for at, w in enumerate(slices)
            ]
            for _, x, _ in applied
        ]
        expected.append(np.mean(rows, axis=0))
    return expected


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_is_the_mean_norm_of_what_a_head_adds(model_type):
    model, inputs = make(model_type), batch((9, 6, 4, 2))
    found = score(model, [inputs], "output_norm")
    np.testing.assert_allclose(
        np.concatenate(found.values), np.concatenate(written_out(model, inputs)), rtol=1e-9
    )


def test_it_needs_neither_labels_nor_gradients_and_works_on_a_cut_model():
    model, inputs = make("llama"), batch()
    mask = random_mask(HeadModel(model).mask, 3)
    remove_(model, PruningPlan(mask, gqa="ungroup"))
    expected = written_out(model, inputs)
    del inputs["labels"]
    with torch.inference_mode():
        found = score(model, [inputs], "output_norm")
    assert "loss" not in found.provenance
    for block, row in enumerate(expected):
        kept = list(mask.kept_in(block))
        np.testing.assert_allclose(found.values[block][kept], row, rtol=1e-9)


def test_planted_truths():
    model = make("bert")
    loud, dead = Head(1, 3), Head(2, 0)
    with torch.no_grad():
        HeadModel(model).head_weights(loud)["output"].mul_(50)
        HeadModel(model).head_weights(dead)["output"].zero_()
    scores = score(model, [batch()], "output_norm")
    assert scores[dead] == 0
    assert (scores.ranking()[0], scores.ranking()[-1]) == (dead, loud)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_does_not_spoil_the_norms(dtype):
    model = make("bert", dtype=dtype)
    with torch.no_grad():  # squares of what these add are more than half precision holds
        for block in HeadModel(model).blocks:
            block.output.weight.mul_(100)
    wide = make("bert", dtype=torch.float32)
    wide.load_state_dict(model.state_dict())
    found = np.concatenate(score(model, [batch()], "output_norm").values)
    expected = np.concatenate(score(wide, [batch()], "output_norm").values)
    np.testing.assert_allclose(found, expected, rtol=0.05)
