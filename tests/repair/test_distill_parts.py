"""The parts of a distillation: its loss, its batches and its clock."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.repair.distill import Distillation, distill_
from deadhead.repair.distill.loss import Distance, output_paths, relative_error, soft_divergence
from deadhead.repair.distill.run import Pace, training_batches
from models import CONFIGS, MODEL_TYPES, batch, make


def distance(cut, dense, **settings):
    paths = (output_paths(HeadModel(m)) for m in (cut, dense))
    return Distance(cut, dense, *paths, Distillation(**settings))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", ("base", "classification"))
def test_a_copy_is_at_no_distance(model_type, kind):
    dense = make(model_type, kind)
    found = distance(copy.deepcopy(dense), dense)(batch())
    assert [part.item() for part in found] == [0, 0]


def test_the_divergence_is_that_of_torch():
    s, t = torch.randn(2, 5, 7, dtype=torch.float64)
    for temperature in (1.0, 2.5):
        log_q, log_p = ((x / temperature).log_softmax(-1) for x in (s, t))
        expected = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2
        torch.testing.assert_close(soft_divergence(s, t, temperature), expected)


def test_a_class_that_the_dense_model_rules_out_does_not_count():
    s, t = torch.randn(2, 5, 7)
    t[:, 2] = -torch.inf
    s.requires_grad_()
    found = soft_divergence(s, t)
    found.backward()
    assert found.isfinite()
    assert s.grad.isfinite().all()


def test_the_error_is_relative_to_the_variance():
    t = torch.randn(500, 8, dtype=torch.float64)
    t = 3 * (t - t.mean(0)) / t.std(0, correction=0) + 5
    assert float(relative_error(t + 3, t)) == pytest.approx(1)
    assert float(relative_error(t.mean(0).expand_as(t), t)) == pytest.approx(1)
    assert relative_error(t[:1] + 1, t[:1]).isfinite()
    assert relative_error(torch.ones(3, 2), torch.ones(3, 2)) == 0


def test_one_logit_is_taken_for_the_mean_of_a_gaussian():
    dense = make("bert", dtype=torch.float64)
    dense.classifier = torch.nn.Linear(24, 1).double()
    cut = copy.deepcopy(dense)
    cut.classifier.bias.data += 0.5
    assert distance(cut, dense)(batch())[0].item() == pytest.approx(0.125)


@pytest.mark.parametrize("kind", ("classification", "masked_lm", "base"))
def test_padding_does_not_count(kind):
    dense = make("bert", kind)
    cut = copy.deepcopy(dense)
    remove_(cut, PruningPlan(HeadModel(cut).mask.drop(Head(0, 0), Head(2, 3))))
    narrow = batch((5, 3))
    padded = {k: F.pad(v, (0, 4)) if v.dim() == 2 else v for k, v in narrow.items()}
    measure = distance(cut, dense)
    torch.testing.assert_close(torch.stack(measure(narrow)), torch.stack(measure(padded)))
    assert measure(narrow)[1] > 0


def test_block_outputs_are_left_alone_without_a_weight():
    dense = make("bert")
    cut = copy.deepcopy(dense)
    remove_(cut, PruningPlan(HeadModel(cut).mask.drop(Head(0, 0))))
    divergence, error = distance(cut, dense, outputs_weight=0.0)(batch())
    assert divergence > 0
    assert error == 0


@pytest.mark.parametrize("side", ("left", "right"))
def test_batches_are_split_by_length_and_lose_their_padding(side):
    given = batch((3, 9, 4, 5, 8), padding_side=side)
    given = {**given, "bias": torch.zeros(2)}
    pieces = training_batches([given], 2)
    assert [p["input_ids"].shape for p in pieces] == [(2, 9), (2, 5), (1, 3)]
    assert all("labels" not in p and p["bias"].shape == (2,) for p in pieces)
    words = [
        row[mask.bool()].tolist()
        for b in pieces
        for row, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
    ]
    expected = [
        row[mask.bool()].tolist()
        for row, mask in zip(given["input_ids"], given["attention_mask"], strict=True)
    ]
    assert sorted(words) == sorted(expected)


def test_batches_without_a_mask_are_split_as_they_are():
    pieces = training_batches([{"input_ids": torch.arange(10).reshape(5, 2)}], 4)
    assert [p["input_ids"].tolist() for p in pieces] == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9]]]


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("deadhead.measure.time", made)
    return made


def test_a_limit_that_is_far_off_changes_nothing(clock):
    pace = Pace(total=10, seconds=100.0, looks=4)
    pace.time_looks(2.0, after=1)
    for step in range(1, 11):
        clock.now += 3
        pace.step, pace.stepping = step, step * 3.0
        assert pace.planned == 10
        assert pace.share == step / 10


def test_a_limit_shortens_the_schedule_and_leaves_time_to_look(clock):
    pace = Pace(total=1000, seconds=100.0, looks=3)
    pace.time_looks(5.0, after=1)
    assert pace.planned == 1000
    clock.now += 10
    pace.step, pace.stepping = 5, 10.0
    assert pace.planned == 5 + (100 - 10 - 4 * 5) / 2
    clock.now += 80
    assert pace.planned == 5
    assert pace.share == 1


def test_looks_take_a_third_of_the_time_at_most(clock):
    pace = Pace(total=1000, seconds=100.0, looks=30)
    pace.time_looks(5.0, after=1)
    assert pace.looks == 5 + 1
    pace = Pace(total=1000, seconds=None, looks=30)
    pace.time_looks(5.0, after=0)
    assert pace.looks == 30


@pytest.mark.slow
def test_a_run_ends_by_the_clock(clock):
    dense = make("bert", dtype=torch.float32)
    cut = copy.deepcopy(dense)
    remove_(cut, PruningPlan(HeadModel(cut).mask.drop(Head(0, 0), Head(2, 3))))

    def tick(module, args):
        clock.now += 1

    handle = dense.bert.embeddings.word_embeddings.register_forward_pre_hook(tick)
    rates = []

    def selection(model):
        clock.now += 2
        rates.append(clock.now)
        return len(rates)

    settings = Distillation(epochs=50, batch_size=2, seconds=30.0, evaluations=4, own_text=0)
    data = [batch((9, 7, 6, 5, 4, 3))]
    report = distill_(cut, dense, data, selection=selection, settings=settings)
    handle.remove()
    assert report.stopped == "seconds"
    assert report.steps == 30 - 5 * 2 < report.planned == 150
    assert clock.now == 130
    np.testing.assert_allclose([p.step for p in report.points], [5, 10, 15, 20], atol=1)
    settings = Distillation(seconds=3.0)
    report = distill_(cut, dense, data, selection=selection, settings=settings)
    assert (report.stopped, report.steps, report.best_step) == ("seconds", 0, 0)


def test_every_architecture_has_its_output_projections_named():
    for model_type in CONFIGS:
        view = HeadModel(make(model_type))
        named = [view.model.get_submodule(path) for path in output_paths(view)]
        assert [id(m) for m in named] == [id(block.output) for block in view.blocks]
