"""Three lines of Python: a model, whatever data a person holds, and a model that is smaller."""

from __future__ import annotations

import copy
import inspect
from dataclasses import fields

import datasets
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

import deadhead
from deadhead import Head, HeadModel, PruningPlan, Recipe, bundled, choose, prune, remove_
from deadhead.errors import BudgetError, DeadheadError, HeadError
from deadhead.options.settings import Distillation
from deadhead.options.values import DEFAULT_REPAIR
from models import batch, make, outputs

LOADED = deadhead.load_model("bundled:encoder")
ROWS = bundled.sentiment("train", 96)
TEXTS = [row["sentence"] for row in ROWS]


def collate(texts):
    return LOADED.tokenizer(texts, padding=True, return_tensors="pt")


def labeled(texts):
    labels = {row["sentence"]: row["label"] for row in ROWS}
    return {**collate(texts), "labels": torch.tensor([labels[text] for text in texts])}


def split(n):
    rows = bundled.sentiment("test" if n else "train", 32)
    return datasets.Dataset.from_list(rows)


DATA = {
    "texts": lambda folder: TEXTS,
    "Dataset": lambda folder: datasets.Dataset.from_dict({"text": TEXTS}),
    "labeled Dataset": lambda folder: datasets.Dataset.from_list(ROWS),
    "DatasetDict": lambda folder: datasets.DatasetDict(train=split(0), test=split(1)),
    "DatasetDict of one": lambda folder: datasets.DatasetDict(train=DATA["Dataset"](folder)),
    "DataLoader": lambda folder: DataLoader(TEXTS, batch_size=8, collate_fn=collate),
    "labeled DataLoader": lambda folder: DataLoader(TEXTS, batch_size=8, collate_fn=labeled),
    "batches": lambda folder: [collate(TEXTS[n : n + 8]) for n in range(0, 96, 8)],
    "data frame": lambda folder: pd.DataFrame(ROWS),
    "file": lambda folder: written(folder),
    "task": lambda folder: opened().calibration,
    "tasks": lambda folder: opened(),
}
JUDGED = ("labeled Dataset", "DatasetDict", "data frame", "tasks")


def written(folder):
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    return str(folder / "texts.txt")


def opened():
    sizes = {"calibration_size": 48, "test_size": 32}
    config = LOADED.model.config
    return deadhead.open_task("bundled:sentiment", LOADED.tokenizer, config=config, **sizes)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.slow
def test_any_data_is_enough_to_cut_and_repair(kind, tmp_path):
    model = copy.deepcopy(LOADED.model)
    before = copy.deepcopy(model.state_dict())
    result = prune(model, DATA[kind](tmp_path), tokenizer=LOADED.tokenizer, heads="50%")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert HeadModel(model).mask.n_kept == 24
    assert HeadModel(result.model).mask == result.plan.mask
    assert result.plan.mask.n_kept == 12
    assert result.plan.repair == DEFAULT_REPAIR
    if kind in JUDGED:
        assert (result.evaluated_on, result.trajectory.metric) == ("test", "accuracy")
        assert len(result.trajectory.curve()[0]) == 9
    elif kind != "task":  # a task alone has nothing to hold out
        assert (result.evaluated_on, result.trajectory.metric) == ("held_out", "divergence")
        low, high = result.pruned.interval()
        assert 0 < low <= result.pruned.value <= high
    result.model.save_pretrained(tmp_path / "small")
    again = type(model).from_pretrained(tmp_path / "small")
    inputs = collate(TEXTS[:4])
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, result.model.eval()(**inputs).logits)


@pytest.mark.parametrize("repair", ["none", "bias", "least_squares", "distill"])
@pytest.mark.parametrize("action", ["remove", "mask"])
@pytest.mark.slow
def test_a_result_applies_what_its_plan_says(repair, action):
    model = copy.deepcopy(LOADED.model)
    how = {"repair": repair, "action": action, "heads": 0.5, "tokenizer": LOADED.tokenizer}
    result = prune(model, TEXTS, criterion="taylor", strategy="one_shot", loss="kl", **how)
    assert (result.trained is not None) == (repair == "distill")
    if repair != "none":  # the repair is needed, and nobody leaves it out in silence
        with pytest.raises(HeadError, match=r"result\.apply_\(model\)"):
            remove_(copy.deepcopy(model), result.plan)
    inputs = collate(TEXTS[:8])
    with torch.no_grad():
        expected = result.model.eval()(**inputs).logits
        assert result.apply_(model) is model
        assert torch.equal(model.eval()(**inputs).logits, expected)
    apart = float(result.pruned.value)
    assert apart == pytest.approx(measured(result.model, LOADED.model, result), rel=1e-4)
    if action == "remove":
        with pytest.raises(HeadError, match="give the model as it was"):
            result.apply_(model)


def measured(cut, dense, result):
    """The mean divergence of predictions on the last fifth of the texts, as prune holds out."""
    text = deadhead.tasks.as_tasks(TEXTS, LOADED.model, LOADED.tokenizer).held_out
    values = []
    with torch.no_grad():
        for inputs in text.batches():
            before = dense.eval()(**inputs).logits.double().log_softmax(-1)
            after = cut.eval()(**inputs).logits.double().log_softmax(-1)
            values.append((before.exp() * (before - after)).sum(-1))
    return float(torch.cat(values).mean())


def test_after_it_was_applied_to_the_pruned_model_the_result_has_that_model():
    model = make("bert")
    result = prune(model, [batch()], criterion="magnitude", heads=4)
    assert result.apply_(model) is model is result.model
    other = make("bert")
    result = prune(other, [batch()], criterion="magnitude", heads=4)
    remove_(other, [(0, 0)])
    with pytest.raises(HeadError, match="give the model as it was"):
        _ = result.model


def test_nothing_that_was_not_done_is_a_label():
    tasks = opened()
    judged = deadhead.TaskSet(tasks.calibration, tasks.test, tasks.test)
    kept = prune(LOADED.model, judged, max_drop=0.0, heads=23, criterion="random", seed=1)
    nothing = prune(
        LOADED.model,
        judged,
        max_drop=0.0,
        heads=23,
        criterion="random",
        repair="bias",
        inverse=True,
    )
    for result in (kept, nothing):
        if not result.plan.mask.dropped:
            assert result.plan.repair == "none"
        assert (result.plan.repair == "none") == (not result.fits)


@pytest.mark.slow
def test_training_in_vain_is_not_called_distill():
    distillation = Distillation(epochs=1, learning_rate=1e-9, max_steps=1, evaluations=1)
    how = {"repair": "distill", "distillation": distillation, "tokenizer": LOADED.tokenizer}
    result = prune(LOADED.model, TEXTS, heads=0.25, **how)
    if not result.trained.best_step:
        assert result.plan.repair == DEFAULT_REPAIR
        assert any("made nothing better" in note for note in result.notes)


@pytest.mark.parametrize("amount", [0.5, "50%", 12, "12", "0.5"])
def test_amounts_are_what_people_type(amount):
    for result in (
        choose(LOADED.model, None, criterion="magnitude", heads=amount).mask,
        choose(LOADED.model, None, Recipe(criterion="magnitude", heads=amount)).mask,
    ):
        assert result.n_kept == 12


@pytest.mark.parametrize("function", [prune, choose])
def test_options_come_from_the_recipe(function):
    shown = inspect.signature(function).parameters
    for field in fields(Recipe):
        assert shown[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        if field.name != "clustering" and field.name != "distillation":
            assert shown[field.name].default == getattr(Recipe(), field.name)
    assert list(shown)[:2] == ["model", "data"]


@pytest.mark.parametrize("function", [prune, choose])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"head": 0.5}, "'head' is not known; did you mean 'heads'"),
        ({"tokenzier": None}, "did you mean 'tokenizer'"),
        ({"critereon": "taylor"}, "did you mean 'criterion'"),
        ({"recipe": 0.5}, "0.5 is not a recipe; give a deadhead.Recipe"),
        ({"heads": "half"}, "'half' is not an amount of heads"),
        ({"strategy": "gredy"}, "did you mean 'greedy'"),
    ],
)
def test_misspelt_arguments_are_refused_with_the_nearest(function, wrong, said):
    with pytest.raises(DeadheadError, match=said):
        function(LOADED.model, TEXTS, **wrong)
    if "recipe" in wrong or "head" in wrong:
        with pytest.raises(TypeError):
            function(LOADED.model, TEXTS, **wrong)


def test_a_result_is_printed_as_a_sentence():
    result = prune(LOADED.model, TEXTS, tokenizer=LOADED.tokenizer, heads=0.5)
    assert len(repr(result)) < 200
    assert f"remove 12 of 24 heads, repair {DEFAULT_REPAIR}" in repr(result)
    first, second = str(result).splitlines()
    assert "divergence from the dense model 0." in first
    assert "nats (95% interval " in first
    assert second.startswith("heads: 12 of 24 || params: ")
    assert result._repr_html_().startswith("<figure")


def test_max_drop_without_a_selection_set_is_refused():
    with pytest.raises(BudgetError, match="there is none"):
        prune(LOADED.model, TEXTS, tokenizer=LOADED.tokenizer, max_drop=0.1)


@pytest.mark.parametrize("given", ["plan", "mask", "heads"])
def test_a_plan_a_mask_or_heads_are_repaired(given):
    model = make("bert")
    mask = HeadModel(model).mask.drop(Head(0, 1), Head(2, 3))
    plan = PruningPlan(mask, repair="least_squares")
    what = {"plan": plan, "mask": mask, "heads": [(0, 1), "2.3"]}[given]
    deadhead.repair_(model, [batch(seed=seed) for seed in range(3)], what)
    assert HeadModel(model).mask == mask
    assert outputs(model, batch()).isfinite().all()


@pytest.mark.slow
def test_scores_and_explanations_take_what_prune_takes():
    how = {"tokenizer": LOADED.tokenizer, "criterion": "taylor", "loss": "kl"}
    result = prune(LOADED.model, TEXTS, heads=4, **how)
    scores = deadhead.score(LOADED.model, TEXTS, "taylor", tokenizer=LOADED.tokenizer, loss="kl")
    masked = deadhead.score(
        LOADED.model, TEXTS, "taylor", tokenizer=LOADED.tokenizer, loss="kl", mask=[(0, 1), "2.3"]
    )
    assert scores.counts == result.scores.counts
    assert [str(h) for h in unscored(masked)] == ["0.1", "2.3"]
    found = deadhead.explain(LOADED.model, TEXTS, result, tokenizer=LOADED.tokenizer, samples=8)
    assert {row.head for row in found.rows} == set(result.plan.mask.dropped)
    with pytest.raises(DeadheadError, match="give its trajectory"):
        deadhead.explain(LOADED.model, TEXTS, result.plan, tokenizer=LOADED.tokenizer)


def unscored(scores):
    every = (Head(b, i) for b, n in enumerate(scores.counts) for i in range(n))
    return [head for head in every if scores[head] != scores[head]]


def test_a_result_is_not_applied_to_other_weights():
    model = copy.deepcopy(LOADED.model)
    result = prune(model, TEXTS, tokenizer=LOADED.tokenizer, heads=4)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(HeadError, match="other weights than the pruned one"):
        result.apply_(other)
    assert all(torch.equal(before[name], now) for name, now in other.state_dict().items())
    result.apply_(copy.deepcopy(model))
    result.apply_(model)
    with pytest.raises(HeadError):
        result.apply_(other)


@pytest.mark.parametrize("wrong", ("bundled:encoder", None, LOADED, 3))
def test_what_is_no_model_is_refused_in_one_line(wrong):
    for call in (
        lambda: HeadModel(wrong),
        lambda: prune(wrong, TEXTS, tokenizer=LOADED.tokenizer),
        lambda: deadhead.score(wrong, TEXTS, "taylor"),
        lambda: deadhead.masked(wrong, [(0, 0)]).__enter__(),
        lambda: remove_(wrong, [(0, 0)]),
        lambda: choose(wrong, TEXTS),
    ):
        with pytest.raises(DeadheadError, match="a model is wanted") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_misspelt_argument_gets_the_nearest_name():
    for function in (deadhead.repair_, deadhead.explain):
        with pytest.raises(DeadheadError, match="did you mean 'tokenizer'"):
            function(LOADED.model, TEXTS, [(0, 0)], tokeniser=LOADED.tokenizer)
