"""Trials leave out only what they need not compute, whatever the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from deadhead import Architecture, HeadModel, PruningPlan, register_architecture, remove_, score
from deadhead.data.batches import aligned, call, parts_of
from deadhead.errors import DataError
from deadhead.scoring.replay import Recording, one_token
from deadhead.scoring.trials import Trials
from masks import random_mask
from models import batch, make
from one_by_one import DATA, assert_exact, singles


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama"))
@pytest.mark.slow
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
        for layer in [*self.layers] * (2 if self.quirk == "again" else 1):
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
def quirky(own_architectures):
    """Make encoders of one's own."""
    paths = {"query": "attend.q", "key": "attend.k", "value": "attend.v", "output": "attend.out"}
    register_architecture(
        Architecture("Quirk", blocks="layers.*", attention="attend", maps="none", **paths)
    )

    def make_one(quirk):
        torch.manual_seed(0)
        return Quirk(quirk).double().eval()

    return make_one


QUIRKS = ("none", "residual", "in_place", "object", "transposed", "mean", "max", "mixed", "scaled")


@pytest.mark.parametrize("quirk", (*QUIRKS, "twice", "shared", "again"))
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
    model = make("distilbert")
    attention = model.distilbert.transformer.layer[1].attention
    attention.out_lin.register_forward_pre_hook(lambda m, args: (args[0] * 0.5,))
    attention.out_lin.register_forward_hook(lambda m, args, output: output + 0.1)
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
    with pytest.raises(DataError, match="enough"):
        score(model, [batch()], "ablation")
    handle.remove()
    assert state(model) == before


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
