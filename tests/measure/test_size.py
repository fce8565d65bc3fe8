"""Sizes, the sentence after a cut, and the rule for timings."""

import copy

import pytest
import torch

from deadhead import HeadModel
from deadhead.measure import Timer, cut_summary, model_size
from deadhead.measure.latency import SpeedRow, speed_words, verdict
from deadhead.pruning.trajectory import Metric
from deadhead.surgery import remove_
from deadhead.types import PruningPlan
from models import make


@pytest.mark.parametrize(("name", "kind"), [("bert", "base"), ("llama", "causal_lm")])
def test_the_sentence_after_a_cut_has_heads_parameters_cache_and_ceiling(name, kind):
    model = make(name, kind)
    before = model_size(model)
    cut = copy.deepcopy(model)
    view = HeadModel(cut)
    gone = [h for h in view.mask.heads if h.block == 0]
    remove_(cut, PruningPlan(view.mask.drop(*gone)))
    summary = cut_summary(model, cut)
    assert summary == cut_summary(before, model_size(cut))
    said = str(summary)
    assert said == repr(summary)
    assert said.startswith(f"heads: {before.heads - len(gone)} of {before.heads} || params: ")
    assert ("KV bytes/token" in said) == (name == "llama")
    assert said.endswith(f"speedup: at most {summary.ceiling:.2f}x")
    assert summary.ceiling > 1


@pytest.mark.parametrize(
    ("speedup", "low", "high", "ceiling", "expected"),
    [
        (1.06, 1.05, 1.07, 1.08, "faster"),
        (0.9, 0.88, 0.92, 1.08, "slower"),
        (0.13, 0.12, 6.2, 1.08, "noise"),
        (1.5, 1.4, 1.6, 1.08, "noise"),  # above its ceiling
        (1.0, 1.0, 1.0, 1.0, "noise"),
        (1.02, 0.95, 1.1, float("nan"), "noise"),
    ],
)
def test_a_timing_that_cannot_be_told_from_noise_is_called_that(
    speedup, low, high, ceiling, expected
):
    assert verdict(speedup, low, high, ceiling) == expected
    row = SpeedRow("forward", 1, 8, 1.0, 1.0, speedup, low, high, ceiling)
    assert row.verdict == expected
    assert row.words == speed_words(speedup, low, high, ceiling)
    assert ("x" in row.words) == (expected != "noise"), "noise has no headline number"


@pytest.mark.parametrize("device_type", ["cuda", "mps", "xpu"])
def test_the_timer_waits_for_any_accelerator_at_both_ends(device_type, monkeypatch):
    waited = []

    class Model(torch.nn.Module):
        def parameters(self):
            return iter([type("P", (), {"device": torch.device(device_type, 0)})])

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(device_type))
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    timer = Timer(Model())
    assert timer.seconds >= 0
    assert waited == [torch.device(device_type, 0)] * 2


def test_the_timer_does_not_wait_for_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: 1 / 0)
    assert Timer(torch.nn.Linear(1, 1)).seconds >= 0


@pytest.mark.parametrize("greater", [True, False])
def test_a_metric_says_its_direction(greater):
    metric = Metric("score", greater_is_better=greater)
    worse, better = (8.0, 12.0) if greater else (12.0, 8.0)
    assert metric.change(10.0, worse) == "20.0% worse than dense"
    assert metric.change(10.0, better) == "20.0% better than dense"
    assert metric.change(10.0, 10.0) == "the same as dense"
    assert metric.change(10.0, float("nan")) == metric.change(None, 1.0) == "—"
    assert metric.worse_by(10.0, worse) == 2
    assert str(metric) == f"score ({'higher' if greater else 'lower'} is better)"
