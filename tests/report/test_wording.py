from dataclasses import replace

import pytest

from deadhead.display import number, signed, size_change
from deadhead.report import caveats, outcome
from deadhead.report.run_page import run_page

from .conftest import make_random, make_speed, make_trajectory


def said(summary):
    return "\n".join(caveats(summary))


def test_outcome_has_the_cost_and_the_gain(full):
    full = replace(full, plan=replace(full.plan, copies={}))
    assert outcome(full) == (
        "4 of 9 heads removed (44%): accuracy 0.900 → 0.700 (22.2% worse than dense), 8.0%"
        " fewer parameters, 50% fewer KV cache bytes per token, 1.06x faster at batch 1 x 128"
        " (forward, ceiling 1.07x)."
    )


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("remove", "removed"),
        ("mask", "masked"),
        ("duplicate", "replaced by copies of kept ones"),
        ("fold", "folded into kept ones"),
    ],
)
def test_outcome_tells_what_became_of_the_heads(full, action, words):
    said = outcome(replace(full, plan=replace(full.plan, action=action)))
    assert f"4 of 9 heads {words} (44%):" in said


def test_outcome_of_a_model_that_was_not_judged(bare):
    unknown = replace(bare, trajectory=make_trajectory(n_steps=0, dense=float("nan")))
    said = "4 of 9 heads removed (44%): accuracy not evaluated, speed not measured."
    assert outcome(unknown) == said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speedup": 0.9, "low": 0.88, "high": 0.92}, "1.11x slower"),
        ({"speedup": 1.02, "low": 0.95, "high": 1.1}, "no speedup beyond noise"),
        ({"speedup": 0.13, "low": 0.12, "high": 6.2}, "no speedup beyond noise"),
        ({"speedup": 1.5, "low": 1.4, "high": 1.6}, "no speedup beyond noise"),
    ],
)
def test_outcome_does_not_call_noise_or_loss_a_speedup(full, changes, words):
    run = replace(full, speed=[make_speed(**changes)])
    assert words in outcome(run)
    (tile,) = (tile for tile in run_page(run).tiles if tile[0] == "speed")
    assert ("noise" in words) == (tile[1] == "within noise")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speedup": 0.9, "low": 0.88, "high": 0.92}, "Slower: forward at batch 1 x 128"),
        ({"speedup": 1.02, "low": 0.95, "high": 1.1}, "No speedup shown"),
        ({"speedup": 1.5, "low": 1.4, "high": 1.6}, "which is above its ceiling of 1.07x"),
    ],
)
def test_timings_that_disappoint_or_surprise_are_flagged(full, changes, words):
    assert words in said(replace(full, speed=[make_speed(**changes)]))
    assert words not in said(full)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (0.8, "Worse than random"),
        (0.72, "Worse than the random average"),
        (0.68, "Not distinguishable"),
    ],
)
@pytest.mark.parametrize("greater_is_better", [True, False])
def test_no_better_than_random_is_flagged(full, metric, words, greater_is_better):
    if not greater_is_better:  # mirror the baseline around the curve's .7
        metric = 1.4 - metric
    run = replace(
        full,
        trajectory=make_trajectory(greater_is_better=greater_is_better),
        random=make_random(metric),
    )
    assert words in said(run)


def test_better_than_random_is_not_flagged(full):
    assert "andom" not in said(full)
    assert "3 draws" in said(replace(full, random=make_random(n_draws=3)))


def on_selection(summary):
    """The curve is at .7 for the mask of the plan, and the cut model at .6 on test."""
    evaluation = {**summary.evaluation, "pruned": {"accuracy": 0.6}}
    run = {**summary.run, "evaluated_on": "selection"}
    return replace(summary, evaluation=evaluation, run=run)


def test_a_curve_on_selection_is_not_compared_with_a_baseline_on_test(full):
    run = replace(on_selection(full), random=make_random(0.68))
    assert "Worse than random: accuracy 0.600 of the cut model" in said(run)
    assert "measured on selection" in said(run)
    assert "a repair was made" not in said(run)
    assert "0.700" not in said(run)


def test_notes_on_the_data_are_caveats(full):
    run = {**full.run, "notes": ["removed 3 of 512 examples from calibration"]}
    assert "Data: removed 3 of 512 examples from calibration." in said(replace(full, run=run))


def test_heads_are_counted_from_the_model_as_it_was_given(full):
    trajectory = make_trajectory()
    start = replace(trajectory.start, mask=trajectory.steps[2].mask)
    again = replace(trajectory, start=start, steps=trajectory.steps[3:])
    run = replace(full, trajectory=again, plan=replace(full.plan, copies={}))
    assert outcome(run).startswith("1 of 6 heads removed (17%):")


def test_guessing_is_flagged(full):
    evaluation = {**full.evaluation, "pruned": {"accuracy": 0.5}}
    assert "no better than guessing" in said(replace(full, evaluation=evaluation))


def test_shared_data_is_flagged(full):
    data = {"calibration": {"fingerprint": "a"}, "test": {"fingerprint": "a"}}
    assert "Same data for calibration and test" in said(replace(full, run={"data": data}))
    trained = {role: {"fingerprint": "a"} for role in ("calibration", "training")}
    assert "Same data" not in said(replace(full, run={"data": trained}))
    assert "Same data" not in said(full)


def test_a_model_that_did_not_shrink_is_flagged(full):
    model = {**full.model, "parameters_after": 1000, "kv_bytes_per_token_after": 512}
    masked = replace(full, model=model, plan=replace(full.plan, action="mask"))
    assert "masked heads are still computed" in said(masked)
    assert "The KV cache is as large as before" in said(masked)


def test_overlapping_intervals_are_flagged(full):
    interval = {"dense": [0.6, 0.95], "pruned": [0.5, 0.75]}
    wide = replace(full, evaluation={**full.evaluation, "interval": interval})
    assert "intervals of accuracy overlap" in said(wide)
    assert "Worse: accuracy" in said(full)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8912, "0.891"),
        (0.0042, "0.004"),
        (23.456, "23.5"),
        (12345.6, "12,345.6"),
        (1e-5, "1.00e-05"),
        (float("nan"), "—"),
        (None, "—"),
        (float("inf"), "∞"),
        (0.0, "0.000"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_change_of_size():
    sizes = [(100, 92), (100, 50), (100, 100), (100, 110), (0, 5), (100, None)]
    said = [size_change(*pair) for pair in sizes]
    assert said == ["8.0% fewer", "50% fewer", "the same", "10% more", "—", "—"]


def test_differences_have_a_sign_and_no_negative_zero():
    assert [signed(x) for x in (0.04, -0.04, -1e-9, -123.4)] == [
        "+0.040",
        "-0.040",
        "+0.000",
        "-123.4",
    ]
    assert signed(float("nan")) == "—"
