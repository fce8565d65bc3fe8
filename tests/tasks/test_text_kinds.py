"""Laws of every kind of task that judges text: batching, losses, learning, intervals, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import deadhead
from deadhead.data.batches import call
from deadhead.data.padding import padding_named
from deadhead.data.rows import Columns, Rows
from deadhead.errors import DataError, DeadheadError, ScoreError
from deadhead.losses.losses import task as task_loss
from deadhead.models.heads import HeadModel
from deadhead.models.purpose import purpose_of
from deadhead.tasks import KINDS, infer_kind, open_task
from tiny_text import CASES, HEADS, make_model, make_tokenizer, rows_of

NEW = [kind for kind in HEADS if kind != "classification"]


def table(kind, n=24):
    return Rows.of(pd.DataFrame(rows_of(kind, n)), "rows")


def made(kind, family, *, side="right", n=24, dtype=torch.float64, **limits):
    model = make_model(kind, family, dtype=dtype)
    tokenizer = make_tokenizer(segments=family == "Bert", side=side)
    chosen = KINDS[kind]
    task = chosen(
        chosen.read(table(kind, n), Columns()), tokenizer, config=model.config, name="it", **limits
    )
    return model, task


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_metrics_do_not_depend_on_batches_or_the_padding_side(kind, family):
    model, task = made(kind, family)
    expected = task.evaluate(model)
    for more in ({"batch_size": 1}, {"max_tokens": 30}, {"side": "left"}):
        found = made(kind, family, **more)[1].evaluate(model)
        assert found.metrics == pytest.approx(expected.metrics)
        np.testing.assert_allclose(found.per_example, expected.per_example, atol=1e-9)


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_labels_of_batches_are_those_that_the_model_is_trained_with(kind, family):
    model, task = made(kind, family, n=6, batch_size=1)
    with torch.no_grad():
        for batch in task.batches():
            theirs = model(**batch).loss
            # of tokens, transformers computes it in float32
            ours = task_loss(model, call(model, batch), batch)[0]
            torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-6)


# steps of training after which a tiny model knows its texts
STEPS = {"question_answering": 80, "regression": 60, "masked_lm": 60, "seq2seq": 80}


@pytest.mark.parametrize(("kind", "family"), CASES)
@pytest.mark.slow
def test_a_model_that_learned_its_batches_is_judged_to_be_right(kind, family):
    model, task = made(kind, family, dtype=torch.float32, max_tokens=10**6)
    before = task.evaluate(model).value
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(STEPS.get(kind, 40)):
        for batch in task.batches():
            with padding_named(model, batch) as told:
                model(**told).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    after = task.evaluate(model)
    if kind == "masked_lm":  # it never saw most tokens masked
        assert after.value < before / 3
    else:
        assert after.value > 0.9 * (100 if kind == "seq2seq" else 1)
        assert after.value > before


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_the_interval_holds_the_value(kind, family):
    model, task = made(kind, family)
    found = task.evaluate(model)
    low, high = found.interval()
    assert low <= found.value <= high
    if task.averages:
        mean = np.average(found.per_example, weights=found.weights)
        assert (np.exp(mean) if found.exponential else mean) == pytest.approx(found.value)


@pytest.mark.parametrize("kind", NEW)
def test_every_metric_can_judge(kind):
    model, task = made(kind, HEADS[kind][2][0])
    for metric, value in task.evaluate(model).metrics.items():
        if metric == "tokens":
            continue
        chosen = task.judged_by(metric=metric)
        assert chosen.greater_is_better == (
            metric not in ("mse", "loss", "perplexity", "pseudo_perplexity")
        )
        found = chosen.evaluate(model)
        assert found.value == pytest.approx(value)
        low, high = found.interval(draws=50)
        assert low <= found.value <= high


@pytest.mark.parametrize("kind", [kind for kind in NEW if kind != "masked_lm"])
def test_a_metric_of_ones_own_gets_predictions_and_labels(kind):
    model, task = made(kind, HEADS[kind][2][0])
    shapes = []

    def compute(given):
        shapes.append([np.shape(given.predictions), np.shape(given.label_ids)])
        return {"n": len(given.label_ids)}

    found = task.judged_by(compute).evaluate(model)
    assert found.value == 24
    assert all(len(shape) and shape[0] == 24 for pair in shapes for shape in pair)
    right, wrong = shapes
    assert right[1] == wrong[1]


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_the_kind_is_known_by_the_model_and_the_columns(kind, family):
    model = make_model(kind, family)
    rows, purpose = table(kind), purpose_of(model)
    assert infer_kind(rows, Columns(), purpose, model.config) == kind
    if kind not in ("masked_lm", "regression"):  # of a config that was never saved
        assert infer_kind(rows, Columns(), "unknown", model.config) == kind
    sets = open_task(rows, make_tokenizer(), config=model.config, purpose=purpose)
    assert sets.test.kind == kind
    assert sets.test.size == 5


@pytest.mark.parametrize("kind", NEW)
def test_a_model_of_another_kind_is_refused(kind):
    other = "classification" if kind != "multi_label" else "masked_lm"
    config = make_model(other, HEADS[other][2][0]).config
    config.architectures = ["Bert" + HEADS[other][0]]
    chosen = KINDS[kind]
    with pytest.raises(DataError, match=f"task kind '{kind}' does not fit: .*; it needs a"):
        chosen(chosen.read(table(kind), Columns()), make_tokenizer(), config=config)


@pytest.mark.parametrize("kind", [kind for kind in NEW if kind != "masked_lm"])
def test_columns_that_are_not_there_are_named(kind):
    rows = Rows.of(pd.DataFrame({"odd": ["a"], "even": ["b"]}), "odd.csv")
    assert not KINDS[kind].is_in(rows, Columns())
    with pytest.raises(DataError, match=rf"'{kind}' does not fit 'odd.csv': no .* odd, even; name"):
        KINDS[kind].read(rows, Columns())


@pytest.mark.parametrize("kind", NEW)
def test_outputs_of_another_shape_are_refused(kind):
    model, task = made(kind, HEADS[kind][2][0])
    right = {"question_answering": "qa_outputs"}.get(kind)

    def spoil(module, args, outputs):
        for name in ("logits", "start_logits", "end_logits"):
            if name in outputs:
                outputs[name] = outputs[name].repeat_interleave(2, dim=-1)
                if kind in ("seq2seq", "masked_lm"):
                    outputs[name] = outputs[name].repeat_interleave(2, dim=1)
        return outputs

    hook = model.register_forward_hook(spoil)
    try:
        with pytest.raises(DataError, match=rf"predictions of shape .*, and task kind '{kind}' wa"):
            task.evaluate(model)
    finally:
        hook.remove()
    assert right is None or hasattr(model, right)


@pytest.mark.parametrize("kind", NEW)
def test_logits_that_are_not_finite_are_judged_by_nobody(kind):
    model, task = made(kind, HEADS[kind][2][0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ScoreError, match=r"logits of batch 0 of .* are not finite"):
        task.evaluate(model)


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_text_without_labels_calibrates_every_head(kind, family):
    model, tokenizer = make_model(kind, family), make_tokenizer(segments=family == "Bert")
    texts = [f"the cat sees {i} dogs" for i in range(10)]
    values = deadhead.score(model, texts, "taylor", loss="kl", tokenizer=tokenizer).values
    assert sum(np.abs(row).sum() for row in values) > 0
    result = deadhead.prune(model, texts, tokenizer=tokenizer, heads=2)
    assert result.evaluated_on == "held_out"
    assert result.trajectory.metric == "divergence"


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_evaluating_leaves_a_model_as_it_was(kind, family):
    model, task = made(kind, family)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    task.evaluate(model)
    assert model.training
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert HeadModel(model).mask.n_kept == HeadModel(model).mask.n_heads


def test_a_missing_package_is_named(monkeypatch):
    import sys

    for module, kind in (
        ("seqeval.metrics.sequence_labeling", "token_classification"),
        ("sacrebleu.metrics", "seq2seq"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DeadheadError, match=r'not installed; pip install "deadhead\[tasks\]"'):
            made(kind, HEADS[kind][2][0])
