"""explain, against what is computed by hand on models that are small enough."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deadhead import Head, HeadMask, HeadModel, PruningPlan, explain, score
from deadhead.criteria import CRITERIA
from deadhead.errors import DataError, HeadError, ScoreError
from deadhead.pruning.trajectory import Step, Trajectory
from deadhead.repair import applied_repaired, fit
from deadhead.scoring import Scorer
from deadhead.studies import explain as divergences_module
from deadhead.studies.explain import cheap_criteria, chosen_samples
from deadhead.studies.explanation import Explanation
from deadhead.surgery import applied, masked
from models import batch, make

GONE = ((Head(1, 2),), (Head(0, 0), Head(1, 4)), (Head(1, 0),))
BATCHES = [batch(), batch((7, 7, 3, 2), seed=2), batch((12, 5), seed=3)]
FAST = ["magnitude"]


def run_of(view: HeadModel, gone=GONE, metrics=(0.8, 0.7, 0.6), **plan):
    """A trajectory that drops `gone`, and the plan of its last step."""
    start = Step(view.mask, (), 0.9, 0.0)
    mask, steps = view.mask, []
    for heads, metric in zip(gone, metrics, strict=True):
        mask = mask.drop(*heads)
        steps.append(Step(mask, heads, metric, 0.0, tuple(0.5 + h.index for h in heads)))
    return PruningPlan(mask, **plan), Trajectory(start, tuple(steps))


def logits(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@torch.no_grad()
def kl_by_hand(model, changed, batches=BATCHES) -> float:
    """Mean over samples (of the mean over their tokens) of KL(dense || changed)."""
    found = []
    for b in batches:
        before = logits(model, b).softmax(-1)
        with changed():
            after = logits(model, b).softmax(-1)
        terms = (before * (before / after).log()).sum(-1)
        for sample, mask in zip(terms, b["attention_mask"].bool(), strict=True):
            found.append(float(sample[mask].mean() if sample.dim() else sample))
    return float(np.mean(found))


@pytest.mark.parametrize("made", [("bert", "classification"), ("gpt2", "causal_lm")])
def test_a_divergence_is_that_of_the_masked_model(made):
    model = make(*made)
    view = HeadModel(model)
    plan, trajectory = run_of(view)
    found = explain(view, BATCHES, plan, trajectory, criteria=FAST, samples=None)
    by_step = {row.step: row for row in found.rows}
    before = 0.0
    for number, step in enumerate(trajectory.steps, start=1):
        wanted = kl_by_hand(model, lambda at=step: masked(view, at.mask))
        assert by_step[number].after == pytest.approx(wanted, rel=1e-9)
        assert by_step[number].before == pytest.approx(before, rel=1e-9)
        assert by_step[number].given_back == 0
        before = wanted
    assert found.measured == 9


@pytest.mark.parametrize("repair", ["least_squares", "least_squares_sequential"])
@pytest.mark.slow
def test_a_repaired_divergence_is_that_of_the_whole_plan_refitted(monkeypatch, repair):
    model = make("llama", "causal_lm")
    view = HeadModel(model)
    groups = [tuple(Head(b, i) for i in range(n, n + 3)) for b, n in ((1, 0), (0, 3), (1, 3))]
    plan, trajectory = run_of(view, groups, repair=repair)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    moments = Scorer(view, BATCHES, None, moments=True).moments
    found = explain(view, BATCHES, plan, trajectory, criteria=FAST, samples=None)
    for row in found.rows:
        at = replace(plan, mask=trajectory.steps[row.step - 1].mask)
        fits = fit(view, replace(at, repair=repair), moments, batches=BATCHES)
        wanted = kl_by_hand(model, lambda at=at, fits=fits: applied_repaired(view, at, fits))
        assert row.after == pytest.approx(wanted, rel=1e-7)
        bare = kl_by_hand(model, lambda at=at: masked(view, at.mask))
        assert row.unrepaired == pytest.approx(bare, rel=1e-7)
        assert row.given_back == pytest.approx(bare - wanted, rel=1e-6)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    monkeypatch.setattr(divergences_module, "HELD", 1)  # one batch of the dense model at a time
    again = explain(view, BATCHES, plan, trajectory, criteria=FAST, samples=None)
    assert [row.after for row in again.rows] == pytest.approx([row.after for row in found.rows])
    given = explain(view, BATCHES, plan, trajectory, criteria=FAST, samples=None, moments=moments)
    assert [r.after for r in given.rows] == pytest.approx([r.after for r in found.rows], rel=1e-9)


def test_a_repair_gives_back_what_a_double_can_do():
    model = make("bert")
    view = HeadModel(model)
    for n in range(3):  # heads 0 and 1 of every block say the same
        first, second = (view.head_weights(Head(n, i)) for i in (0, 1))
        for part in ("query", "key", "value", "query_bias", "key_bias", "value_bias"):
            second[part].data.copy_(first[part].data)
    gone = tuple((Head(n, 1),) for n in range(3))
    plan, trajectory = run_of(view, gone, repair="least_squares")
    texts = [batch((12,) * 16, seed=n) for n in range(3)]
    for row in explain(view, texts, plan, trajectory, criteria=FAST).rows:
        assert row.given_back > 0.9 * row.unrepaired > 0


def test_scores_are_those_of_the_dense_model_and_ranks_count_from_the_least():
    model = make("bert")
    view = HeadModel(model)
    plan, trajectory = run_of(view)
    found = explain(view, BATCHES, plan, trajectory, samples=0)
    assert [row.head for row in found.rows] == [h for heads in GONE for h in heads]
    assert [row.score for row in found.rows] == [0.5 + h.index for heads in GONE for h in heads]
    assert set(found.criteria) == set(cheap_criteria())
    assert found.criteria["taylor"] == "task"
    assert found.criteria["gradient_norm"] == "logit_norm"
    for name in found.criteria:
        alone = score(view, BATCHES, name)
        everything = np.concatenate(alone.values)
        for row in found.rows:
            assert row.scores[name] == pytest.approx(alone[row.head], rel=1e-9)
            assert row.ranks[name] == 1 + (everything < alone[row.head]).sum()
    assert (found.samples, found.measured, found.n_heads) == (9, 0, 18)
    assert all(math.isnan(row.after) for row in found.rows)


def test_what_is_cheap_needs_no_trials_no_file_and_no_chance():
    wanted = {"attention_entropy", "confidence", "fisher", "gradient_norm", "magnitude"}
    assert set(cheap_criteria()) >= wanted | {"output_norm", "reconstruction", "taylor"}
    assert not {"ablation", "shapley", "file", "random"} & set(cheap_criteria())


def test_scores_that_are_there_are_not_computed_again():
    view = HeadModel(make("bert"))
    plan, trajectory = run_of(view)
    own = score(view, BATCHES, "taylor", loss="logit_norm")
    found = explain(view, BATCHES, plan, trajectory, scores=own, samples=0)
    assert next(iter(found.criteria)) == found.chosen_by == "taylor"
    assert found.criteria["taylor"] == "logit_norm"
    assert all(row.scores["taylor"] == own[row.head] for row in found.rows)
    named = explain(view, BATCHES, plan, trajectory, scores=own, criteria=["taylor"], samples=0)
    assert named.criteria == {"taylor": "task"}


def test_without_labels_all_criteria_use_kl():
    view = HeadModel(make("bert"))
    plan, trajectory = run_of(view)
    texts = [{k: v for k, v in b.items() if k != "labels"} for b in BATCHES]
    found = explain(view, texts, plan, trajectory, samples=0)
    assert {loss for loss in found.criteria.values() if loss} == {"kl"}
    assert "no labels" in " ".join(found.notes)
    with pytest.raises(DataError, match="needs labels"):
        explain(view, texts, plan, trajectory, loss="task", samples=0)


def test_a_criterion_that_fails_is_left_out_and_the_others_stay(monkeypatch):
    def fails(self):
        raise ScoreError("nothing to see")

    monkeypatch.setattr(CRITERIA["confidence"], "scores", fails)
    view = HeadModel(make("bert"))
    found = explain(view, BATCHES, *run_of(view), criteria=["confidence", "magnitude"], samples=0)
    assert list(found.criteria) == ["magnitude"]
    assert found.notes == ("confidence is left out: nothing to see",)


def test_the_change_is_since_the_last_evaluated_step():
    view = HeadModel(make("bert"))
    plan, trajectory = run_of(view, metrics=(0.8, math.nan, 0.6))
    rows = explain(view, [], plan, trajectory, criteria=[], samples=0).rows
    changes = [(row.step, row.together, row.change_over) for row in rows]
    assert changes == [(1, 1, 1), (2, 2, 0), (2, 2, 0), (3, 1, 3)]
    assert rows[0].change == pytest.approx(-0.1)
    assert math.isnan(rows[1].change)
    assert rows[3].change == pytest.approx(-0.2)


def test_steps_beyond_the_plan_are_left_out():
    view = HeadModel(make("bert"))
    plan, trajectory = run_of(view)
    cut = replace(plan, mask=trajectory.steps[1].mask)
    rows = explain(view, [], cut, trajectory, criteria=[], samples=0).rows
    assert [row.step for row in rows] == [1, 2, 2]


def test_a_run_that_removed_nothing_has_no_rows():
    view = HeadModel(make("bert"))
    found = explain(view, BATCHES, PruningPlan(view.mask), run_of(view)[1], samples=4)
    assert found.rows == ()
    assert found.to_frame().empty


def test_copies_are_measured_as_the_plan_makes_them():
    model = make("bert")
    view = HeadModel(model)
    copies = {Head(0, 0): Head(0, 1), Head(1, 2): Head(1, 3)}
    plan, trajectory = run_of(view, (tuple(copies),), (0.5,), copies=copies, action="duplicate")
    trajectory = Trajectory(trajectory.start, (replace(trajectory.steps[0], scores=()),))
    found = explain(view, BATCHES, plan, trajectory, criteria=FAST, samples=None)
    wanted = kl_by_hand(model, lambda: applied(view, plan))
    for row in found.rows:
        assert row.source == copies[row.head]
        assert math.isnan(row.score)
        assert row.after == pytest.approx(wanted, rel=1e-9)
        assert row.after != pytest.approx(kl_by_hand(model, lambda: masked(view, plan.mask)))


def test_heads_that_were_gone_before_are_no_part_of_it():
    from deadhead import remove_

    model = make("bert")
    remove_(model, PruningPlan(HeadModel(model).mask.drop(Head(0, 0), Head(1, 1))))
    view = HeadModel(model)
    plan, trajectory = run_of(view, ((Head(1, 2),),), (0.8,), repair="least_squares")
    found = explain(view, BATCHES, plan, trajectory, samples=None)
    assert found.n_heads == 16
    assert [row.head for row in found.rows] == [Head(1, 2)]
    bare = kl_by_hand(model, lambda: masked(view, plan.mask))
    assert found.rows[0].unrepaired == pytest.approx(bare, rel=1e-7)


def test_samples_are_taken_evenly():
    taken = chosen_samples(BATCHES, 3)
    ids = [row for b in taken for row in b["input_ids"].tolist()]
    everything = [row for b in BATCHES for row in b["input_ids"].tolist()]
    assert ids == [everything[i] for i in (0, 3, 6)]
    assert all(set(b) == set(BATCHES[0]) for b in taken)
    assert chosen_samples(BATCHES, 9) == chosen_samples(BATCHES, None) == BATCHES
    assert chosen_samples(BATCHES, 0) == []


def test_plan_trajectory_and_model_belong_together():
    view = HeadModel(make("bert"))
    plan, trajectory = run_of(view)
    other = replace(plan, mask=plan.mask.drop(Head(2, 2)))
    with pytest.raises(HeadError, match="no step of the trajectory"):
        explain(view, BATCHES, other, trajectory)
    full = HeadMask.full((6, 6))
    short = Trajectory(Step(full, (), 0.9, 0.0), ())
    with pytest.raises(HeadError, match="as it was before the run"):
        explain(view, BATCHES, PruningPlan(full), short)


def test_json_and_frame_hold_everything():
    view = HeadModel(make("bert"))
    plan, trajectory = run_of(view, repair="bias")
    found = explain(view, BATCHES, plan, trajectory, criteria=["taylor", "magnitude"], samples=4)
    back = Explanation.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert back == found
    bare = explain(view, [], plan, trajectory, criteria=[], samples=0)
    assert Explanation.from_json(bare.to_json()).to_json() == bare.to_json()
    frame = found.to_frame()
    assert list(frame["head"]) == [str(row.head) for row in found.rows]
    assert list(frame["taylor_rank"]) == [row.ranks["taylor"] for row in found.rows]
    assert list(frame["given_back"]) == [row.unrepaired - row.after for row in found.rows]
