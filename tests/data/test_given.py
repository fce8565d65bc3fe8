"""Whatever a person holds becomes batches; what is no data is refused in one line."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from torch.utils.data import DataLoader

from deadhead import score
from deadhead.bundled import model_path, sentiment
from deadhead.checkpoints import load_model
from deadhead.data.given import as_batches
from deadhead.errors import DataError, DeadheadError, UnknownNameError
from deadhead.losses.losses import task
from deadhead.tasks import TaskSet, as_tasks, open_calibration, open_task
from models import CONFIGS, make

ROWS = sentiment("calibration", 20)
TEXTS = [row["sentence"] for row in ROWS]
LABELS = [row["label"] for row in ROWS]
PARTS = (TEXTS[:8], TEXTS[8:])
FRAME = pd.DataFrame({"sentence": TEXTS, "label": LABELS})


@pytest.fixture(scope="module")
def encoder():
    return load_model(str(model_path("encoder")))


@pytest.fixture(scope="module")
def decoder():
    return load_model(str(model_path("decoder")))


def rows_of(batches):
    """Return the token ids of each sample, and its label."""
    found = []
    for b in batches:
        labels = b["labels"].tolist() if "labels" in b else [None] * len(b["input_ids"])
        for ids, mask, label in zip(b["input_ids"], b["attention_mask"], labels, strict=True):
            found.append((tuple(ids[mask.bool()].tolist()), str(label)))
    return sorted(found)


def loader(tokenizer, **more):
    samples = [dict(tokenizer(text)) for text in TEXTS]
    samples = [{**s, **{k: v[n] for k, v in more.items()}} for n, s in enumerate(samples)]
    return DataLoader(samples, batch_size=6, collate_fn=hf.DataCollatorWithPadding(tokenizer))


@pytest.fixture
def unlabeled(tmp_path, encoder):
    tokenizer = encoder.tokenizer
    (tmp_path / "x.txt").write_text("\n".join(TEXTS))
    return {
        "list": TEXTS,
        "tuple": tuple(TEXTS),
        "array": np.array(TEXTS),
        "generator": (text for text in TEXTS),
        "series": FRAME["sentence"],
        "frame": FRAME[["sentence"]],
        "columns": {"text": TEXTS},
        "records": [{"text": text} for text in TEXTS],
        "data set": datasets.Dataset.from_dict({"text": TEXTS}),
        "stream": datasets.Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(),
        "splits": datasets.DatasetDict(
            train=datasets.Dataset.from_dict({"text": TEXTS}),
            test=datasets.Dataset.from_dict({"text": ["other"]}),
        ),
        "file": str(tmp_path / "x.txt"),
        "path": tmp_path / "x.txt",
        "one batch": tokenizer(TEXTS, padding=True, return_tensors="pt"),
        "lists of numbers": dict(tokenizer(TEXTS, padding=True)),
        "batches": [tokenizer(part, padding=True, return_tensors="pt") for part in PARTS],
        "loader": loader(tokenizer),
    }


HELD = (
    "list",
    "tuple",
    "array",
    "generator",
    "series",
    "frame",
    "columns",
    "records",
    "data set",
    "stream",
    "splits",
    "file",
    "path",
    "one batch",
    "lists of numbers",
    "batches",
    "loader",
)


@pytest.mark.parametrize("held", HELD)
def test_texts_without_labels_give_the_same_samples(held, unlabeled, encoder):
    data = unlabeled[held]
    tokenizer = encoder.tokenizer if "batch" not in held else None
    found = as_batches(data, encoder.model, tokenizer)
    expected = [encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")]
    assert rows_of(found) == rows_of(expected)
    assert all(isinstance(v, torch.Tensor) for batch in found for v in batch.values())


@pytest.mark.parametrize("held", HELD)
def test_data_without_labels_are_divided_and_judge_nothing(held, unlabeled, encoder):
    sets = as_tasks(unlabeled[held], encoder.model, encoder.tokenizer)
    assert sets.test is None
    assert not any("labels" in batch for batch in sets.calibration.batches())
    if held == "splits":
        assert sets.held_out.size == 1
        return
    assert (sets.calibration.size, sets.held_out.size) == (16, 4)
    both = [rows_of(part.batches()) for part in (sets.calibration, sets.held_out)]
    assert not set(both[0]) & set(both[1])
    with pytest.raises(DataError, match="nothing can be judged"):
        sets.judge  # noqa: B018
    with pytest.raises(DataError, match="can calibrate, not judge"):
        sets.held_out.evaluate(encoder.model)


@pytest.mark.parametrize("held", ["frame", "data set", "records", "file", "columns"])
def test_labels_stay_and_judge(held, tmp_path, encoder):
    FRAME.to_csv(tmp_path / "x.csv", index=False)
    data = {
        "frame": FRAME,
        "data set": datasets.Dataset.from_pandas(FRAME),
        "records": ROWS,
        "file": tmp_path / "x.csv",
        "columns": {"sentence": TEXTS, "label": LABELS},
    }[held]
    found = as_batches(data, encoder.model, encoder.tokenizer)
    known = open_calibration(
        tmp_path / "x.csv", encoder.tokenizer, config=encoder.model.config
    ).batches()
    assert rows_of(found) == rows_of(known)
    sets = as_tasks(data, encoder.model, encoder.tokenizer)
    assert (sets.calibration.size, sets.judge.size, sets.held_out) == (16, 4, None)
    assert sets.judge.evaluate(encoder.model).value > 0.5


def test_a_collators_label_is_a_label(encoder):
    found = as_batches(loader(encoder.tokenizer, label=LABELS), encoder.model)
    assert torch.cat([batch["labels"] for batch in found]).tolist() == LABELS


def test_tasks_give_their_own_batches(encoder, decoder):
    how = {"calibration_size": 12, "test_size": 8}
    sets = open_task("bundled:sentiment", encoder.tokenizer, config=encoder.model.config, **how)
    for data in (sets, sets.calibration):
        assert rows_of(as_batches(data, encoder.model)) == rows_of(sets.calibration.batches())
    assert as_tasks(sets, encoder.model) is sets
    assert as_tasks(sets.calibration, encoder.model) == TaskSet(sets.calibration, None, None)


def test_text_for_a_causal_language_model_is_cut_into_windows_and_judged(decoder, tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(TEXTS))
    known = open_calibration(
        tmp_path / "x.txt", decoder.tokenizer, config=decoder.model.config, max_length=8
    ).batches()
    found = as_batches(TEXTS, decoder.model, decoder.tokenizer, max_length=8)
    assert [r for r, _ in rows_of(found)] == [r for r, _ in rows_of(known)]
    assert max(batch["input_ids"].shape[1] for batch in found) == 8
    assert as_tasks(TEXTS, decoder.model, decoder.tokenizer).judge.metric == "perplexity"


def test_texts_are_drawn_by_the_seed_and_streams_are_not_read_to_their_end(encoder):
    def endless():
        while True:
            yield from TEXTS

    how = {"size": 5, "model": encoder.model, "tokenizer": encoder.tokenizer}
    one, same, other = (rows_of(as_batches(TEXTS, seed=seed, **how)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == len(rows_of(as_batches(endless(), **how))) == 5
    batches = (encoder.tokenizer([t] * 2, return_tensors="pt") for t in endless())
    assert len(rows_of(as_batches(batches, encoder.model, size=5))) == 6


@pytest.mark.parametrize("kind", ["base", "masked_lm", "classification"])
def test_every_encoder_takes_plain_texts(kind, encoder):
    model = make("bert", kind)
    model.resize_token_embeddings(len(encoder.tokenizer))
    assert rows_of(as_batches(TEXTS, model, encoder.tokenizer)) == rows_of(
        [encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")]
    )
    assert as_tasks(TEXTS, model, encoder.tokenizer).held_out.size == 4


REFUSED = [
    ("no/such/file.txt", "there is no file or folder 'no/such/file.txt'"),
    ([], "the data are empty"),
    ((), "the data are empty"),
    (iter([]), "the data are empty"),
    ({}, "the data have no rows"),
    (None, "a NoneType is not data for a model; give a list of texts"),
    (7, "a int is not data"),
    (b"text", "a bytes is not data"),
    (torch.ones(2, 3), "a Tensor is not data"),
    (["a text", None], "item 1 of the data is a NoneType, not a text"),
    (["a text", 3], "item 1 of the data is a int"),
    ([3, 4], "item 0 of the data is a int"),
    ([("a", "b"), "c"], "item 1 of the data is a str"),
    ([torch.ones(2, 3)], "item 0 of the data is a Tensor"),
    (["", "  "] * 5, "are blank; give some text"),
    (pd.DataFrame(), "the data have no rows"),
    (pd.DataFrame({"a": ["x"] * 5, "b": ["y"] * 5}), "cannot tell which column"),
    (pd.DataFrame({"text": [1, 2, 3, 4]}), "which is not text"),
    ({"text": ["a"], "label": [0, 1]}, "differ in length"),
    ({"a": 1}, "a dict is not data"),
    ({"input_ids": 1}, "batch 0 holds int as 'input_ids'"),
    ([{"a": 1}], "batch 0 holds int as 'a'"),
    ([{"input_ids": [[3, 4], [3]]}], "rows of unequal length as 'input_ids'"),
    ([{"input_ids": torch.tensor([[3, 10**6]])}], "token id 1000000 is not among the model's"),
    ([{"labels": torch.tensor([3])}], "no input_ids"),
    ([{"input_ids": torch.tensor([3, 4])}], "not a row per sample"),
    (
        [{"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 4)}],
        "an attention_mask of shape",
    ),
    ([{"input_ids": torch.ones(0, 3).long()}], "the batches have no samples"),
    (datasets.Dataset.from_dict({"input_ids": [[3]]}), "tokenized already; give a DataLoader"),
    (datasets.Dataset.from_dict({"text": []}), "the data have no rows"),
    (datasets.DatasetDict(), "the DatasetDict is empty"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
@pytest.mark.parametrize("take", [as_batches, as_tasks])
def test_what_is_no_data_is_refused_in_one_line(take, data, message, encoder):
    with pytest.raises(DataError, match=message) as caught:
        take(data, encoder.model, encoder.tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokenizer", [None, "bert-base-uncased", len])
def test_texts_need_a_tokenizer(tokenizer, encoder):
    with pytest.raises(DataError, match=r"need a tokenizer|is not a tokenizer"):
        as_batches(TEXTS, encoder.model, tokenizer)


def test_a_column_that_is_not_there_is_named(encoder):
    with pytest.raises(UnknownNameError, match="did you mean 'sentence'"):
        as_batches(FRAME, encoder.model, encoder.tokenizer, text_column="sentense")


def test_a_tokenizer_of_another_model_is_refused(encoder):
    for data in (TEXTS, FRAME):
        with pytest.raises(DataError, match=r"token id \d+ is not among the model's 40"):
            as_batches(data, make("bert"), encoder.tokenizer)
        with pytest.raises(DataError, match=r"token id \d+ is not among the model's 40"):
            as_tasks(data, make("bert"), encoder.tokenizer).calibration.batches()


def classifier(encoder, model_type="bert", **config):
    made = CONFIGS[model_type]()
    for key, value in {"vocab_size": len(encoder.tokenizer), **config}.items():
        setattr(made, key, value)
    torch.manual_seed(0)
    return hf.AutoModelForSequenceClassification.from_config(made).eval()


PROBLEMS = [
    ({"num_labels": 3, "problem_type": "multi_label_classification"}, [[1, 0, 1], [0, 0, 1]]),
    ({"num_labels": 1}, [0.5, 2]),
    ({"num_labels": 1, "problem_type": "regression"}, ["0.5", "2"]),
    ({"num_labels": 2, "problem_type": "regression"}, [[0.5, 1], [2, 1]]),
    ({"num_labels": 3}, [2, 0]),
    ({"num_labels": 3}, ["LABEL_2", "label_0"]),
]


@pytest.mark.parametrize(("config", "labels"), PROBLEMS)
def test_labels_become_what_the_model_is_trained_with(config, labels, encoder):
    model = classifier(encoder, **config)
    data = {"text": TEXTS[:2], "labels": labels}
    (batch,) = as_batches(data, model, encoder.tokenizer)
    with torch.no_grad():
        outputs = model(**batch)
        torch.testing.assert_close(task(model, outputs, batch).mean(), outputs.loss)


@pytest.mark.parametrize(
    ("config", "label", "message"),
    [
        ({"num_labels": 3}, [1, 0, 1], "is a list, and the model has one class per example"),
        ({"num_labels": 3}, 3, "label 3 is not known to the model"),
        ({"num_labels": 3}, 1.5, "label 1.5 is not known"),
        ({"num_labels": 3}, float("inf"), "is not known"),
        ({"num_labels": 3}, -1, "label -1 marks a hidden test label"),
        (PROBLEMS[0][0], 1, "problem_type is 'multi_label_classification'; write a list of 3"),
        (PROBLEMS[0][0], [1, 0], "write a list of 3 numbers"),
        (PROBLEMS[0][0], [1, 0, "x"], "write a list of 3 numbers"),
        (PROBLEMS[0][0], {"a": 1}, "write a list of 3 numbers"),
        ({"num_labels": 1}, "good", "write a number in each row"),
    ],
)
def test_labels_that_are_not_the_models_are_refused(config, label, message, encoder):
    data = {"text": TEXTS[:4], "labels": [label] * 4}
    for take in (as_batches, as_tasks):
        with pytest.raises(DeadheadError, match=message) as caught:
            take(data, classifier(encoder, **config), encoder.tokenizer)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pad", [None, -1])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_classifier_without_a_padding_token_reads_batches(model_type, pad, encoder):
    bare = classifier(encoder, model_type, num_labels=3, pad_token_id=pad).double()
    padded = classifier(encoder, model_type, num_labels=3, pad_token_id=0).double()
    padded.load_state_dict(bare.state_dict())
    batches = as_batches(FRAME, bare, encoder.tokenizer)
    assert any(len(batch["input_ids"]) > 1 for batch in batches)
    expected = score(padded, as_batches(FRAME, padded, encoder.tokenizer), "taylor")
    np.testing.assert_allclose(
        np.stack(score(bare, batches, "taylor").values), np.stack(expected.values), rtol=1e-6
    )
    sets = [as_tasks(FRAME, model, encoder.tokenizer) for model in (bare, padded)]
    results = [s.judge.evaluate(m) for s, m in zip(sets, (bare, padded), strict=True)]
    assert results[0].per_example.tolist() == results[1].per_example.tolist()
