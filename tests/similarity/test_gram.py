"""Inner products of head vectors, against plain loops over stored maps."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.errors import DataError, ScoreError, UnknownNameError
from deadhead.similarity import gram, head_grams
from deadhead.similarity.distances import distances
from models import BACKENDS, DECODERS, batch, make

TYPES = ("bert", "gpt2", "bloom", "llama", "opt", "albert")
SCOPES = ("per_block", "global")
LENGTHS = (9, 6, 4, 7, 5)
BLOCK_OF = {"albert": (0, 0, 1)}  # ALBERT shares its blocks between layers


@pytest.fixture(autouse=True)
def _wide_softmax(monkeypatch):
    """Keep transformers' own attention in float64, where it asks for a softmax in float32."""
    monkeypatch.setattr(
        nn.functional, "softmax", lambda x, dim=-1, dtype=None, **_: torch.softmax(x, dim)
    )


def prompts_of(inputs):
    """One prompt at a time, without padding."""
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        yield {"input_ids": ids[mask.bool()][None], "attention_mask": mask[mask.bool()][None]}


def rows_of(inputs, size):
    for start in range(0, len(LENGTHS), size):
        yield {k: v[start : start + size] for k, v in inputs.items()}


def entries_of(matrix, causal, first_token, first=0):
    """The entries of one map that count, by loops."""
    rows = []
    for q, row in enumerate(matrix):
        keys = [k for k in range(len(row)) if not causal or k <= q]
        if first_token != "keep":
            keys = [k for k in keys if k != first]
            if q == first:
                continue
        total = math.fsum(row[k] for k in keys) if first_token == "renormalize" else 1
        rows += [row[k] / total if total else 0.0 for k in keys]
    return rows


def vectors_of(model_type, batches, *, first_token="keep", first=None):
    """Stored maps made into one vector per head: {(block, head): [applications, entries]}."""
    model = make(model_type, backend="eager")
    vectors = {}
    for inputs in batches:
        with torch.no_grad():
            maps = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                output_attentions=True,
            ).attentions
        for layer, of_layer in enumerate(maps):
            block = BLOCK_OF.get(model_type, range(len(maps)))[layer]
            for sample, heads in enumerate(of_layer.tolist()):
                for head, matrix in enumerate(heads):
                    at = 0 if first is None else first[sample]
                    entries = entries_of(matrix, model_type in DECODERS, first_token, at)
                    vectors.setdefault((block, head), {}).setdefault(layer, []).extend(entries)
    return {head: list(layers.values()) for head, layers in vectors.items()}


def distance(a, b, metric):
    """Distance of two vectors; a block that is applied less often has zeros there."""
    if a is b:
        return 0
    pairs = []
    for at in range(max(len(a), len(b))):
        x, y = (v[at] if at < len(v) else None for v in (a, b))
        pairs += zip(x or [0] * len(y), y or [0] * len(x), strict=True)
    if metric == "euclidean":
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in pairs))
    dot = math.fsum(x * y for x, y in pairs)
    norms = [math.fsum(x * x for x in side) for side in zip(*pairs, strict=True)]
    return 1 - dot / math.sqrt(norms[0] * norms[1])


def expected_distances(vectors, scope, metric):
    """The matrices that `distances` should return."""
    blocks = sorted({block for block, _ in vectors})
    cells = [[h for h in vectors if scope == "global" or h[0] == block] for block in blocks]
    return [
        np.array([[distance(vectors[a], vectors[b], metric) for a in c] for b in c])
        for c in (cells[:1] if scope == "global" else cells)
    ]


@functools.cache
def plain_vectors(model_type, first_token="keep"):
    return vectors_of(model_type, prompts_of(batch(LENGTHS)), first_token=first_token)


@functools.cache
def reference(model_type, scope):
    return head_grams(make(model_type), [batch(LENGTHS)], scope=scope)


def assert_close(found, expected, *, relative=1e-9):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=relative, atol=0)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("model_type", TYPES)
def test_streamed_distances_equal_those_of_stored_maps(model_type, scope):
    grams = reference(model_type, scope)
    assert grams.prompts == len(LENGTHS)
    assert grams.provenance["tokens"] == sum(LENGTHS)
    for metric in ("euclidean", "cosine"):
        expected = expected_distances(plain_vectors(model_type), scope, metric)
        assert_close(distances(grams, metric).matrices, expected)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("model_type", TYPES)
def test_batch_size_and_padding_side_change_nothing(model_type, scope):
    model, expected = make(model_type), reference(model_type, scope).matrices
    for size in (1, 3):
        found = head_grams(model, rows_of(batch(LENGTHS), size), scope=scope)
        assert_close(found.matrices, expected)
    left = batch(LENGTHS, padding_side="left")
    assert_close(head_grams(model, [left], scope=scope).matrices, expected)
    assert_close(head_grams(model, prompts_of(left), scope=scope).matrices, expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_small_parts_give_the_same_sum(monkeypatch, scope):
    for model_type in ("bert", "llama", "albert"):
        expected = reference(model_type, scope).matrices
        for name in ("_WIDE", "_STORED"):
            monkeypatch.setattr(gram, name, 100)
        found = head_grams(make(model_type), [batch(LENGTHS)], scope=scope)
        assert_close(found.matrices, expected)
        monkeypatch.undo()


@pytest.mark.parametrize("side", ("left", "right"))
@pytest.mark.parametrize("first_token", gram.FIRST_TOKEN)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "bloom", "opt"))
def test_padding_can_count_as_the_model_computed_it(model_type, first_token, side):
    inputs = batch(LENGTHS, padding_side=side)
    found = head_grams(make(model_type), [inputs], include_padding=True, first_token=first_token)
    first = inputs["attention_mask"].argmax(1).tolist()
    vectors = vectors_of(model_type, [inputs], first_token=first_token, first=first)
    expected = expected_distances(vectors, "per_block", "euclidean")
    assert_close(distances(found, "euclidean").matrices, expected)
    without = head_grams(make(model_type), [inputs], first_token=first_token)
    assert not np.allclose(found.matrices[0], without.matrices[0], rtol=1e-3)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("first_token", ("drop", "renormalize"))
@pytest.mark.parametrize("model_type", TYPES)
def test_the_first_token_can_be_left_out(model_type, first_token, scope):
    expected = expected_distances(plain_vectors(model_type, first_token), scope, "euclidean")
    for side in ("left", "right"):
        inputs = batch(LENGTHS, padding_side=side)
        found = head_grams(make(model_type), [inputs], scope=scope, first_token=first_token)
        assert_close(distances(found, "euclidean").matrices, expected)


def test_a_row_with_nothing_left_is_zero():
    model = make("bert", dtype=torch.float64)
    head = HeadModel(model).head_weights(Head(0, 1))
    with torch.no_grad():  # every query looks at the token 1, which comes first, and nowhere else
        model.bert.embeddings.word_embeddings.weight[:] = 0
        model.bert.embeddings.word_embeddings.weight[1, 0] = 1e4
        for part in ("query", "key"):
            head[part].zero_()
            head[f"{part}_bias"].zero_()
        head["query_bias"][0] = 1e6
        head["key"][0, 0] = 1e3
    inputs = batch((6, 6))
    inputs["input_ids"][:, 0] = 1
    found = head_grams(model, [inputs], first_token="renormalize").matrices[0]
    assert found[1, 1] == 0
    assert found[0, 0] > 0
    assert np.isfinite(found).all()


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "opt", "llama"))
def test_heads_with_the_same_queries_and_keys_are_no_distance_apart(model_type):
    model = make(model_type)
    view = HeadModel(model)
    one, other = Head(1, 3), Head(1, 4)  # llama: both read key/value head 1
    with torch.no_grad():
        for part, weights in view.head_weights(one).items():
            if part.startswith(("query", "key")):
                view.head_weights(other)[part].copy_(weights)
    grams = head_grams(model, [batch(LENGTHS)])
    found = distances(grams, "euclidean")
    norm = math.sqrt(grams.matrices[1][3, 3])
    assert found.between((one,), (other,)) < 1e-7 * norm
    assert found.between((one,), (Head(1, 2),)) > 1e-2 * norm
    assert distances(grams, "cosine").between((one,), (other,)) < 1e-14


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama", "opt"))
def test_the_backend_changes_nothing(model_type, scope):
    for backend in BACKENDS:
        found = head_grams(make(model_type, backend=backend), [batch(LENGTHS)], scope=scope)
        assert_close(found.matrices, reference(model_type, scope).matrices)


def state_of(model):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [set(vars(m)) for m in model.modules()],
        model.config._attn_implementation,
    )


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("model_type", ("bert", "bloom", "llama"))
def test_the_model_comes_back_as_it_was(model_type, scope):
    def stumbling():
        yield batch(LENGTHS)
        raise RuntimeError("the data ended early")

    model = make(model_type).train()
    next(model.parameters()).requires_grad_(False)
    before, weights = state_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    head_grams(model, [batch(LENGTHS)], scope=scope)
    assert state_of(model) == before
    with pytest.raises(RuntimeError, match="ended early"):
        head_grams(model, stumbling(), scope=scope)
    assert state_of(model) == before
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("scope", SCOPES)
def test_heads_that_are_gone_do_not_appear(scope):
    model = make("bert")
    mask = HeadModel(model).mask
    whole = head_grams(model, [batch(LENGTHS)], scope=scope)
    gone = [Head(0, 2), Head(0, 5), *(h for h in mask.heads if h.block == 1)]
    remove_(model, PruningPlan(mask.drop(*gone)))
    cut = head_grams(model, [batch(LENGTHS)], scope=scope)
    left = [[h for h in cell if h not in gone] for cell in whole.heads]
    assert [list(cell) for cell in cut.heads] == left
    assert all(len(m) == len(h) for m, h in zip(cut.matrices, left, strict=True))
    rows = [i for i, h in enumerate(whole.heads[0]) if h.block == 0 and h not in gone]
    # the first block does not notice what the others lose, and keeps its maps
    found = cut.matrices[0][: len(rows), : len(rows)]
    np.testing.assert_allclose(found, whole.matrices[0][np.ix_(rows, rows)], rtol=1e-12)


def test_labels_and_missing_masks_do_not_matter():
    inputs = batch((6, 6))
    bare = {"input_ids": inputs["input_ids"]}
    model = make("gpt2", "causal_lm")
    found, expected = (head_grams(model, [b]).matrices for b in (bare, inputs))
    assert_close(found, expected)


def test_progress_is_told_after_every_batch():
    seen = []
    head_grams(make("bert"), rows_of(batch(LENGTHS), 2), on_batch=lambda: seen.append(1))
    assert len(seen) == 3


def test_without_prompts_there_is_nothing_to_compare():
    for empty in ([], [{k: v[:0] for k, v in batch().items()}]):
        with pytest.raises(DataError, match="there are no prompts; give"):
            head_grams(make("bert"), empty)


@pytest.mark.parametrize(
    ("first_token", "length"), [("keep", 1), ("drop", 1), ("renormalize", 1), ("renormalize", 2)]
)
@pytest.mark.parametrize("scope", SCOPES)
def test_prompts_too_short_for_heads_to_differ_are_refused(scope, first_token, length):
    model = make("gpt2")
    with pytest.raises(DataError, match=f"has {length} tokens?, so that every head's map is the"):
        head_grams(model, [batch((length,) * 3)], scope=scope, first_token=first_token)
    longer = batch((1, 3 if first_token == "renormalize" else 2))
    found = head_grams(model, [longer], scope=scope, first_token=first_token)
    assert distances(found, "euclidean").matrices[0].max() > 0


@pytest.mark.parametrize("scope", SCOPES)
def test_maps_that_are_not_finite_are_refused(scope):
    model = make("bert")
    head = HeadModel(model).head_weights(Head(1, 2))
    with torch.no_grad():
        head["query"][:] = float("nan")
    with pytest.raises(ScoreError, match=r"head 1\.2, block bert\.encoder\.layer\.1 are not"):
        head_grams(model, [batch()], scope=scope)
    model = make("bert")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[2] = float("nan")
    poisoned = batch()
    poisoned["input_ids"][0, 1] = 2
    with pytest.raises(ScoreError, match=r"head 0\.0, .* not finite in batch 1;"):
        head_grams(model, [batch(), poisoned], scope=scope)


def test_options_that_are_not_known_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'per_block'"):
        head_grams(make("bert"), [batch()], scope="per_blok")
    with pytest.raises(UnknownNameError, match="known: drop, keep, renormalize"):
        head_grams(make("bert"), [batch()], first_token="first")
