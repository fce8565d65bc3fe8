"""Heads are taken from the stacks that are named, and a block that needs a head keeps one."""

from __future__ import annotations

import pytest
import torch

import deadhead
from deadhead import HeadModel
from deadhead.derivation.tiny import tiny_model
from deadhead.errors import BudgetError
from deadhead.strategies.rules import Rules, reachable, units
from deadhead.types import HeadScores

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn


@pytest.fixture(scope="module")
def t5():
    return tiny_model("t5").float()


def equal(view):
    return HeadScores(tuple([0.0] * n for n in view.mask.counts), "equal")


@pytest.mark.parametrize(
    ("sites", "blocks"),
    [("", {0, 1, 2, 3, 4, 5}), ("decoder.cross", {4, 5}), ("encoder, decoder", {0, 1, 2, 3})],
)
def test_units_come_from_the_sites_that_are_named(t5, sites, blocks):
    view = HeadModel(t5)
    found = units(view, equal(view), view.mask, Rules(sites=sites))
    assert {unit[0].block for unit in found} == blocks


def test_shares_count_the_heads_of_the_sites(t5):
    view = HeadModel(t5)
    assert reachable(view, view.mask, Rules(sites="decoder.cross"), 0.5) == 6
    assert reachable(view, view.mask, Rules(), 0.5) == 18


def test_a_block_that_cannot_be_empty_keeps_a_head(t5):
    view = HeadModel(t5)
    refused = [n for n, b in enumerate(view.blocks) if b.record.headless == "refused"]
    assert refused
    found = units(view, equal(view), view.mask, Rules())
    left = list(view.mask.counts)
    for unit in found:
        left[unit[0].block] -= 1
    assert all(left[n] == 1 for n in refused)


@pytest.mark.parametrize("sites", ["decoder.crss", "vision", "encoder,x"])
def test_unknown_sites_are_refused_by_name(t5, sites):
    with pytest.raises(BudgetError, match=r"it has encoder, decoder, decoder\.cross"):
        Rules(sites=sites).blocks(HeadModel(t5))


def test_prune_takes_sites(t5):
    torch.manual_seed(0)
    ids = torch.randint(3, 90, (4, 6))
    batches = [{"input_ids": ids, "decoder_input_ids": ids[:, :4]}]
    result = deadhead.prune(
        t5,
        batches,
        heads=0.5,
        criterion="magnitude",
        strategy="one_shot",
        repair="none",
        sites="decoder.cross",
    )
    assert {head.block for head in result.plan.mask.dropped} <= {4, 5}
    assert len(result.plan.mask.dropped) == 6
