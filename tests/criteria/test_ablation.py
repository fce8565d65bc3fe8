"""Trials of many heads in one pass are what one head at a time gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from deadhead import (
    Architecture,
    Head,
    HeadModel,
    PruningPlan,
    masked,
    register_architecture,
    remove_,
    score,
    score_all,
)
from deadhead.architectures import record
from deadhead.criteria.inputs import aligned, call
from deadhead.criteria.last_layer import one_token
from deadhead.criteria.losses import task
from deadhead.criteria.parts import parts_of
from deadhead.criteria.replay import Recording
from deadhead.criteria.trials import Trials
from deadhead.errors import DataError, ScoreError, UnknownNameError
from masks import random_mask
from models import DECODERS, MODEL_TYPES, batch, make

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


@pytest.mark.parametrize("kind", ("classification", "lm"))
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_is_what_one_head_at_a_time_gives(model_type, kind):
    causal = model_type in DECODERS
    model = make(model_type, {"lm": "causal_lm" if causal else "masked_lm"}.get(kind, kind))
    data = DATA
    if kind == "lm":
        data = [{**b, "labels": b["input_ids"].masked_fill(b["input_ids"] < 9, -100)} for b in data]
    if model_type in ("bloom", "qwen3"):  # softmax or norms in float32: padding rounds them anew
        data = list(singles(data))
    assert_exact(model, data)
    assert_exact(model, data, random_mask(HeadModel(model).mask, 3, share=0.4))


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama"))
def test_attention_that_shows_its_maps_is_the_same(model_type):
    model = make(model_type, backend="eager")
    model.config.output_attentions = True
    assert_exact(model, list(singles(DATA)))


@pytest.mark.parametrize("model_type", ("bert", "albert", "gpt2", "llama", "bloom"))
def test_it_is_exact_for_a_cut_model(model_type):
    model = make(model_type)
    mask = random_mask(HeadModel(model).mask, 0, share=0.3)  # all of block 0 and more
    remove_(model, PruningPlan(mask, gqa="ungroup"))
    found = assert_exact(model, list(singles(DATA)))
    assert all(np.isnan(found[h]) for h in mask.dropped)


def test_heads_that_a_mask_drops_have_no_score():
    model = make("bert")
    mask = random_mask(HeadModel(model).mask, 1)
    found = score(model, DATA, "ablation", mask=mask)
    assert {h for h in HeadModel(model).mask.heads if np.isnan(found[h])} == set(mask.dropped)


def test_layers_before_a_head_are_not_computed_again():
    model, calls = make("bert"), []
    layers = model.bert.encoder.layer
    for number, layer in enumerate(layers):
        for name in ("attention.self.query", "intermediate.dense"):
            module, plain = layer.get_submodule(name), layer.get_submodule(name).forward
            spy = lambda x, at=(number, name), plain=plain: calls.append((*at, x.shape)) or plain(x)  # noqa: E731
            module.__dict__["forward"] = spy
    score(model, [batch((7, 7))], "ablation")
    tokens = {}
    for number, name, shape in calls:
        tokens[number, name] = tokens.get((number, name), 0) + int(np.prod(shape[:-1]))
    # 14 for the whole model; 6 trials of 14 for each block from which on the layer is needed
    whole, block = 14, 6 * 14
    assert tokens[0, "attention.self.query"] == whole
    assert tokens[1, "attention.self.query"] == whole + block
    assert tokens[0, "intermediate.dense"] == whole + block
    assert tokens[1, "intermediate.dense"] == whole + 2 * block
    # of the last layer the classifier reads 1 token of 7, and tries that out once
    assert tokens[2, "intermediate.dense"] == whole + 2 + 3 * block / 7
    assert tokens[2, "attention.self.query"] == whole + 2 + 2 * block / 7


class Quirk(nn.Module):
    """An encoder of one's own, with what must not be taken for granted."""

    def __init__(self, quirk):
        super().__init__()
        self.quirk, self.n_heads, self.head_dim = quirk, 3, 4
        self.embed, self.classify = nn.Embedding(40, 12), nn.Linear(12, 3)
        self.layers = nn.ModuleList(QuirkLayer(quirk) for _ in range(3))
        if quirk == "shared":
            for layer in self.layers:
                layer.mlp = self.layers[0].mlp

    def forward(self, input_ids, attention_mask):
        x, mask = self.embed(input_ids), attention_mask.bool()
        for layer in self.layers:
            if self.quirk == "residual":
                x = x + layer(x, mask)
            elif self.quirk == "in_place":
                x = layer(x, mask)
                x += 0.5
            elif self.quirk == "object":
                x = layer(x, mask)["hidden"]
            elif self.quirk == "transposed":
                x = layer(x, mask).tanh()
            else:
                x = layer(x, mask)
        if self.quirk == "mean":
            weights = mask[..., None] / mask.sum(1)[:, None, None]
            return self.classify((x * weights).sum(1))
        if self.quirk == "max":
            return self.classify(x.masked_fill(~mask[..., None], -9).max(1).values)
        return self.classify(x[:, 0])


class QuirkLayer(nn.Module):
    def __init__(self, quirk):
        super().__init__()
        self.quirk, self.attend, self.mlp = quirk, QuirkAttend(quirk), nn.Linear(12, 12)
        self.mix = nn.Conv1d(12, 12, 3, padding=1)

    def forward(self, x, mask):
        h = self.attend(x, mask)
        h = h[0] + h[1] if isinstance(h, tuple) else h
        if self.quirk == "transposed":
            return x + self.mlp((x + h).transpose(0, 1)).transpose(0, 1)
        if self.quirk == "mixed":
            h = self.mix((h * mask[..., None]).transpose(1, 2)).transpose(1, 2)
        x = x + h + torch.tanh(self.mlp(x + h))
        return {"hidden": x} if self.quirk == "object" else x


class QuirkAttend(nn.Module):
    def __init__(self, quirk):
        super().__init__()
        self.quirk, self.n_heads, self.head_dim = quirk, 3, 4
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x, mask):
        q, k, v = (f(x).unflatten(-1, (3, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        maps = (q @ k.transpose(-1, -2)).masked_fill(~mask[:, None, None], -1e30).softmax(-1)
        out = self.out((maps @ v).transpose(1, 2).flatten(2))
        if self.quirk == "scaled":
            return torch.tanh(3 * out)
        if self.quirk == "twice":
            return out, torch.tanh(out)
        return out


@pytest.fixture
def quirky(monkeypatch):
    """Make encoders of one's own; their record is forgotten after each test."""
    monkeypatch.setattr(record, "_REGISTRY", dict(record._REGISTRY))
    paths = {"query": "attend.q", "key": "attend.k", "value": "attend.v", "output": "attend.out"}
    register_architecture(
        Architecture("Quirk", blocks="layers.*", attention="attend", maps="none", **paths)
    )

    def make_one(quirk):
        torch.manual_seed(0)
        return Quirk(quirk).double().eval()

    return make_one


QUIRKS = ("none", "residual", "in_place", "object", "transposed", "mean", "max", "mixed", "scaled")


@pytest.mark.parametrize("quirk", (*QUIRKS, "twice", "shared"))
def test_it_is_exact_for_a_module_of_ones_own(quirky, quirk):
    model = quirky(quirk)
    square = batch((6,) * 6)  # as many samples as tokens
    for data in (DATA, [batch((1, 1, 2))], [square]):
        assert_exact(model, data)
    assert_exact(model, DATA, random_mask(HeadModel(model).mask, 2, share=0.4))


def test_hooks_of_ones_own_are_kept():
    model = make("bert")
    layer = model.bert.encoder.layer[1]
    layer.register_forward_hook(lambda module, args, output: output * 1.5)
    layer.attention.self.register_forward_hook(lambda m, args, output: (output[0] + 0.1, output[1]))
    layer.attention.output.dense.register_forward_pre_hook(lambda m, args: (args[0] * 0.5,))
    model.bert.encoder.layer[2].output.dense.register_forward_hook(lambda m, a, output: output - 1)
    assert_exact(model)


def state(model):
    modules = [module for _, module in model.named_modules()]
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks = [len(getattr(module, kind)) for module in modules for kind in kinds]
    return hooks, [set(module.__dict__) for module in modules], [m.training for m in modules]


@pytest.mark.parametrize("at", (0, 1, 2))
def test_the_model_comes_back_also_after_an_exception(at):
    model = make("bert").train()
    model.bert.encoder.layer[0].__dict__["forward"] = model.bert.encoder.layer[0].forward
    before, calls = state(model), []

    def loss(model, outputs, inputs):
        calls.append(1)
        if len(calls) > at:
            raise RuntimeError("enough")
        return outputs.logits[:, 0]

    with pytest.raises(RuntimeError, match="enough"):
        score(model, [batch()], "ablation", loss=loss)
    assert state(model) == before
    score(model, [batch()], "ablation")
    assert state(model) == before
    assert model.bert.encoder.layer[0].__dict__["forward"].__self__ is model.bert.encoder.layer[0]


def test_an_exception_within_the_model_leaves_nothing_behind():
    model, calls = make("gpt2"), []
    before = state(model)

    def fail(module, args):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("enough")

    handle = model.transformer.h[2].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="enough"):
        score(model, [batch()], "ablation")
    handle.remove()
    assert state(model) == before


def test_divergence_needs_no_labels_and_is_that_from_the_model_as_it_is():
    model, inputs = make("bert"), batch()
    view, mask = HeadModel(model), random_mask(HeadModel(model).mask, 4, share=0.3)
    dense = call(model, inputs).logits.log_softmax(-1)
    bare = {k: v for k, v in inputs.items() if k != "labels"}

    def divergence(kept):
        with masked(view, kept):
            now = call(model, inputs).logits.log_softmax(-1)
        return float((dense.exp() * (dense - now)).sum(-1).mean())

    with torch.no_grad():
        expected = {h: divergence(mask.drop(h)) - divergence(mask) for h in mask.heads}
    found = score(model, [bare], "ablation", loss="kl", mask=mask)
    assert max(abs(found[h] - value) for h, value in expected.items()) <= 1e-12
    assert found.provenance["loss"] == "kl"
    plain = score(model, [bare], "ablation", loss="kl")
    assert np.concatenate(plain.values).min() > 0


@pytest.mark.parametrize("kind", ("causal_lm", "base"))
def test_divergence_is_a_mean_over_real_tokens(kind):
    model, inputs = make("opt", kind), batch((6, 4))
    view, head = HeadModel(model), Head(1, 3)

    def by_token(kept):
        with torch.no_grad(), masked(view, kept):
            out = call(model, inputs)
        return out.logits.log_softmax(-1) if kind == "causal_lm" else out[0]

    a, b = by_token(view.mask), by_token(view.mask.drop(head))
    terms = (a.exp() * (a - b)).sum(-1) if kind == "causal_lm" else ((a - b) ** 2).sum(-1) / 2
    expected = (terms[0].mean() + terms[1, :4].mean()) / 2
    found = score(model, [inputs], "ablation", loss="kl")
    assert found[head] == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_dead_head_costs_nothing(model_type):
    model = make(model_type)
    view = HeadModel(model)
    number, group = len(view.blocks) - 1, view.blocks[-1].shape.group_size
    dead = [Head(number, i) for i in range(group, 2 * group)]
    with torch.no_grad():
        for part in ("value", "value_bias"):
            if part in view.head_weights(dead[0]):
                view.head_weights(dead[0])[part].zero_()
    found = score(model, [batch()], "ablation", loss="kl")
    assert max(abs(found[h]) for h in dead) <= 1e-12
    assert found.ranking()[:group] == sorted(dead, key=lambda h: (found[h], h))


def test_no_forward_pass_has_more_tokens_than_the_budget():
    model, seen = make("bert"), []
    model.bert.embeddings.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    view = HeadModel(model)
    masks = [view.mask, *(view.mask.drop(h) for h in view.mask.heads)]
    free = Trials(view, DATA).losses(masks)
    seen.clear()
    tight = Trials(view, DATA, max_tokens=20).losses(masks)
    assert max(seen) <= 20
    np.testing.assert_allclose(tight, free, rtol=0, atol=1e-12)


def test_progress_is_told_once_for_each_batch():
    calls = []
    batches = [batch((3,)), batch((9, 4)), batch((4, 4, 9))]
    score_all(make("bert"), batches, ["ablation"], on_batch=lambda: calls.append(1))
    assert len(calls) == 3


def test_batches_may_come_from_a_generator_that_others_look_at_too():
    together = score_all(make("bert"), iter(DATA), ["taylor", "ablation"])
    assert together["ablation"] == score(make("bert"), DATA, "ablation")
    assert together["taylor"].provenance["samples"] == 7


def test_samples_of_one_length_are_put_together_and_nothing_is_lost():
    parts = parts_of(map(aligned, DATA), 1000)
    assert [p.tokens // p.samples for p in parts] == [9, 6, 5, 4, 2]
    assert [p.batches for p in parts] == [(0, 1), (0, 1), (1,), (0,), (1,)]
    assert all(p.inputs["attention_mask"].all() for p in parts)
    assert sum(p.samples for p in parts_of(DATA, 12)) == 7
    assert max(p.tokens for p in parts_of(DATA, 12)) == 12


def test_what_cannot_be_cut_keeps_its_padding():
    inputs = batch((4, 3))
    probabilities = torch.rand(2, 4, dtype=torch.float64)
    holes = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0]])
    positions = torch.arange(4)[None]
    kept = [{"labels": probabilities}, {"attention_mask": holes}, {"position_ids": positions}]
    for extra in kept:
        (part,) = parts_of([{**inputs, **extra}], 100)
        assert all(torch.equal(v, part.inputs[k]) for k, v in {**inputs, **extra}.items())
    assert_exact(make("bert"), [{**inputs, "attention_mask": holes}])
    assert_exact(make("bert"), [{**inputs, "position_ids": positions}])


def test_a_batch_without_a_mask_and_one_of_embeddings_are_scored():
    model, inputs = make("bert"), batch((6, 6))
    expected = score(model, [inputs], "ablation")
    bare = {k: v for k, v in inputs.items() if k != "attention_mask"}
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    embedded = {**bare, "inputs_embeds": embeds}
    del embedded["input_ids"]
    for data in (bare, embedded):
        found = score(model, [data], "ablation")
        np.testing.assert_allclose(np.stack(found.values), np.stack(expected.values), atol=1e-12)


def test_a_loss_of_ones_own():
    def margin(model, outputs, inputs):
        return outputs.logits[:, 0] - outputs.logits[:, 1]

    found = score(make("bert"), DATA, "ablation", loss=margin)
    expected = one_at_a_time(make("bert"), DATA, loss=margin)
    assert max(abs(found[h] - value) for h, value in expected.items()) <= 1e-9
    assert found.provenance["loss"] == "margin"


def test_a_loss_that_says_nothing_about_a_model_is_refused_at_once():
    with pytest.raises(ScoreError, match=r"'logit_norm' does not say .*; choose 'kl', which"):
        score(make("bert"), None, "ablation", loss="logit_norm")


def test_labels_that_are_missing_name_the_loss_that_needs_none():
    bare = {k: v for k, v in batch().items() if k != "labels"}
    with pytest.raises(DataError, match="choose the loss 'kl', which needs none"):
        score(make("bert"), [bare], "ablation")


def test_a_loss_of_the_wrong_shape_is_refused():
    with pytest.raises(ScoreError, match=r"returned \[\], .* one number per sample, \[3\]"):
        score(make("bert"), [batch((6, 6, 6))], "ablation", loss=lambda m, o, b: o.logits.mean())


def test_a_loss_that_is_not_finite_names_batch_and_head():
    model = make("bert")
    with torch.no_grad():
        HeadModel(model).head_weights(Head(1, 4))["value_bias"][0] = torch.inf
    with pytest.raises(ScoreError, match=r"batch 1 is not finite: block 1.*\(head 1\.4\); look"):
        score(model, [batch((4,)), batch((9,))], "ablation")

    def fragile(model, outputs, inputs):
        return (outputs.logits[:, 0] > bound).double().log()

    model = make("bert")
    heads = one_at_a_time(model, [batch((4,))], loss=lambda m, o, b: o.logits[:, 0])
    whole = float(call(model, batch((4,))).logits[0, 0].detach())
    lowest = min(heads, key=heads.__getitem__)
    bound = whole + heads[lowest] * 0.999
    with pytest.raises(ScoreError, match=f"batch 0 is -inf without head {lowest}; look"):
        score(model, [batch((4,))], "ablation", loss=fragile)


def test_no_data_and_options_are_refused():
    for data in (None, []):
        with pytest.raises(DataError, match="there are no calibration samples"):
            score(make("bert"), data, "ablation")
    with pytest.raises(UnknownNameError, match="has no options"):
        score(make("bert"), DATA, "ablation:x=1")


def token_read(model, inputs):
    """Which token of the last layer is computed alone, if any."""
    view, samples = HeadModel(model), len(inputs["input_ids"])
    recording = Recording(view, samples)
    with torch.no_grad():
        with recording.recording():
            outputs = call(model, inputs)
        found = one_token(view, inputs, outputs, recording)
    return found.place if found.modules else None


@pytest.mark.parametrize(
    ("model_type", "kind", "place"),
    [
        ("bert", "classification", 0),
        ("distilbert", "classification", 0),
        ("gpt2", "classification", 5),
        ("llama", "classification", 5),
        ("bert", "masked_lm", None),
        ("bert", "base", None),
        ("albert", "classification", 0),  # of three layers, the last is the second group's only
    ],
)
def test_the_token_that_is_read_is_found(model_type, kind, place):
    assert token_read(make(model_type, kind), batch((6, 6))) == place


def test_one_layer_applied_throughout_is_computed_throughout():
    config = make("albert").config
    config.num_hidden_groups = 1
    torch.manual_seed(0)
    model = transformers.AlbertForSequenceClassification(config).double().eval()
    assert token_read(model, batch((6, 6))) is None
    assert_exact(model)


def test_with_padding_the_last_token_is_not_the_one_that_is_read():
    assert token_read(make("gpt2"), batch((6, 4))) is None
    assert token_read(make("bert"), batch((6, 4))) == 0


@pytest.mark.parametrize(
    ("quirk", "place"), [("none", 0), ("mean", None), ("max", None), ("mixed", None), ("shared", 0)]
)
def test_a_module_that_pools_or_mixes_tokens_is_computed_whole(quirky, quirk, place):
    assert token_read(quirky(quirk), batch((6, 6))) == place
