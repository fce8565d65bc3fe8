"""The examples of CONTRIBUTING.md: a criterion, and a hand-written encoder of the user's own."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deadhead import (
    Head,
    HeadModel,
    PruningPlan,
    masked,
    register_architecture,
    remove_,
    score,
    score_all,
)
from deadhead.criteria import CRITERIA
from deadhead.errors import UnsupportedModelError
from masks import random_mask

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", TEXT, re.DOTALL))


class Attend(nn.Module):
    """Attention as one writes it by hand."""

    def __init__(self, hidden, heads):
        super().__init__()
        self.n_heads, self.head_dim = heads, hidden // heads
        self.q, self.k, self.v, self.out = (nn.Linear(hidden, hidden) for _ in range(4))

    def forward(self, x, mask):
        def split(y):
            return y.unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)

        scores = split(self.q(x)) @ split(self.k(x)).transpose(-1, -2) / self.head_dim**0.5
        maps = scores.masked_fill(~mask[:, None, None], -1e30).softmax(-1)
        return self.out((maps @ split(self.v(x))).transpose(1, 2).flatten(2)), maps


class Layer(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.attend, self.norm = Attend(hidden, heads), nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 16), nn.GELU(), nn.Linear(16, hidden))

    def forward(self, x, mask):
        x = self.norm(x + self.attend(x, mask)[0])
        return x + self.mlp(x)


class MyEncoder(nn.Module):
    """Not a transformers class: no config, no base_model, returns a plain tensor."""

    def __init__(self, hidden=12, heads=3, layers=2, classes=3):
        super().__init__()
        self.embed = nn.Embedding(20, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))
        self.classify = nn.Linear(hidden, classes)

    def forward(self, input_ids, attention_mask):
        x, mask = self.embed(input_ids), attention_mask.bool()
        for layer in self.layers:
            x = layer(x, mask)
        weights = mask[..., None] / mask.sum(1)[:, None, None]
        return self.classify((x * weights).sum(1))


pytestmark = pytest.mark.usefixtures("own_architectures")


@pytest.fixture
def model():
    exec(BLOCKS["architecture"], {})
    torch.manual_seed(0)
    return MyEncoder().double().eval()


@pytest.fixture
def data():
    torch.manual_seed(1)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    ids = torch.randint(1, 20, (2, 6)) * mask
    return [{"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 2])}]


def logits(model, data):
    with torch.no_grad():
        return model(data[0]["input_ids"], data[0]["attention_mask"])


def test_both_examples_are_complete_and_short():
    assert set(BLOCKS) == {"criterion", "architecture"}
    for code in BLOCKS.values():
        assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_a_hand_written_encoder_is_scored(model, data):
    names = ["taylor", "gradient_norm", "attention_entropy", "magnitude", "random"]
    scores = score_all(model, data, names)
    assert all(s.counts == (3, 3) and np.isfinite(s.values).all() for s in scores.values())
    with torch.no_grad():
        HeadModel(model).head_weights(Head(1, 2))["value"].zero_()
        HeadModel(model).head_weights(Head(1, 2))["value_bias"].zero_()
    for name in ("taylor", "gradient_norm", "magnitude"):
        assert score(model, data, name).ranking()[0] == Head(1, 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_hand_written_encoder_is_masked_and_cut(model, data, seed):
    mask = random_mask(HeadModel(model).mask, seed)
    with masked(model, mask):
        expected = logits(model, data)
    assert not torch.equal(expected, logits(model, data))
    cut = remove_(copy.deepcopy(model), PruningPlan(mask))
    assert (logits(cut, data) - expected).abs().max() <= 1e-12
    assert HeadModel(cut).mask == mask


class Bare(Attend):
    def forward(self, x, mask):
        return super().forward(x, mask)[0]


class BareLayer(Layer):
    def __init__(self, hidden, heads):
        super().__init__(hidden, heads)
        self.attend = Bare(hidden, heads)

    def forward(self, x, mask):
        x = self.norm(x + self.attend(x, mask))
        return x + self.mlp(x)


def bare(**changes):
    """The encoder of the example, whose attention returns its output alone."""
    example: dict = {}
    exec(BLOCKS["architecture"].replace("register_architecture(\n", "made = (\n"), example)
    register_architecture(replace(example["made"], **changes))
    torch.manual_seed(0)
    model = MyEncoder()
    model.layers = nn.ModuleList(BareLayer(12, 3) for _ in range(2))
    return model.double().eval()


def test_attention_that_returns_its_output_alone_may_lose_every_head(data):
    model = bare(maps="none")
    mask = HeadModel(model).mask
    mask = mask.drop(*[h for h in mask.heads if h.block == 0])
    with masked(model, mask):
        expected = logits(model, data)
    cut = remove_(copy.deepcopy(model), PruningPlan(mask))
    assert (logits(cut, data) - expected).abs().max() <= 1e-12


def test_a_record_that_does_not_say_what_attention_returns_is_refused(data):
    model = bare(maps="interface")
    before, mask = logits(model, data), HeadModel(model).mask
    plan = PruningPlan(mask.drop(Head(1, 0), *[h for h in mask.heads if h.block == 0]))
    with pytest.raises(UnsupportedModelError, match=r'block 0.*maps="output".*or maps="none"'):
        remove_(model, plan)
    assert torch.equal(logits(model, data), before)
    remove_(model, PruningPlan(mask.drop(Head(1, 0), Head(0, 1))))
    assert HeadModel(model).mask.n_kept == 4


@pytest.mark.parametrize("maps", ["none", "interface"])
def test_maps_that_cannot_be_seen_are_named(data, maps):
    with pytest.raises(UnsupportedModelError, match=f"maps='{maps}'; let .* set maps=\"output\""):
        score(bare(maps=maps), data, "attention_entropy")


def test_the_example_criterion_works_and_shares_the_pass(model, data):
    with CRITERIA.restored():
        exec(BLOCKS["criterion"], {})
        scores = score_all(model, data, ["fisher_sketch", "taylor"])
    assert "fisher_sketch" not in CRITERIA
    fisher, taylor = (np.concatenate(scores[n].values) for n in ("fisher_sketch", "taylor"))
    assert (fisher >= taylor**2 - 1e-15).all()  # mean of squares over square of mean
    assert (fisher <= 2 * taylor**2 + 1e-15).all()  # two samples
