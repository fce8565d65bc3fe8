"""Classifiers of several labels, of none, without a padding token, and files of other forms."""

from __future__ import annotations

import json

import pytest
import transformers as hf

from deadhead.bundled import model_path

TEXTS = [f"the {w} film was {v}" for w in ("old", "new", "long") for v in ("good", "bad", "dull")]
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 20,
}
MULTI = {"problem_type": "multi_label_classification", "num_labels": 3}


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """Write models and data to where the command runs."""
    tokenizer = hf.AutoTokenizer.from_pretrained(model_path("encoder"))
    for name, kind, options in (
        ("multi", "Bert", MULTI),
        ("number", "Bert", {"num_labels": 1}),
        ("nopad", "Llama", {"num_labels": 2}),
        ("other", "Bert", {"num_labels": 2, "vocab_size": 9}),
    ):
        config = getattr(hf, f"{kind}Config")(**{"vocab_size": len(tokenizer), **SIZES, **options})
        getattr(hf, f"{kind}ForSequenceClassification")(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"text": text, "labels": [n % 2, 1, 0]} for n, text in enumerate(TEXTS)]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [("sentence", "label"), *((text, str(n % 2)) for n, text in enumerate(TEXTS))]
    for name, mark in (("classes.tsv", "\t"), ("semicolons.csv", ";"), ("wrong.tsv", ";")):
        (tmp_path / name).write_text("\n".join(map(mark.join, rows)))


@pytest.mark.parametrize(
    ("model", "file"),
    [("multi", "lists.jsonl"), ("number", "classes.tsv"), ("nopad", "semicolons.csv")],
)
def test_labels_calibrate_the_model_that_is_trained_with_them(deadhead, model, file):
    found = deadhead("score", model, "--calibration", file, "-c", "taylor")
    assert found.code == 0, found.err


@pytest.mark.parametrize("file", ["classes.tsv", "semicolons.csv"])
def test_a_model_without_a_padding_token_is_judged(deadhead, file):
    assert deadhead("evaluate", "nopad", "-t", file).code == 0


@pytest.mark.parametrize(
    ("model", "file", "words"),
    [
        ("multi", "classes.tsv", "problem_type is 'multi_label_classification'; write a list of 3"),
        ("nopad", "lists.jsonl", "label [0, 1, 0] is a list, and the model has one class"),
        ("nopad", "wrong.tsv", "has no tabs between its fields, but ';' in each line"),
        ("other", "classes.tsv", "the text was tokenized for another model"),
    ],
)
def test_labels_and_files_that_do_not_fit_are_refused(deadhead, model, file, words):
    assert words in deadhead("score", model, "--calibration", file, "-c", "taylor").refused()


@pytest.mark.parametrize(
    ("model", "file", "metrics"),
    [
        ("multi", "lists.jsonl", ["micro_f1", "macro_f1", "exact_match"]),
        ("number", "classes.tsv", ["pearson", "spearman", "mse"]),
    ],
)
def test_each_is_judged_by_its_own_metrics(deadhead, model, file, metrics):
    found = deadhead("evaluate", model, "--test", file, "--json").json
    assert list(found["metrics"]) == metrics
    assert found["metric"] == metrics[0]


@pytest.mark.parametrize(
    ("kind", "model", "words"),
    [
        ("classification", "multi", "problem_type='multi_label_classification'; it needs a model"),
        ("classification", "number", "'classification' does not fit: the model has 1 labels"),
        ("regression", "multi", "'regression' does not fit: the model has 3 labels"),
        ("multi_label", "number", "'multi_label' does not fit: its problem_type is None"),
    ],
)
def test_a_kind_that_is_not_the_models_is_refused(deadhead, kind, model, words):
    given = ("evaluate", model, "--test", "lists.jsonl", "--kind", kind)
    assert words in deadhead(*given).refused()
