"""distill_: a cut model comes nearer to the dense one, never for the worse, and leaves no trace."""

from __future__ import annotations

import copy
import itertools
import os
import random
import sys

import numpy as np
import pytest
import torch
import transformers

from deadhead import Head, HeadModel, PruningPlan, remove_
from deadhead.errors import BudgetError, DataError, HeadError, MissingDependencyError, ScoreError
from deadhead.repair.distill import Distillation, distill_
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassSettings
from deadhead.surgery import apply_
from masks import random_mask
from models import AUTO, DECODERS, MODEL_TYPES, batch, make, outputs

DATA = [batch((9, 7, 6, 5, 4, 3), seed=seed) for seed in range(4)]
QUICK = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "evaluations": 2}
LORA = pytest.mark.parametrize("lora", (0, 2))


def pair(model_type="bert", kind="classification", *, dtype=torch.float32, seed=1):
    """A dense model, and a copy that has lost heads; seed 0 takes a whole block."""
    dense = make(model_type, kind, dtype=dtype)
    cut = copy.deepcopy(dense)
    remove_(cut, PruningPlan(random_mask(HeadModel(cut).mask, seed), gqa="ungroup"))
    return cut, dense


def divergence(cut, dense):
    """KL(dense || cut) on the text."""
    found = []
    for text in DATA:
        log_q, log_p = (outputs(m, text).double().log_softmax(-1) for m in (cut, dense))
        found.append((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    return float(torch.stack(found).mean())


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@LORA
@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.slow
def test_a_cut_model_comes_nearer_to_the_dense_one(model_type, lora):
    cut, dense = pair(model_type, "causal_lm" if model_type in DECODERS else "masked_lm", seed=0)
    before = divergence(cut, dense)
    changes = {"epochs": 4, "learning_rate": 1e-2 if lora else 2e-3, "lora": lora}
    report = distill_(cut, dense, DATA, settings=Distillation(**{**QUICK, **changes}))
    assert report.after < report.before
    assert report.steps == report.planned == 28
    assert report.points[-1].divergence < report.points[0].divergence
    assert divergence(cut, dense) < 0.95 * before


@pytest.mark.parametrize("model_type", ("albert", "llama"))
@pytest.mark.slow
def test_a_model_without_a_head_is_trained_on_its_hidden_states(model_type):
    cut, dense = pair(model_type, "base")
    unseen = batch((8, 7, 5), seed=99)
    before = (outputs(cut, unseen) - outputs(dense, unseen)).norm()
    distill_(cut, dense, DATA, settings=Distillation(**QUICK))
    assert (outputs(cut, unseen) - outputs(dense, unseen)).norm() < before


@LORA
@pytest.mark.slow
def test_labels_are_not_looked_at(lora):
    found = []
    for change in (lambda b: b, lambda b: {**b, "labels": 2 - b["labels"]}, without_labels):
        cut, dense = pair()
        distill_(cut, dense, [change(b) for b in DATA], settings=Distillation(**QUICK, lora=lora))
        found.append(state(cut))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def without_labels(given):
    return {name: tensor for name, tensor in given.items() if name != "labels"}


@LORA
@pytest.mark.slow
def test_a_run_is_repeatable_by_its_seed(lora):
    found = []
    for seed in (3, 3, 4):
        torch.rand(seed)  # whatever the state outside
        cut, dense = pair("gpt2")
        distill_(cut, dense, DATA, settings=Distillation(**QUICK, lora=lora, seed=seed))
        found.append(state(cut))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@LORA
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.slow
def test_the_weights_that_it_came_with_stay_if_none_are_better(lora, dtype):
    cut, dense = pair(dtype=dtype)
    start = state(cut)
    values = itertools.count(0, -1)
    selected = {
        "selection": lambda model: next(values),
        "settings": Distillation(**QUICK, lora=lora),
    }
    report = distill_(cut, dense, DATA, **selected)
    assert same(state(cut), start)
    assert (report.before, report.after, report.best_step) == (0, 0, 0)
    assert [point.value for point in report.points] == [-1, -2]


@pytest.mark.slow
def test_the_best_weights_on_the_way_are_kept():
    values, seen = iter((0, 1, 5, 5, 2, 3)), []

    def selection(model):
        seen.append(state(model))
        return next(values)

    cut, dense = pair()
    settings = Distillation(**{**QUICK, "evaluations": 5})
    report = distill_(cut, dense, DATA, selection=selection, settings=settings)
    assert same(state(cut), seen[3])  # of two that are as good, the later
    assert not same(seen[2], seen[3])
    assert (report.after, report.best_step) == (5, report.points[2].step)


class Perplexity:
    """A task whose metric is better when it is less."""

    metric, greater_is_better = "perplexity", False

    def __init__(self, values):
        self.values = iter(values)

    def evaluate(self, model):
        return type("Evaluation", (), {"value": next(self.values)})


@pytest.mark.slow
def test_a_task_says_which_way_is_better():
    cut, dense = pair()
    selection = Perplexity((9.0, 7.0, 8.0))
    report = distill_(cut, dense, DATA, selection=selection, settings=Distillation(**QUICK))
    assert (report.metric, report.before, report.after) == ("perplexity", 9.0, 7.0)
    assert report.best_step == report.points[0].step


@pytest.mark.slow
def test_merged_adapters_are_judged_again():
    cut, dense = pair()
    start = state(cut)
    values = iter((0.5, 0.6, 0.7, 0.4))  # the last is of the merged model
    report = distill_(
        cut, dense, DATA, selection=lambda m: next(values), settings=Distillation(**QUICK, lora=2)
    )
    assert same(state(cut), start)
    assert (report.after, report.best_step) == (0.5, 0)


@LORA
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
@pytest.mark.slow
def test_everything_else_comes_back_as_it_was(lora, dtype, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cut, dense = pair("gpt2", "causal_lm", dtype=dtype)
    cut.transformer.h[1].train()
    frozen = cut.transformer.h[2].mlp.c_fc.weight.requires_grad_(False)
    kept = frozen.clone()

    def facts(model):
        parameters = [(n, id(p), p.requires_grad, p.dtype) for n, p in model.named_parameters()]
        modules = [
            (n, id(m), m.training, list(m._forward_hooks), list(m._forward_pre_hooks))
            for n, m in model.named_modules()
        ]
        return parameters, modules, model.config.to_json_string(), sorted(model.__dict__)

    def surroundings():
        return (
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            dict(os.environ),
            transformers.logging.get_verbosity(),
            torch.get_default_dtype(),
        )

    before = facts(cut), facts(dense), state(dense), surroundings()
    report = distill_(cut, dense, DATA, settings=Distillation(**QUICK, lora=lora))
    assert report.best_step > 0
    assert (facts(cut), facts(dense)) == before[:2]
    assert same(state(dense), before[2])
    assert surroundings() == before[3]
    assert all(p.grad is None for p in (*cut.parameters(), *dense.parameters()))
    assert torch.equal(frozen, kept)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


@LORA
@pytest.mark.slow
def test_an_interrupted_run_has_the_best_weights_and_no_trace(lora):
    cut, dense = pair()
    modules = list(cut.modules())
    flags = [p.requires_grad for p in cut.parameters()]
    start = state(cut)

    def stop(step, planned):
        if step == 10:
            raise KeyboardInterrupt

    values = itertools.count()
    settings = Distillation(**QUICK, lora=lora)
    with pytest.raises(KeyboardInterrupt):
        distill_(
            cut, dense, DATA, selection=lambda m: next(values), settings=settings, on_step=stop
        )
    assert list(map(id, cut.modules())) == list(map(id, modules))
    assert [p.requires_grad for p in cut.parameters()] == flags
    assert not same(state(cut), start)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in cut.modules())


@pytest.mark.slow
def test_an_interrupted_run_without_a_better_model_has_the_weights_that_it_came_with():
    cut, dense = pair()
    start = state(cut)

    def stop(step, planned):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill_(cut, dense, DATA, settings=Distillation(**QUICK), on_step=stop)
    assert same(state(cut), start)


@LORA
@pytest.mark.slow
def test_masked_heads_stay_masked(lora):
    dense = make("bert", dtype=torch.float32)
    plan = PruningPlan(
        HeadModel(dense).mask.drop(Head(0, 1), Head(1, 0), Head(1, 5)), action="mask"
    )
    cut = apply_(copy.deepcopy(dense), plan)
    distill_(cut, dense, DATA, settings=Distillation(**QUICK, lora=lora))
    for head in plan.mask.dropped:
        assert not HeadModel(cut).head_weights(head)["output"].any()
    assert HeadModel(cut).head_weights(Head(1, 1))["output"].all()
    removed = remove_(copy.deepcopy(cut), PruningPlan(plan.mask))
    torch.testing.assert_close(outputs(cut, DATA[0]), outputs(removed, DATA[0]))


@pytest.mark.parametrize("model_type", ("bert", "gpt2", "llama"))
@pytest.mark.slow
def test_merged_adapters_leave_a_plain_checkpoint(model_type, tmp_path):
    cut, dense = pair(model_type)
    start = state(cut)
    report = distill_(cut, dense, DATA, settings=Distillation(**QUICK, lora=2))
    assert report.best_step > 0
    cut.save_pretrained(tmp_path)
    loaded = AUTO["classification"].from_pretrained(tmp_path)
    assert same(state(loaded), state(cut))
    assert state(loaded).keys() == start.keys()
    assert torch.equal(outputs(loaded, DATA[0]), outputs(cut, DATA[0]))
    assert loaded.config.to_dict().keys() == cut.config.to_dict().keys()


@pytest.mark.slow
def test_adapters_change_the_projections_of_cut_blocks_alone():
    dense = make("bert", dtype=torch.float32)
    cut = copy.deepcopy(dense)
    remove_(cut, PruningPlan(HeadModel(cut).mask.drop(Head(1, 0))))
    start = state(cut)
    distill_(cut, dense, DATA, settings=Distillation(**QUICK, lora=2))
    changed = {name for name, tensor in state(cut).items() if not torch.equal(tensor, start[name])}
    block = "bert.encoder.layer.1.attention."
    parts = ("self.query", "self.key", "self.value", "output.dense")
    assert changed == {f"{block}{part}.weight" for part in parts}


@pytest.mark.parametrize("kind", ("classification", "causal_lm"))
@pytest.mark.slow
def test_token_embeddings_and_what_is_tied_to_them_are_not_trained(kind):
    cut, dense = pair("gpt2", kind)
    kept = cut.get_input_embeddings().weight.clone()
    report = distill_(cut, dense, DATA, settings=Distillation(**QUICK))
    assert torch.equal(cut.get_input_embeddings().weight, kept)
    assert report.trained == sum(p.numel() for p in cut.parameters()) - kept.numel()


@pytest.mark.slow
def test_patience_stops():
    cut, dense = pair()
    values = iter((0, 1, 0, 0, 9))
    settings = Distillation(**{**QUICK, "evaluations": 7}, patience=2)
    report = distill_(cut, dense, DATA, selection=lambda m: next(values), settings=settings)
    assert (report.stopped, report.after, len(report.points)) == ("patience", 1, 3)
    assert report.steps < report.planned


@pytest.mark.slow
def test_max_steps_and_progress():
    cut, dense = pair()
    steps = []
    report = distill_(
        cut,
        dense,
        DATA,
        settings=Distillation(**QUICK, max_steps=3),
        on_step=lambda *step: steps.append(step),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert (report.steps, report.stopped) == (3, "done")
    assert [p.step for p in report.points] == [2, 3]
    assert report.to_json()["points"][0]["step"] == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_refused_and_changes_nothing():
    cut, dense = pair()
    start = state(cut)
    with pytest.raises(ScoreError, match="not finite; lower the learning rate"):
        distill_(cut, dense, DATA, settings=Distillation(epochs=9, learning_rate=1e30))
    assert same(state(cut), start)


@pytest.mark.parametrize(("package", "lora"), [("accelerate", 0), ("peft", 2)])
def test_a_missing_package_is_named_before_any_work(package, lora, monkeypatch):
    cut, dense = pair()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError, match=rf"needs {package}.*pip install .deadhead\[tr"
    ):
        distill_(cut, dense, [], settings=Distillation(lora=lora))


def test_what_cannot_be_distilled_is_refused():
    cut, dense = pair()
    with pytest.raises(HeadError, match="is the dense one itself"):
        distill_(dense, dense, DATA)
    with pytest.raises(HeadError, match=r"had \[6, 6, 6\] heads once, the dense one has \[6, 6\]"):
        distill_(cut, make("albert"), DATA)
    with pytest.raises(
        HeadError, match=r"returns \[6, 1, 3\] where the dense one returns \[6, 9, 24\]"
    ):
        distill_(cut, make("bert", "base", dtype=torch.float32), DATA)
    with pytest.raises(DataError, match="no text to distill on"):
        distill_(cut, dense, [])
    with pytest.raises(HeadError, match="no projection can have an adapter"):
        distill_(copy.deepcopy(dense), dense, DATA, settings=Distillation(lora=4))
    with pytest.raises(ScoreError, match="inference_mode"), torch.inference_mode():
        distill_(cut, dense, DATA)
    with pytest.raises(HeadError, match="every weight of the model is frozen"):
        distill_(cut.requires_grad_(False), dense, DATA)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs 0 of distill cannot be; give 1 or more"),
        ({"patience": 0}, "patience 0"),
        ({"learning_rate": -1.0}, "learning_rate -1.0 of distill .* give a positive number"),
        ({"seconds": float("nan")}, "seconds nan"),
        ({"warmup": 1.0}, r"a number in \[0, 1\)"),
        ({"logits_weight": 0.0, "outputs_weight": 0.0}, "not both 0"),
        ({"logits_weight": -1.0}, "give 0 or more"),
        ({"lora": -1}, "lora -1 of distill .* a rank"),
    ],
)
def test_settings_that_train_nothing_are_refused(wrong, message):
    with pytest.raises(BudgetError, match=message):
        Distillation(**wrong)


def test_training_keeps_to_text_of_the_models_own_making():
    found = {}
    for share in (0, 0.5):
        cut, dense = pair("gpt2", "causal_lm", seed=1)
        settings = Distillation(**{**QUICK, "epochs": 12}, own_text=share)
        few = [batch((3, 2, 2, 3), seed=5)]  # most directions are not seen
        report = distill_(cut, dense, few, selection=steps_done(), settings=settings)
        own = OwnText(HeadModel(dense), few, PassSettings(7), rows=16).batches
        log_q, log_p = (outputs(m, own[0]).double().log_softmax(-1) for m in (cut, dense))
        found[share] = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        assert report.best_step == report.planned == 12 * (2 if share else 1)
    assert found[0.5] < 0.8 * found[0]


def steps_done():
    """A selection that likes later weights better."""
    seen = itertools.count()
    return lambda model: next(seen)
