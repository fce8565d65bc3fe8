"""Numbers and several labels per text: what sklearn and scipy say, however texts are batched."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score
from transformers import BertForSequenceClassification

from deadhead.data.examples import Examples
from deadhead.errors import DataError, ScoreError
from deadhead.tasks import MultiLabelTask, RegressionTask, open_task

from .conftest import bert_config, make_tokenizer, sentences

TEXTS = [(text,) for text in sentences(40)]
TOKENIZER = make_tokenizer(bert=True)
NAMES = ["joy", "anger", "Fear"]


def model(**options):
    torch.manual_seed(0)
    return BertForSequenceClassification(bert_config(**options)).double()


def multi():
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    return model(problem_type="multi_label_classification", **names)


def logits(model):
    with torch.no_grad():
        model.eval()
        return np.array([model(**TOKENIZER(*t, return_tensors="pt")).logits[0] for t in TEXTS])


@pytest.mark.parametrize("limits", [{}, {"batch_size": 1}, {"max_tokens": 40}])
def test_a_number_is_judged_by_its_correlation(limits):
    judged, labels = model(labels=1), np.linspace(0, 5, 40).tolist()
    examples = Examples(TEXTS, labels=labels)
    task = RegressionTask(examples, TOKENIZER, config=judged.config, **limits)
    found, expected = task.evaluate(judged), logits(judged)[:, 0]
    assert found.value == pytest.approx(pearsonr(expected, labels).statistic)
    assert found.metrics == pytest.approx(
        {
            "pearson": found.value,
            "spearman": spearmanr(expected, labels).statistic,
            "mse": np.mean((expected - labels) ** 2),
        },
        rel=1e-5,  # labels are float32, as the Trainer has them
    )
    low, high = found.interval()
    assert low < found.value < high


@pytest.mark.parametrize("limits", [{}, {"batch_size": 1}, {"max_tokens": 40}])
def test_several_labels_are_judged_by_f1(limits):
    judged = multi()
    targets = np.random.default_rng(0).integers(0, 2, (40, 3))
    targets[:3] = 0
    names = [tuple(n for n, on in zip(NAMES, row, strict=True) if on) for row in targets]
    predicted = logits(judged) > 0
    for labels in ([tuple(row) for row in targets.tolist()], names):
        examples = Examples(TEXTS, labels=labels)
        task = MultiLabelTask(examples, TOKENIZER, config=judged.config, **limits)
        np.testing.assert_array_equal(task.targets, targets)
        found = task.evaluate(judged)
        assert found.value == pytest.approx(f1_score(targets, predicted, average="micro"))
        assert found.metrics["macro_f1"] == pytest.approx(
            f1_score(targets, predicted, average="macro", zero_division=0)
        )
        assert found.metrics["exact_match"] == (targets == predicted).all(1).mean()
        assert np.average(found.per_example, weights=found.weights) == pytest.approx(found.value)
        low, high = found.interval()
        assert low < found.value < high


def test_lists_of_classes_of_a_data_set_go_by_their_names():
    turned = datasets.ClassLabel(names=["Fear", "joy", "anger"])
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.Sequence(turned)}
    )
    rows = {"text": [f"a cat {i}" for i in range(10)], "labels": [[0, 2], [], [1]] * 3 + [[1]]}
    data = datasets.Dataset.from_dict(rows, features=features)
    from deadhead.data.rows import rows_of

    sets = open_task(rows_of(data, "them", ""), TOKENIZER, config=multi().config)
    assert sets.test.kind == "multi_label"
    assert sets.calibration.targets[:3].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("column", ["score", "similarity", "label"])
def test_scores_of_pairs_are_labels_of_a_regression(tmp_path, column):
    lines = [f"sentence1\tsentence2\t{column}"]
    lines += [f"a cat {i}\tthe dog {i}\t{i / 4}" for i in range(20)]
    (tmp_path / "sts.tsv").write_text("\n".join(lines))
    sets = open_task(tmp_path / "sts.tsv", TOKENIZER, config=model(labels=1).config)
    assert (sets.test.kind, sets.test.metric) == ("regression", "pearson")
    assert sets.test.examples.texts[0] == ("a cat 16", "the dog 16")
    assert sets.test.targets.tolist() == [4, 4.25, 4.5, 4.75]


def test_a_model_that_gives_one_number_has_no_correlation():
    judged = model(labels=1)
    torch.nn.init.zeros_(judged.classifier.weight)
    examples = Examples(TEXTS, labels=list(range(40)))
    task = RegressionTask(examples, TOKENIZER, config=judged.config)
    assert task.evaluate(judged).value == 0


def test_equal_labels_define_no_correlation_but_an_error():
    judged = model(labels=1)
    task = RegressionTask(Examples(TEXTS, labels=[1] * 40), TOKENIZER, config=judged.config)
    with pytest.raises(ScoreError, match=r"pearson is not defined on the 40 .* spearman, mse"):
        task.evaluate(judged)
    by_error = task.judged_by(metric="mse")
    assert not by_error.greater_is_better
    low, high = by_error.evaluate(judged).interval()
    assert low < by_error.evaluate(judged).value < high


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        (RegressionTask, "far", "label 'far' of example 0 does not fit .* write a number"),
        (RegressionTask, float("inf"), "label inf of example 0 does not fit"),
        (MultiLabelTask, (0, 1), r"label \[0, 1\] of example 0 .* list of 3 numbers, 0 or 1"),
        (MultiLabelTask, (0, 1, 2), r"label \[0, 1, 2\] of example 0"),
        (MultiLabelTask, ("joy", "hope"), "'hope'. of example 0 .* names of its labels"),
        (MultiLabelTask, "joy", "label 'joy' of example 0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(kind, label, message):
    config = (model(labels=1) if kind is RegressionTask else multi()).config
    with pytest.raises(DataError, match=message):
        kind(Examples([("a",)], labels=[label]), TOKENIZER, config=config)


@pytest.mark.parametrize("kind", [RegressionTask, MultiLabelTask])
def test_outputs_of_another_shape_are_refused(kind):
    config = (model(labels=1) if kind is RegressionTask else multi()).config
    label = 1 if kind is RegressionTask else (0, 1, 1)
    task = kind(Examples([("a",), ("a cat",)], labels=[label] * 2), TOKENIZER, config=config)
    with pytest.raises(DataError, match=r"gives predictions of shape \[2, 5\], and task kind"):
        task.evaluate(model(labels=5))
