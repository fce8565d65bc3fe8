from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from deadhead.data.examples import Examples
from deadhead.errors import DataError, ScoreError
from deadhead.tasks import ClassificationTask, open_task

from .conftest import bert_config, sentences

LABELS = [i * 7 % 3 for i in range(60)]


def texts(pairs: bool = False):
    columns = [sentences(60), sentences(60, seed=1)] if pairs else [sentences(60)]
    return list(zip(*columns, strict=True))


def one_by_one(model, tokenizer, examples):
    model.eval()
    with torch.no_grad():
        found = [model(**tokenizer(*t, return_tensors="pt")).logits[0] for t in examples]
    model.train()
    return torch.stack(found).numpy()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("limits", [{}, {"batch_size": 1}, {"batch_size": 7}, {"max_tokens": 40}])
def test_metrics_equal_sklearn_one_sample_at_a_time(bert, bert_tokenizer, pairs, limits):
    data = texts(pairs)
    predicted = one_by_one(bert, bert_tokenizer, data).argmax(1)
    assert len(set(predicted)) > 1, "a constant prediction would test nothing"
    task = ClassificationTask(
        Examples(data, labels=LABELS), bert_tokenizer, config=bert.config, **limits
    )
    found = task.evaluate(bert)
    assert found.metrics["accuracy"] == found.value == accuracy_score(LABELS, predicted)
    assert found.metrics["macro_f1"] == pytest.approx(f1_score(LABELS, predicted, average="macro"))
    assert found.metrics["mcc"] == pytest.approx(matthews_corrcoef(LABELS, predicted))
    np.testing.assert_array_equal(found.per_example, predicted == np.array(LABELS))


@pytest.mark.parametrize("limits", [{}, {"batch_size": 1}, {"max_tokens": 50}])
def test_padding_and_batching_never_change_a_logit(bert, bert_tokenizer, limits):
    data = texts(pairs=True)
    expected = one_by_one(bert, bert_tokenizer, data)
    task = ClassificationTask(
        Examples(data, labels=LABELS), bert_tokenizer, config=bert.config, **limits
    )
    bert.eval()
    seen = []
    for packed, batch in zip(task._packed, task.batches(), strict=True):
        labels = batch.pop("labels")
        assert labels.tolist() == [LABELS[row] for row in packed.rows]
        with torch.no_grad():
            logits = bert(**batch).logits.numpy()
        np.testing.assert_allclose(logits, expected[packed.rows], atol=1e-9)
        seen += packed.rows.tolist()
    bert.train()
    assert sorted(seen) == list(range(60))


def test_order_of_the_examples_changes_nothing_but_the_order(bert, bert_tokenizer):
    examples = Examples(texts(), labels=LABELS)
    order = np.random.default_rng(0).permutation(60)
    there, back = (
        ClassificationTask(e, bert_tokenizer, config=bert.config).evaluate(bert)
        for e in (examples, examples.take(order))
    )
    assert there.metrics == pytest.approx(back.metrics)
    np.testing.assert_array_equal(there.per_example[order], back.per_example)


def test_batches_are_longest_first_and_within_the_budget(bert, bert_tokenizer):
    examples = Examples(texts(), labels=LABELS)
    task = ClassificationTask(examples, bert_tokenizer, config=bert.config, max_tokens=50)
    widths = [b["input_ids"].shape[1] for b in task.batches()]
    assert widths == sorted(widths, reverse=True)
    assert all(b["input_ids"].numel() <= 50 for b in task.batches())
    mask = torch.cat([b["attention_mask"].diff(dim=1).flatten() for b in task.batches()])
    assert (mask <= 0).all(), "padding is on the right"


def test_the_model_is_left_as_found_also_after_an_exception(bert, bert_tokenizer):
    task = ClassificationTask(Examples(texts(), labels=LABELS), bert_tokenizer, config=bert.config)
    bert.bert.encoder.layer[0].eval()
    before = [module.training for module in bert.modules()]
    assert True in before
    assert False in before
    task.evaluate(bert)
    assert [module.training for module in bert.modules()] == before
    hook = bert.classifier.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError, match=r"division"):
        task.evaluate(bert)
    hook.remove()
    assert [module.training for module in bert.modules()] == before
    bert.train()


def test_batches_can_be_trained_on_after_evaluate(bert, bert_tokenizer):
    task = ClassificationTask(Examples(texts(), labels=LABELS), bert_tokenizer, config=bert.config)
    task.evaluate(bert)
    bert(**task.batches()[0]).loss.backward()
    assert bert.classifier.weight.grad.abs().sum() > 0
    bert.zero_grad()


def test_changing_a_batch_leaves_the_task_alone(bert, bert_tokenizer):
    task = ClassificationTask(Examples(texts(), labels=LABELS), bert_tokenizer, config=bert.config)
    task.batches()[0].pop("labels")
    assert "labels" in task.batches()[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_accuracy(bert, bert_tokenizer, value):
    examples = Examples(texts(), labels=[0] * 60)
    limits = {"batch_size": 16, "name": "dev.csv"}
    task = ClassificationTask(examples, bert_tokenizer, config=bert.config, **limits)
    calls = []

    def spoil(module, args, logits):
        calls.append(len(logits))
        last = torch.arange(len(logits))[:, None] == 15
        return torch.where(last, value, logits) if len(calls) == 3 else logits

    hook = bert.classifier.register_forward_hook(spoil)
    try:
        with pytest.raises(
            ScoreError, match=r"logits of batch 2 of 4 of 'dev\.csv' are not finite"
        ):
            task.evaluate(bert)
    finally:
        hook.remove()
    assert 0 <= task.evaluate(bert).value <= 1


def test_names_mean_the_classes_of_the_model(bert_tokenizer):
    config = bert_config(
        label2id={"No": 0, "Maybe": 1, "Yes": 2}, id2label={0: "No", 1: "Maybe", 2: "Yes"}
    )
    labels = ["yes", "No", 1, "0", 2.0]
    task = ClassificationTask(Examples([("a",)] * 5, labels=labels), bert_tokenizer, config=config)
    assert task.targets.tolist() == [2, 0, 1, 0, 2]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "positive",
            "label 'positive' is not known to the model, which has LABEL_0, LABEL_1",
        ),
        (3, "label 3 is not known.* 0 to 2"),
        (0.5, "label 0.5 is not known"),
        (-1, "hidden test label"),
    ],
)
def test_unknown_labels_are_refused(bert, bert_tokenizer, label, message):
    with pytest.raises(DataError, match=message):
        ClassificationTask(Examples([("a",)], labels=[label]), bert_tokenizer, config=bert.config)


def test_models_without_classes_are_refused(opt, bert_tokenizer):
    examples = Examples([("a",)], labels=[0])
    with pytest.raises(DataError, match=r"the model has 1 label.*2 or more classes"):
        ClassificationTask(examples, bert_tokenizer, config=bert_config(labels=1))
    config = bert_config(architectures=["OPTForCausalLM"])
    with pytest.raises(DataError, match=r"does not fit: OPTForCausalLM"):
        ClassificationTask(examples, bert_tokenizer, config=config)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 makes no batch"),
        ({"max_tokens": -1}, "max_tokens -1 makes no batch"),
        ({"max_length": 1}, "max_length 1 leaves nothing"),
        ({"max_length": 41}, "41 is more than the model's 40 positions"),
    ],
)
def test_limits_are_checked(bert, bert_tokenizer, limits, message):
    with pytest.raises(DataError, match=message):
        ClassificationTask(
            Examples([("a",)], labels=[0]), bert_tokenizer, config=bert.config, **limits
        )


def test_long_texts_are_truncated_to_the_model(bert, bert_tokenizer):
    examples = Examples([("a " * 100,), ("a",)], labels=[0, 1])
    task = ClassificationTask(examples, bert_tokenizer, config=bert.config)
    assert max(len(s.ids) for s in task.sequences) == 40
    task.evaluate(bert)


def test_a_text_without_tokens_is_refused(bert, lm_tokenizer):
    task = ClassificationTask(
        Examples([("a",), ("",)], labels=[0, 1]), lm_tokenizer, config=bert.config, name="x.tsv"
    )
    with pytest.raises(DataError, match=r"example 1 of 'x.tsv' has no tokens"):
        task.batches()


@pytest.mark.slow
def test_sst2_dense_accuracy_is_near_the_documented_one(shared):
    path = shared / "models/minilm-sst2"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    sets = open_task(shared / "data/sst2", tokenizer, config=model.config, test_size=300)
    assert (sets.calibration.size, sets.selection.size, sets.test.size) == (512, 872, 300)
    low, high = sets.test.evaluate(model).interval()
    assert low < 0.891 < high
    assert high - low < 0.1
