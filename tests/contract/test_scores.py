"""Laws for every criterion, on every architecture: registering one enrols it here."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, masked, remove_, score, score_all
from deadhead.criteria import CRITERIA
from deadhead.criteria.base import ScoresMasks
from masks import random_mask
from models import BACKENDS, DECODERS, MODEL_TYPES, batch, make

SHORT = {"shapley": "shapley:permutations=2:precision=0:tolerance=0"}
EVERYTHING = [
    *(SHORT.get(c, c) for c in CRITERIA if c != "file"),  # which looks at nothing
    "attention_entropy:normalized=true",
    "reconstruction:weight=none",
    "fisher+output_norm",
]


def class_of(name):
    """The class of a criterion, or of the first of several."""
    return CRITERIA[name.split("+")[0].split(":")[0]]


# the others score every mask from one pass over the dense model
ANEW = [c for c in EVERYTHING if class_of(c).needs and not issubclass(class_of(c), ScoresMasks)]
LENGTHS = (9, 6, 4, 7, 5, 9, 2, 3) * 4


def rows_of(inputs, size):
    """Split a batch into batches of `size`, each padded no more than it needs."""
    for start in range(0, len(LENGTHS), size):
        part = {k: v[start : start + size] for k, v in inputs.items()}
        longest = int(part["attention_mask"].sum(1).max())
        yield {k: v[:, :longest] if v.dim() == 2 else v for k, v in part.items()}


def assert_same(found, expected, *, relative=1e-6):
    for name, scores in expected.items():
        largest = max(np.nanmax(np.abs(row)) for row in scores.values)
        for a, b in zip(found[name].values, scores.values, strict=True):
            log = name.startswith("gradient_norm")  # a difference of logs is a relative one
            difference = "trials" in class_of(name).needs  # of two losses: as exact as these are
            bound = {"rtol": relative, "atol": 0}
            if log or difference:
                bound = {"rtol": 0, "atol": relative * (1 if log else largest)}
            np.testing.assert_allclose(a, b, **bound, err_msg=name)


@functools.cache
def reference(model_type):
    return score_all(make(model_type), [batch(LENGTHS)], EVERYTHING)


@pytest.mark.parametrize("size", (1, 8))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.slow
def test_scores_do_not_depend_on_batch_size(model_type, size):
    batches = list(rows_of(batch(LENGTHS), size))
    assert_same(score_all(make(model_type), batches, EVERYTHING), reference(model_type))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_scores_do_not_depend_on_the_padding_side(model_type):
    left = batch(LENGTHS, padding_side="left")
    assert_same(score_all(make(model_type), [left], EVERYTHING), reference(model_type))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.slow
def test_scores_do_not_depend_on_the_backend_or_on_company(model_type, backend):
    model = make(model_type, backend=backend)
    together = score_all(model, [batch(LENGTHS)], EVERYTHING, loss="task")
    for name in EVERYTHING:
        alone = {name: score(model, [batch(LENGTHS)], name, loss="task")}
        # transformers' own attention may take the softmax in float32; ours takes it in float64
        assert_same(alone, {name: together[name]}, relative=1e-5)
        if name != "gradient_norm":  # in company it differentiates theirs
            assert_same(alone, {name: reference(model_type)[name]}, relative=1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_planted_dead_head_ranks_last(model_type):
    model = make(model_type)
    view = HeadModel(model)
    number = len(view.blocks) - 1
    group = view.blocks[number].shape.group_size
    dead = [Head(number, i) for i in range(group, 2 * group)]  # one key/value head's queries
    with torch.no_grad():
        for part in ("value", "value_bias"):
            if part in view.head_weights(dead[0]):
                view.head_weights(dead[0])[part].zero_()
    silent = ["taylor", "fisher", "gradient_norm", "magnitude", "output_norm"]
    silent += ["reconstruction", "reconstruction:weight=none", "fisher+output_norm"]
    found = score_all(model, [batch(LENGTHS)], silent)
    for name, scores in found.items():
        lowest = scores.ranking()[:group]
        assert sorted(lowest) == dead, name


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_planted_uniform_head_has_the_highest_entropy(model_type):
    model = make(model_type)
    view = HeadModel(model)
    uniform = Head(len(view.blocks) - 1, 2)
    with torch.no_grad():
        for part in ("query", "query_bias"):
            if part in view.head_weights(uniform):
                view.head_weights(uniform)[part].zero_()
    if model_type == "bloom":
        pytest.skip("a head of BLOOM is never uniform: its ALiBi slope is not a weight")
    name = "attention_entropy:normalized=true"
    scores = score(model, [batch(LENGTHS)], name)
    assert scores[uniform] == pytest.approx(-1, abs=1e-9)
    assert scores.ranking()[0] == uniform
    assert score(model, [batch(LENGTHS)], "confidence").ranking()[0] == uniform
    if model_type not in DECODERS:
        plain = score(model, [batch((8, 8))], "attention_entropy")
        assert plain[uniform] == pytest.approx(-np.log(8), abs=1e-9)


@pytest.mark.parametrize("name", ANEW)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_scores_under_a_mask_equal_scores_of_the_cut_model(model_type, name):
    model = make(model_type)
    mask = random_mask(HeadModel(model).mask, 5, share=0.4)
    under_mask = score(model, [batch(LENGTHS)], name, mask=mask)
    assert {h for h in mask.dropped if not np.isnan(under_mask[h])} == set()
    remove_(model, PruningPlan(mask, gqa="ungroup"))
    of_cut = score(model, [batch(LENGTHS)], name)
    assert np.isfinite([of_cut[h] for h in mask.heads]).all()
    if name.startswith("gradient_norm") and model_type in ("llama", "mistral", "qwen2", "qwen3"):
        return  # a head that has its own copy of K and V no longer shares their gradient
    assert_same({name: of_cut}, {name: under_mask}, relative=1e-6)


@pytest.mark.parametrize("loss", ("task", "logit_norm"))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gate_gradients_match_finite_differences(model_type, loss):
    from deadhead.data.batches import call
    from deadhead.losses.losses import loss_named

    model, inputs = make(model_type), batch((7,))
    view = HeadModel(model)
    scores = score(model, [inputs], "taylor", loss=loss)
    # these take norms or softmax in float32 whatever the weights are: no small steps
    wide = model_type in ("bloom", "llama", "mistral", "qwen2", "qwen3")
    h, chosen = 2e-2 if wide else 2e-3, loss_named(loss)
    for head in view.mask.heads[::5]:

        def at(value, head=head):
            gates = [torch.ones(b.n_heads, dtype=torch.float64) for b in view.blocks]
            gates[head.block][head.index] = value
            with torch.no_grad(), view.gated(gates):
                return float(chosen(model, call(model, inputs), inputs))

        near, far = at(1 + h) - at(1 - h), at(1 + 2 * h) - at(1 - 2 * h)
        slope = abs(8 * near - far) / (12 * h)  # central, fourth order
        assert scores[head] == pytest.approx(slope, rel=1e-3, abs=2e-5 if wide else 1e-9)


def test_masked_heads_have_no_gradient():
    model = make("bert")
    mask = random_mask(HeadModel(model).mask, 1)
    with masked(model, mask):
        scores = score(model, [batch()], "taylor")
    assert all(scores[h] == 0 for h in mask.dropped)
    assert all(scores[h] > 0 for h in mask.heads)
