"""Metrics of the kinds of text are what their libraries and definitions say of given answers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

from deadhead.data.rows import Columns, Rows
from deadhead.errors import DataError
from deadhead.tasks import KINDS
from deadhead.tasks.question_answering import exact_match, normalized, word_f1
from tiny_text import TAGS, make_model, make_tokenizer, rows_of


def opened(kind, rows, model=None, *, family="Bert", **limits):
    model = model or make_model(kind, family, dtype=torch.float64)
    table = rows if isinstance(rows, Rows) else Rows.of(pd.DataFrame(rows), "rows.jsonl")
    tokenizer = make_tokenizer(segments=family == "Bert")
    read = KINDS[kind].read(table, Columns())
    return model, KINDS[kind](read, tokenizer, config=model.config, name="it", **limits)


def every(task):
    return np.arange(task.size)


# --- token classification

WORDS = [["Ann", "Bob", "sees", "Rome"], ["a", "cat"], ["Paris", "Bob", "Ann"]]
RIGHT = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "O"], ["B-LOC", "B-PER", "I-PER"]]
FOUND = [["B-PER", "O", "O", "B-LOC"], ["O", "B-LOC"], ["B-LOC", "B-PER", "I-PER"]]


def tagged(tags=RIGHT):
    rows = [{"tokens": w, "ner_tags": t} for w, t in zip(WORDS, tags, strict=True)]
    return opened("token_classification", rows)[1]


def test_entities_are_counted_as_seqeval_counts_them():
    task = tagged()
    answers = [np.eye(5)[[TAGS.index(tag) for tag in tags]] for tags in FOUND]
    found = task.judge(answers, every(task))
    assert found.metrics == pytest.approx(
        {
            "f1": f1_score(RIGHT, FOUND),
            "precision": precision_score(RIGHT, FOUND),
            "recall": recall_score(RIGHT, FOUND),
            "accuracy": accuracy_score(RIGHT, FOUND),
        }
    )
    assert np.average(found.per_example, weights=found.weights) == pytest.approx(found.value)


def test_a_label_is_that_of_a_words_first_token_and_long_texts_are_cut():
    words = ["house"] * 5 + ["xyz"] * 30  # of three tokens each
    rows = [{"words": words, "tags": ["O"] * 34 + ["B-LOC"]}] * 2
    _, task = opened("token_classification", rows, max_length=16)
    labels = torch.cat([batch["labels"].flatten() for batch in task.batches()])
    assert (labels == 0).sum() == 68
    assert (labels == 3).sum() == 2
    assert len(task.sequences) > 6
    assert [len(answer) for answer in task.answers([np.zeros((16, 5))] * len(task.sequences))] == [
        35,
        35,
    ]


def test_labels_that_are_no_entities_are_judged_by_accuracy():
    model = make_model("token_classification", "Bert", dtype=torch.float64)
    model.config.id2label = dict(enumerate("ABCDE"))
    model.config.label2id = {name: i for i, name in enumerate("ABCDE")}
    rows = [{"tokens": ["a", "cat"], "tags": ["A", "E"]}, {"tokens": ["dog"], "tags": [1]}]
    model, task = opened("token_classification", rows, model)
    assert task.metric == "accuracy"
    found = task.evaluate(model)
    assert list(found.metrics) == ["accuracy"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "cat"], "tags": ["O"]}, "row 0 of 'rows.jsonl' has 2 words and 1 tags"),
        ({"tokens": [], "tags": []}, "has 0 words and 0 tags"),
        ({"tokens": "a cat", "tags": ["O", "O"]}, "'a cat' as 'tokens', which is no list of str"),
        ({"tokens": ["a"], "tags": ["B-ORG"]}, "label 'B-ORG' is not known to the model"),
    ],
)
def test_words_and_tags_that_do_not_fit_are_refused(row, message):
    with pytest.raises(DataError, match=message):
        opened("token_classification", [row])


def test_a_tokenizer_that_does_not_know_words_is_refused():
    class Slow:
        is_fast = False
        model_max_length = None
        pad_token_id = 0

    rows = Rows.of(pd.DataFrame([{"tokens": ["a"], "tags": ["O"]}]), "x")
    model, kind = make_model("token_classification", "Bert"), KINDS["token_classification"]
    task = kind(kind.read(rows, Columns()), Slow(), config=model.config)
    with pytest.raises(DataError, match="give a fast tokenizer"):
        task.batches()


# --- question answering


@pytest.mark.parametrize(
    ("found", "wanted", "f1", "exact"),
    [
        ("the Cat!", "cat", 1, 1),
        ("a big cat", "the cat", 2 / 3, 0),
        ("Rome", "Paris", 0, 0),
        ("", "", 1, 1),
        ("cat", "", 0, 0),
        ("cat cat", "cat", 2 / 3, 0),
    ],
)
def test_answers_are_compared_as_squad_does(found, wanted, f1, exact):
    assert word_f1(found, wanted) == pytest.approx(f1)
    assert exact_match(found, wanted) == exact
    assert normalized("The cat's  house, an Oak.") == ["cats", "house", "oak"]


def asked(context, *answers, question="who?"):
    texts = {"text": list(answers), "answer_start": [context.index(a) for a in answers]}
    return {"question": question, "context": context, "answers": texts}


LONG = "the cat sees a dog and " * 6 + "Ann sleeps in Rome " + "and the dog sleeps " * 4


def test_the_likeliest_span_of_all_windows_is_the_answer():
    rows = [asked(LONG, "Ann", "Ann sleeps"), asked("Bob sees Rome", "Bob")]
    _, task = opened("question_answering", rows, max_length=32)
    owners = [window.owner for window in task._windows] if task.sequences else []
    assert owners.count(0) == 3
    assert owners.count(1) == 1
    assert task.notes() == ["1 of 2 contexts are cut into windows"]
    logits = [np.zeros((32, 2)) for _ in owners]
    for values, window in zip(logits, task._windows, strict=True):
        for place, (begin, end) in enumerate(window.offsets):
            if window.texts[place] == 1 and window.owner == 0 and LONG[begin:end] == "Ann":
                values[place, 0] = values[place + 1, 1] = 9
        values[0] = 99  # the special token is no answer, as every question has one
    assert task.answers(logits)[0] == "Ann sleeps"
    found = task.judge(["ann sleeps", "Rome"], every(task))
    assert found.metrics == {"f1": 0.5, "exact_match": 0.5}


def test_spans_of_labels_are_the_answers():
    _, task = opened("question_answering", [asked(LONG, "Ann sleeps in")], max_length=32)
    seen = 0
    for batch in task.batches():
        for row, ids in enumerate(batch["input_ids"]):
            start, end = int(batch["start_positions"][row]), int(batch["end_positions"][row])
            text = task.tokenizer.decode(ids[start : end + 1])
            assert text in ("Ann sleeps in", "[CLS]")
            seen += text != "[CLS]"
    assert seen


def test_silence_is_an_answer_only_where_some_question_has_none():
    silent = {**asked("Bob sees Rome", "Bob"), "answers": {"text": [], "answer_start": []}}
    for rows, expected in (
        ([asked("Bob sees Rome", "Bob")] * 2, "Bob"),
        ([asked("Bob sees Rome", "Bob"), silent], ""),
    ):
        _, task = opened("question_answering", rows)
        _ = task.sequences
        logits = []
        for window in task._windows:
            values = np.zeros((len(window.sequence.ids), 2))
            values[0], values[window.texts.index(1)] = 9, 1
            logits.append(values)
        assert task.answers(logits)[0] == expected
    assert task.judge(["", ""], every(task)).per_example.tolist() == [0, 1]


def test_a_squad_metric_gets_its_own_form():
    _, task = opened("question_answering", [asked("Bob sees Rome", "Bob", "Rome")])
    assert task.references(every(task)) == [
        {"id": "0", "answers": {"text": ["Bob", "Rome"], "answer_start": [0, 9]}}
    ]
    assert task.for_trainer(["Bob"]) == [{"id": "0", "prediction_text": "Bob"}]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("Bob", "row 0 of 'rows.jsonl' has 'Bob' as answers; write"),
        ({"text": ["Bob"], "answer_start": []}, "as answers; write"),
        ({"text": ["Bob"], "answer_start": ["0"]}, "as answers; write"),
        ([{"text": "Bob"}], "as answers; write"),
        (
            {"text": ["Bob"], "answer_start": [4]},
            "'Bob' begins at character 4 .* correct",
        ),
        ({"text": ["Bob"], "answer_start": [-3]}, "correct answer_start"),
    ],
)
def test_answers_that_are_not_there_are_refused(answers, message):
    row = {"question": "who?", "context": "Bob sees Bo", "answers": answers}
    with pytest.raises(DataError, match=message):
        opened("question_answering", [row])


def test_a_question_without_room_for_its_context_is_refused():
    row = asked("Bob sees Rome", "Bob", question="who " * 40)
    _, task = opened("question_answering", [row], max_length=32)
    with pytest.raises(DataError, match="question 0 of 'it' has 40 tokens, and windows of 32 have"):
        task.batches()


# --- masked language models


def test_pseudo_perplexity_masks_each_token_once():
    texts = ["the cat sees a dog", "Ann sleeps in Rome and Bob sleeps in Paris"]
    model, task = opened("masked_lm", [{"text": text} for text in texts], max_tokens=40)
    losses, tokens = [], 0
    for text in texts:
        ids = task.tokenizer(text, return_tensors="pt")["input_ids"][0]
        total = 0.0
        for place in range(1, len(ids) - 1):
            masked = ids.clone()
            masked[place] = task.tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(masked[None]).logits[0, place]
            total -= float(logits.log_softmax(-1)[ids[place]])
            tokens += 1
        losses.append(total)
    found = task.evaluate(model)
    assert found.value == pytest.approx(math.exp(sum(losses) / tokens), rel=1e-6)
    np.testing.assert_allclose(found.per_example * found.weights, losses, rtol=1e-6)
    assert task.passes == len(list(task.packed_for(model)))
    assert f"masks each of {tokens} tokens once" in task.notes()[0]


def test_calibration_masks_a_share_of_the_tokens_by_the_text():
    rows = [{"text": " ".join(["cat", "dog", "sees"] * 10)}, {"text": "the cat sleeps"}]
    _, task = opened("masked_lm", rows)
    _, alone = opened("masked_lm", rows[1:])
    (batch,) = task.batches()
    hidden = batch["labels"] != -100
    assert hidden.sum(1).tolist() == [4, 1]  # 15% of 30; of 3 one
    assert (batch["input_ids"][hidden] == task.tokenizer.mask_token_id).all()
    assert torch.equal(alone.batches()[0]["labels"][0], batch["labels"][1][:5])


def test_a_tokenizer_without_a_mask_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.mask_token = None
    kind, model = KINDS["masked_lm"], make_model("masked_lm", "Bert")
    examples = kind.read(Rows.of(pd.DataFrame({"text": ["a cat"]}), "x"), Columns())
    with pytest.raises(DataError, match="the tokenizer has no mask token"):
        kind(examples, tokenizer, config=model.config)


# --- multiple choice

FORMS = {
    "swag": {"sent1": "a cat", "sent2": "the", "ending0": "dog", "ending1": "tree", "label": 1},
    "copa": {
        "premise": "a cat",
        "question": "the",
        "choice1": "dog",
        "choice2": "tree",
        "label": 1,
    },
    "list": {"context": "a cat", "question": "the", "options": ["dog", "tree"], "answer": "B"},
    "text": {"context": "a cat", "question": "the", "choices": ["dog", "tree"], "label": "tree"},
    "arc": {
        "context": "a cat",
        "question": "the",
        "choices": {"text": ["dog", "tree"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "each": {
        "context": "a cat",
        "question": "the",
        "choices": [{"text": "dog", "label": "A"}, {"text": "tree", "label": "B"}],
        "answerKey": "B",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_choices_are_read_in_every_form(form):
    _, task = opened("multiple_choice", [FORMS[form]])
    assert task.examples.texts == [("a cat", "the dog", "the tree")]
    assert task.targets.tolist() == [1]


def test_examples_of_several_numbers_of_choices_are_judged_alike():
    rows = [
        {"question": f"a cat {i}", "choices": ["dog", "big tree", "red", "Ann"][: 2 + i % 3]}
        for i in range(12)
    ]
    rows = [{**row, "label": i % 2} for i, row in enumerate(rows)]
    model, task = opened("multiple_choice", rows)
    expected = []
    for row in rows:
        first = [row["question"]] * len(row["choices"])
        inputs = task.tokenizer(first, row["choices"], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(**{k: v[None] for k, v in inputs.items()}).logits[0]
        expected.append(float(logits.argmax() == row["label"]))
    assert task.evaluate(model).per_example.tolist() == expected
    assert task.chance == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "row 0 of 'rows.jsonl' has the label 2, which is none of its 2 choices"),
        ({"label": "Z"}, "has the label 'Z'"),
        ({"choices": ["dog"]}, r"has \['dog'\] as choices; write a list of 2 or more texts"),
        ({"choices": "dog"}, "has 'dog' as choices"),
        ({"choices": [1, 2]}, "as choices; write a list"),
    ],
)
def test_choices_that_do_not_fit_are_refused(change, message):
    row = {"question": "a cat", "choices": ["dog", "tree"], "label": 0}
    with pytest.raises(DataError, match=message):
        opened("multiple_choice", [{**row, **change}])


# --- text from text


@pytest.mark.parametrize("family", ["T5", "Bart"])
def test_what_a_model_writes_is_compared_as_the_libraries_do(family):
    model, task = opened("seq2seq", rows_of("seq2seq", 6), family=family)
    model.generation_config.suppress_tokens = list(range(5))  # special tokens are no text
    written = []
    for (source,) in task.examples.texts:
        inputs = task.tokenizer(source, return_tensors="pt")
        longest = max(map(len, task._target_ids))
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=longest)[0]
        written.append(task.tokenizer.decode(ids, skip_special_tokens=True))
    targets = list(task.targets)
    assert all(written)
    found = task.evaluate(model)
    assert found.value == pytest.approx(CHRF().corpus_score(written, [targets]).score)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(t, w)[name].fmeasure for t, w in zip(targets, written, strict=True)]
        assert found.metrics[name] == pytest.approx(np.mean(each))
    with torch.no_grad():
        losses = [float(model(**batch).loss) for batch in opened_alone(family)]
    sizes = [len(ids) for ids in task._target_ids]
    order = np.argsort([-len(s.ids) for s in task.sequences], kind="stable")
    loss = np.dot(losses, np.array(sizes)[order]) / sum(sizes)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def opened_alone(family):
    return opened("seq2seq", rows_of("seq2seq", 6), family=family, batch_size=1)[1].batches()


def test_right_texts_are_perfect_and_half_right_ones_are_between():
    _, task = opened("seq2seq", rows_of("seq2seq", 6), family="T5")
    right = [
        task._compared(0.0, answer.ids, t)
        for answer, t in zip(task.ideal(), task.targets, strict=True)
    ]
    found = task.judge(right, every(task))
    assert (found.value, found.metrics["rougeL"]) == (100, 1)
    half = [a if row % 2 else task._compared(0.0, a.ids[:1], "a") for row, a in enumerate(right)]
    assert 0 < task.judge(half, every(task)).value < 100


def test_likelihood_alone_writes_nothing(monkeypatch):
    model, task = opened("seq2seq", rows_of("seq2seq", 6), family="T5")
    monkeypatch.setattr(model, "generate", None)
    found = task.judged_by(metric="perplexity").evaluate(model)
    assert set(found.metrics) == {"perplexity", "loss", "tokens"}
    with pytest.raises(DataError, match="does not generate text; judge it by --metric perplexity"):
        task.evaluate(model)


@pytest.mark.parametrize(
    "row",
    [
        {"document": "a cat", "summary": "cat"},
        {"input": "a cat", "target": "cat"},
        {"translation": {"en": "a cat", "de": "cat"}},
    ],
)
def test_sources_and_targets_are_read_in_every_form(row):
    _, task = opened("seq2seq", [row] * 2, family="T5")
    assert task.examples.texts[0] == ("a cat",)
    assert task.targets[0] == "cat"


def test_languages_are_named():
    rows = Rows.of(pd.DataFrame([{"translation": {"en": "a", "de": "b", "fr": "c"}}]), "x")
    read = KINDS["seq2seq"].read(rows, Columns(text="fr", label="en"))
    assert (read.texts[0], read.labels) == (("c",), ["a"])
    with pytest.raises(DataError, match="as translation; write a text for each of two languages"):
        KINDS["seq2seq"].read(rows, Columns(text="pt"))
