"""What auto decides on, and the second look: against numbers made by hand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deadhead import HeadModel, open_task
from deadhead.checkpoints import load_model
from deadhead.data.batches import call
from deadhead.errors import BudgetError, DataError
from deadhead.losses.losses import Probe, held_out, preference_from
from deadhead.moments.sums import HELD_OUT_EVERY
from deadhead.options.values import DEFAULT_REPAIR
from deadhead.pruning.auto import ORDERS, AutoChoice, AutoSelector, _chosen
from deadhead.pruning.judges import divergences_of
from deadhead.pruning.moves import context_of, moves_to
from deadhead.pruning.prune import choose, choose_plan, prune
from deadhead.pruning.recipe import Recipe
from deadhead.pruning.trajectory import Completed, Progress
from deadhead.repair import apply_repaired_, fit, repaired
from deadhead.scoring import Scorer
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassSettings
from deadhead.strategies import STRATEGIES
from deadhead.studies.grid import SweepGrid
from deadhead.types import Head, HeadScores, PruningPlan
from models import batch, make

DATA = [batch((9, 8, 7, 9), seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def pairs():
    loaded = load_model("bundled:decoder")
    tasks = open_task(
        "bundled:agreement", loaded.tokenizer, config=loaded.model.config, calibration_size=48
    )
    return loaded.model, tasks


@pytest.fixture(scope="module")
def sentiment():
    loaded = load_model("bundled:encoder")
    sizes = {"calibration_size": 32, "test_size": 16}
    spec = "bundled:sentiment"
    return loaded.model, open_task(spec, loaded.tokenizer, config=loaded.model.config, **sizes)


def apart_from(view, probes, changes):
    return divergences_of(
        view, probes, [partial(repaired, view, mask, fits) for mask, fits in changes.items()]
    )


def test_probes_are_the_samples_that_fits_hold_out():
    ids = torch.cat([probe.batch["input_ids"] for probe in held_out(DATA)])
    every = torch.cat([data["input_ids"] for data in DATA])
    assert torch.equal(ids, every[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])


def test_probes_of_pairs_ask_which_sentence_is_likelier(pairs):
    _, tasks = pairs
    probes = tasks.calibration.probes()
    rows = sum(len(probe.batch["input_ids"]) for probe in probes)
    assert rows == 2 * (tasks.calibration.size // HELD_OUT_EVERY)
    found = {tuple(row[row > 0].tolist()) for p in probes for row in p.batch["input_ids"]}
    good = {
        tuple(row[mask.bool()].tolist())
        for data in tasks.calibration.batches()
        for row, mask in zip(data["input_ids"], data["attention_mask"], strict=True)
    }
    assert 0 < len(found & good) < len(found), "one side of each pair is acceptable"


def test_the_divergence_of_a_preference_is_that_of_two_probabilities(pairs):
    model, tasks = pairs
    view = HeadModel(model)
    (probe, *_) = tasks.calibration.probes()
    mask = view.mask.drop(Head(0, 0), Head(1, 1))

    def prefers() -> torch.Tensor:
        with torch.no_grad():
            logits = call(model, probe.batch).logits.double()
        losses = F.cross_entropy(
            logits[:, :-1].transpose(1, 2), probe.batch["input_ids"][:, 1:], reduction="none"
        )
        total = (losses * probe.batch["attention_mask"][:, 1:]).sum(1)
        first, second = total.chunk(2)
        return torch.stack([-first, -second]).softmax(0)

    before = prefers()
    plan = PruningPlan(mask)
    cut = apply_repaired_(copy.deepcopy(model), plan, {})
    (found,) = apart_from(view, [probe], {mask: {}})
    model = cut
    after = prefers()
    wanted = (before * (before.log() - after.log())).sum(0)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)
    assert found.max() > 0
    (same,) = apart_from(view, [probe], {view.mask: {}})
    assert float(same.abs().max()) == 0


def test_which_side_is_right_is_not_looked_at(pairs):
    view = HeadModel(pairs[0])
    (probe, *_) = pairs[1].calibration.probes()
    swapped = {k: torch.cat(v.chunk(2)[::-1]) for k, v in probe.batch.items()}
    changes = {view.mask.drop(Head(0, 0), Head(2, 1)): {}}
    (one,) = apart_from(view, [probe], changes)
    (other,) = apart_from(view, [Probe(swapped, preference_from)], changes)
    assert torch.allclose(one, other)


@pytest.mark.parametrize(
    ("model_type", "kind"), [("bert", "classification"), ("gpt2", "causal_lm")]
)
def test_the_nearest_order_is_taken_unless_the_first_is_as_near(model_type, kind):
    model = make(model_type, kind)
    before = copy.deepcopy(model.state_dict())
    view = HeadModel(model)
    decider = AutoSelector(view, DATA)
    limit = view.mask.n_heads * 3 // 4
    decision = decider(Recipe(heads=0.75), limit)
    assert list(decision.divergences) == [" ".join(order) for order in ORDERS]
    assert decision.mask == choose(model, DATA, decision.recipe).mask
    assert decision.recipe.loss == "kl"
    # by hand: fits without the probes, answers to the probes, the rule of one standard error
    moments = Scorer(view, DATA, None, moments=True).moments.fitting
    own = OwnText(view, DATA, PassSettings())
    apart = {}
    for strategy, criterion in ORDERS:
        recipe = Recipe(strategy=strategy, criterion=criterion, loss="kl", heads=0.75)
        mask = choose(model, DATA, recipe).mask
        changes = {mask: fit(view, PruningPlan(mask, repair=DEFAULT_REPAIR), moments)}
        pair = [apart_from(view, probes, changes)[0] for probes in (held_out(DATA), own.probes)]
        apart[f"{strategy} {criterion}"] = [values.numpy() for values in pair]
    for stream, told in enumerate((decision.divergences, decision.own)):
        means = {name: float(values[stream].mean()) for name, values in apart.items()}
        assert means == pytest.approx(dict(told))
    first, *others = apart

    def clearly_nearer(one: str, other: str, stream: int) -> bool:
        saved = apart[other][stream] - apart[one][stream]
        return saved.mean() > np.std(saved, ddof=1) / np.sqrt(len(saved))

    def nearest(names: list[str], standard: str, stream: int) -> str:
        nearer = [name for name in names if clearly_nearer(name, standard, stream)]
        return min([standard, *nearer], key=lambda name: apart[name][stream].mean())

    best = nearest(others, first, 0)
    best = nearest([name for name in apart if not clearly_nearer(best, name, 0)], best, 1)
    assert f"{decision.recipe.strategy} {decision.recipe.criterion}" == best
    written = {
        "bert": "texts that were joined of them",
        "gpt2": "texts that the model wrote itself",
    }[model_type]
    assert f"and, where those cannot tell, to {written} (" in decision.describe()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("calibration", "own", "wanted"),
    [
        ((2.0, 1.0, 1.5), (1.0, 9.0, 9.0), "b"),  # calibration texts can tell
        ((1.0, 1.0, 1.0), (2.0, 2.0, 1.0), "c"),  # own text decides
        ((2.0, 1.0, 1.0), (1.0, 2.0, 1.5), "c"),  # between those that are as near
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "a"),
        ((2.0, float("nan"), 1.5), (1.0, 1.0, 1.0), "c"),
        ((2.0, 1.0, 1.5), (), "b"),
    ],
)
def test_own_text_decides_where_calibration_texts_cannot_tell(calibration, own, wanted):
    noise = torch.tensor([0.01, 0.0, -0.01], dtype=torch.float64)
    answers = {
        (name, "criterion"): [noise + values[at] for values in (calibration, own) if values]
        for at, name in enumerate("abc")
    }
    assert _chosen(answers) == (wanted, "criterion")


def test_passes_are_counted_in_tokens():
    view = HeadModel(make("gpt2", "causal_lm"))
    plain = {"repair": "least_squares:own=0"}
    few = AutoSelector(view, DATA)(Recipe(heads=0.25, **plain), view.mask.n_heads // 4)
    many = AutoSelector(view, DATA)(Recipe(heads=0.75, **plain), view.mask.n_heads * 3 // 4)
    tokens = sum(int(data["attention_mask"].sum()) for data in DATA)
    share = sum(int(p.batch["attention_mask"].sum()) for p in held_out(DATA)) / tokens
    different = len({round(v, 12) for v in few.divergences.values()})
    assert few.passes == pytest.approx(1 + share * (1 + different) / 3)
    assert few.own == {}
    assert 2 < many.passes < 3
    assert f"{many.passes:.1f} forward+backward passes" in many.describe()
    own = AutoSelector(view, DATA)(Recipe(heads=0.25), view.mask.n_heads // 4)
    written, asked = 16 * 40, 2 * 40  # the tokens of so few texts; every eighth text is asked
    different = len({round(v, 12) for v in own.divergences.values()})
    wanted = 1 + (share + asked / tokens) * (1 + different) / 3 + 2 * written / tokens / 3
    assert own.passes == pytest.approx(wanted)


def test_who_names_a_method_gets_it():
    assert Recipe().settled().undecided
    for named in ({"strategy": "greedy"}, {"budget": "flops=80%"}, {"inverse": True}):
        found = Recipe(**named).settled()
        assert (found.undecided, found.criterion) == (False, "reconstruction")
        assert found.repair == DEFAULT_REPAIR
    assert Recipe(criterion="taylor").settled().repair == "none"


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_the_second_look_sees_the_model_that_was_cut_and_repaired(model_type):
    model = make(model_type)
    view = HeadModel(model)
    greedy = Recipe(strategy="greedy", criterion="reconstruction")
    half = choose(model, DATA, greedy, scores=None).mask
    moments = Scorer(view, DATA, None, moments=True).moments
    plan = PruningPlan(half, repair="least_squares")
    cut = apply_repaired_(copy.deepcopy(model), plan, fit(view, plan, moments))
    on_cut = choose(cut, DATA, Recipe(strategy="greedy", criterion="reconstruction", heads=0.75))
    second = Recipe(strategy="second_look", criterion="reconstruction", heads=0.75)
    assert choose(model, DATA, second).mask.kept == on_cut.mask.kept


@pytest.mark.slow
def test_a_second_look_that_was_interrupted_ends_the_same(sentiment):
    model, tasks = sentiment
    recipe = Recipe(strategy="second_look", criterion="reconstruction", heads=0.75)
    seen = []
    whole = prune(model, tasks, recipe, progress=Progress(on_step=seen.append))
    masks = [step.mask for step in whole.trajectory.steps]
    half = choose(model, tasks.calibration.batches(), Recipe(strategy="greedy")).mask
    assert half in masks
    for at in (3, len(seen) - 2):  # before the second look, and after it
        done = Completed(whole.scores, tuple(seen[:at]))
        again = prune(model, tasks, recipe, completed=done)
        assert [step.mask for step in again.trajectory.steps] == masks


@pytest.mark.parametrize(("per_step", "cut"), [(5, 7), (3, 4), (5, 3), (4, 6)])
@pytest.mark.slow
def test_a_second_look_is_at_the_half_that_the_run_came_by(sentiment, per_step, cut):
    model, tasks = sentiment
    recipe = Recipe(
        strategy="second_look",
        criterion="reconstruction",
        heads=0.9,
        cut=cut,
        per_step=per_step,
        evaluate_every=100,
    )
    whole = prune(model, tasks, recipe)
    masks = [step.mask for step in whole.trajectory]
    for at in range(2, len(masks)):
        done = Completed(whole.scores, (whole.trajectory.start, *whole.trajectory.steps[: at - 1]))
        again = prune(model, tasks, recipe, completed=done)
        assert [step.mask for step in again.trajectory] == masks


@pytest.mark.slow
def test_what_was_decided_is_not_decided_again(sentiment, monkeypatch):
    model, tasks = sentiment
    whole = prune(model, tasks, Recipe())
    told = json.loads(json.dumps(whole.choice.to_json()))
    decision = AutoChoice.from_json(told, Recipe())
    assert decision == whole.choice
    said = []
    monkeypatch.setattr("deadhead.pruning.loop.AutoSelector", None)  # would be called
    for done in (
        Completed(choice=decision),
        Completed(whole.scores, whole.trajectory.steps[:3], decision),
    ):
        done = replace(done, steps=(whole.trajectory.start, *done.steps))
        again = prune(
            model, tasks, Recipe(), completed=done, progress=Progress(on_choice=said.append)
        )
        assert again.plan == whole.plan
        assert again.recipe == whole.recipe
        for number, found in whole.fits.items():
            torch.testing.assert_close(again.fits[number].weight, found.weight)
    assert said == [decision, decision]


@pytest.mark.slow
def test_who_was_decided_on_is_scored_by_the_loss_that_decided(sentiment):
    model, tasks = sentiment
    made = prune(model, tasks, Recipe(criterion="taylor", strategy="one_shot", loss="kl")).plan
    told = {"strategy": "one_shot", "criterion": "taylor", "mask": made.mask.to_json()}
    told |= {"divergences": {}, "passes": 1.0, "few": False}
    done = Completed(choice=AutoChoice.from_json(told, Recipe()))
    assert prune(model, tasks, Recipe(), completed=done).plan.mask == made.mask
    by_labels = Recipe(criterion="taylor", strategy="one_shot", loss="task")
    assert prune(model, tasks, by_labels).plan.mask != made.mask, "or the test could not tell"


@pytest.mark.parametrize(("recipe", "limit"), [({}, 12), ({"max_drop": 0.5}, 6), ({"cut": 4}, 4)])
def test_it_is_decided_at_the_heads_that_will_go(sentiment, monkeypatch, recipe, limit):
    asked = []

    class StopError(Exception):
        pass

    def ask(self, recipe, limit):
        asked.append(limit)
        raise StopError

    monkeypatch.setattr(AutoSelector, "__call__", ask)
    model, tasks = sentiment
    tasks = replace(tasks, selection=tasks.selection or tasks.test)
    with pytest.raises(StopError):
        prune(model, tasks, Recipe(**recipe))
    assert asked == [limit]


def test_a_second_look_needs_a_criterion_that_knows_every_mask():
    recipe = Recipe(strategy="second_look", criterion="gradient_norm", heads=0.75)
    with pytest.raises(BudgetError, match=r"'second_look' needs .*criterion reconstruction, or"):
        choose(make("bert"), DATA, recipe)


def test_with_nothing_to_ask_the_first_order_is_taken_and_said():
    model, few = make("bert"), [batch((9, 8, 7))]
    said = []
    plan = choose_plan(HeadModel(model), few, Recipe(heads=0.5), on_choice=said.append)
    first = choose(model, few, Recipe(strategy=ORDERS[0][0], criterion=ORDERS[0][1], heads=0.5))
    assert plan.mask == first.mask
    assert "too few calibration samples to hold any out" in said[0].describe()
    with pytest.raises(DataError, match="give four or more, or go on all the same without strict"):
        choose(model, few, Recipe(heads=0.5, strict=True))


def test_where_all_orders_leave_the_same_no_question_is_asked():
    said = []
    choose_plan(HeadModel(make("bert")), DATA, Recipe(heads=1.0), on_choice=said.append)
    assert said[0].divergences == {}
    assert said[0].passes == 2
    assert "orders leave the same heads" in said[0].describe()


def test_an_order_that_the_data_cannot_make_is_left_out():
    view = HeadModel(make("bert"))
    short = [batch((1, 1, 1, 1), seed=seed) for seed in (1, 2, 3)]
    for data in short:
        data["input_ids"][:] = 5  # one token, the same everywhere: nothing to reconstruct
    decision = AutoSelector(view, short)(Recipe(heads=0.25), 3)
    assert decision.recipe.criterion in ("taylor", "fisher", "gradient_norm")
    assert not any("reconstruction" in name for name in decision.divergences)


def test_the_second_look_is_made_once(monkeypatch):
    model, seen = make("bert"), []
    monkeypatch.setattr("deadhead.pruning.auto.ORDERS", (ORDERS[1], ORDERS[2]))
    monkeypatch.setattr("deadhead.pruning.auto._clearly_nearer", lambda new, old: False)
    decider = AutoSelector(
        HeadModel(model), DATA, settings=PassSettings(on_batch=lambda: seen.append(1))
    )
    decision = decider(Recipe(heads=0.75), 14)
    assert decision.recipe.strategy == "second_look"
    assert len(seen) == 2 * len(DATA)
    scorer = decider.scorers.of("reconstruction")
    context = context_of(decider.view, Recipe(), scorer, scorer=scorer, limit=14)
    assert list(STRATEGIES["second_look"](context))[-1].mask == decision.mask
    assert len(seen) == 2 * len(DATA)


def test_a_block_without_heads_is_not_constant_at_the_second_look():
    model = make("bert")
    view = HeadModel(model)
    with torch.no_grad():
        view.blocks[0].output.weight.zero_()
    recipe = Recipe(strategy="second_look", criterion="reconstruction", heads=0.75, strict=True)
    data = [batch((9,) * 40, seed=seed) for seed in (1, 2)]
    assert not any(choose(model, data, recipe).mask.kept[0])


def test_a_curve_beyond_its_cut_drops_no_head_twice():
    model = make("bert")
    recipe = Recipe(strategy="second_look", criterion="reconstruction", heads=0.9, per_step=4)
    view = HeadModel(model)
    scorer = Scorer(view, DATA, "reconstruction")
    moves = moves_to(context_of(view, recipe, scorer, scorer=scorer), recipe.strategy, (3, 10))
    heads = [head for move in moves for head in move.dropped]
    assert len(heads) == len(set(heads)) == 10


def test_auto_is_a_method_of_its_own_in_a_table():
    with pytest.raises(BudgetError, match="auto decides on strategy and criterion together"):
        SweepGrid((0.5,), methods=(("greedy", "auto"),), actions=("mask",))


def test_scores_of_anybody_are_taken():
    model = make("bert")
    values = np.arange(HeadModel(model).mask.n_heads, dtype=float)
    rows = tuple(np.split(values, np.cumsum(HeadModel(model).mask.counts)[:-1]))
    plan = choose(model, None, Recipe(heads=3), scores=HeadScores(rows, "mine"))
    assert [(h.block, h.index) for h in plan.mask.dropped] == [(0, 0), (0, 1), (0, 2)]


def test_repaired_at_the_end_the_curve_is_of_models_as_they_are_cut(sentiment):
    model, tasks = sentiment
    how = {"criterion": "taylor", "strategy": "one_shot", "heads": 12, "per_step": 4}
    curves = {
        at: prune(model, tasks, Recipe(repair="least_squares", repair_at=at, **how))
        for at in ("step", "end")
    }
    plain = prune(model, tasks, Recipe(repair="none", **how))
    metrics = {at: [s.metric for s in found.trajectory] for at, found in curves.items()}
    assert metrics["end"] == [s.metric for s in plain.trajectory]
    assert metrics["step"] != metrics["end"]
    assert curves["end"].fits.keys() == curves["step"].fits.keys()
