"""least_squares_sequential against refits on activations that are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deadhead import Head, HeadModel, PruningPlan, masked
from deadhead.repair import fit, least_squares, repaired
from explicit import in_batches, plain_moments
from masks import random_mask
from models import batch, make

LENGTHS = (9, 6, 4, 7, 5, 9, 8, 3) * 2
NAME = "least_squares_sequential"
PARALLEL = "least_squares:own=0:bias=true"


def seen(model):
    """Per block: what enters and leaves its output projection at real tokens."""
    view, inputs = HeadModel(model), batch(LENGTHS)
    found = [[] for _ in view.blocks]
    valid = inputs["attention_mask"].bool()
    handles = [
        block.output.register_forward_hook(
            lambda m, a, o, keep=found[number]: keep.append((a[0][valid], o[valid]))
        )
        for number, block in enumerate(view.blocks)
    ]
    with torch.no_grad():
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    for handle in handles:
        handle.remove()
    return [[torch.cat(parts).numpy() for parts in zip(*each, strict=True)] for each in found]


def sequential(view, mask, batches=None):
    return fit(view, PruningPlan(mask, repair=NAME), None, batches=batches or [batch(LENGTHS)])


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "opt", "qwen2"))
def test_each_block_is_refitted_to_the_dense_output_on_what_now_enters_it(model_type, monkeypatch):
    monkeypatch.setattr(least_squares, "RIDGES", (1e-15,))
    model = make(model_type)
    view = HeadModel(model)
    mask = random_mask(view.mask, 2)
    fits = sequential(view, mask)
    dense, before = seen(model), view.mask
    for number, found in sorted(fits.items()):
        with repaired(view, before, {n: f for n, f in fits.items() if n < number}):
            x, _ = seen(model)[number]
        kept = [4 * i + f for i in mask.kept_in(number) for f in range(4)]
        ones = np.concatenate([x[:, kept], np.ones((len(x), 1))], axis=1)
        expected = np.linalg.lstsq(ones, dense[number][1], rcond=None)[0].T
        np.testing.assert_allclose(found.weight[:, kept], expected[:, :-1], atol=1e-6)
        np.testing.assert_allclose(found.bias, expected[:, -1], atol=1e-6)
        assert not found.weight[:, sorted(set(range(24)) - set(kept))].any()
        before = before.drop(*(h for h in mask.dropped if h.block == number))


def test_of_the_first_block_alone_it_is_the_parallel_fit_on_tokens_that_count_the_same():
    for model_type in ("bert", "gpt2", "albert"):
        model = make(model_type)
        view = HeadModel(model)
        mask = view.mask.drop(Head(0, 1), Head(0, 4))
        (found,) = sequential(view, mask).values()
        moments = plain_moments(view, [batch(LENGTHS)])
        (parallel,) = fit(view, PruningPlan(mask, repair=PARALLEL), moments).values()
        torch.testing.assert_close(found.weight, parallel.weight, atol=1e-9, rtol=0)
        torch.testing.assert_close(found.bias, parallel.bias, atol=1e-9, rtol=0)
        for name, value in parallel.facts.items():
            assert found.facts[name] == pytest.approx(value, rel=1e-6)


def test_batches_and_padding_do_not_matter():
    view = HeadModel(make("llama"))
    mask = random_mask(view.mask, 1)
    expected = sequential(view, mask)
    for batches in (
        in_batches(batch(LENGTHS), 5),
        in_batches(batch(LENGTHS, padding_side="left"), 16),
    ):
        for number, found in sequential(view, mask, batches).items():
            torch.testing.assert_close(found.weight, expected[number].weight, atol=1e-9, rtol=0)


def test_it_makes_up_for_what_earlier_blocks_have_lost():
    """The error of the last block's output, on the calibration data, is not above the parallel."""
    off = {}
    for seed in range(3):
        model = make("bert")
        view = HeadModel(model)
        mask = random_mask(view.mask, seed + 1)
        dense = seen(model)[-1][1]
        moments = plain_moments(view, [batch(LENGTHS)])
        parallel = fit(view, PruningPlan(mask, repair=PARALLEL), moments)
        for name, fits in (("parallel", parallel), (NAME, sequential(view, mask))):
            with repaired(view, mask, fits):
                off.setdefault(name, []).append(float(((seen(model)[-1][1] - dense) ** 2).mean()))
        with masked(view, mask):
            off.setdefault("none", []).append(float(((seen(model)[-1][1] - dense) ** 2).mean()))
    assert sum(off[NAME]) < sum(off["parallel"]) < sum(off["none"])


def test_the_model_is_left_alone_also_after_an_error():
    model = make("gpt2")
    view = HeadModel(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = {**batch(LENGTHS), "attention_mask": torch.ones(1, 2)}
    with pytest.raises(Exception, match=r".+"):
        sequential(view, random_mask(view.mask, 1), [batch(LENGTHS), bad])
    sequential(view, random_mask(view.mask, 1))
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(model.state_dict()[n], value) for n, value in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
