"""The loss of a model is its head's own, whatever the head; what contradicts it is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf

from deadhead import score
from deadhead.criteria import CRITERIA
from deadhead.data.batches import call, ready
from deadhead.errors import DataError
from deadhead.losses.losses import divergence_from, kl, task
from models import CONFIGS, VOCAB, batch

SIZE, TOKENS = 4, 7


def tokens(*shape, seed=0):
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def classes(n, *shape):
    return torch.randint(0, n, shape, generator=torch.Generator().manual_seed(3))


def some_ignored():
    labels = classes(3, SIZE, TOKENS)
    labels[:, ::3] = -100
    return labels


def problem(name, **more):
    return {"problem_type": name, "num_labels": 3, **more}


MULTI = {"labels": classes(2, SIZE, 3).float()}
NUMBERS = {"labels": torch.linspace(-1, 2, SIZE)}
CLASSES = {"labels": classes(3, SIZE)}
SPANS = {"start_positions": classes(3, SIZE), "end_positions": classes(4, SIZE) + 3}

HEADS = {
    "one class": ("ForSequenceClassification", problem("single_label_classification"), CLASSES),
    "one class, unsaid": ("ForSequenceClassification", problem(None), CLASSES),
    "many labels": ("ForSequenceClassification", problem("multi_label_classification"), MULTI),
    "many labels, unsaid": ("ForSequenceClassification", problem(None), MULTI),
    "a number": ("ForSequenceClassification", problem("regression", num_labels=1), NUMBERS),
    "a number, unsaid": ("ForSequenceClassification", problem(None, num_labels=1), NUMBERS),
    "numbers": (
        "ForSequenceClassification",
        problem("regression"),
        {"labels": torch.linspace(-1, 2, SIZE * 3).view(SIZE, 3)},
    ),
    "tokens": ("ForTokenClassification", {"num_labels": 3}, {"labels": some_ignored()}),
    "span": ("ForQuestionAnswering", {}, SPANS),
    "masked tokens": ("ForMaskedLM", {}, {"labels": some_ignored()}),
    "next tokens": ("ForCausalLM", {}, {"labels": some_ignored()}),
    "next sentence": ("ForNextSentencePrediction", {}, {"labels": classes(2, SIZE)}),
    "choice": ("ForMultipleChoice", {}, {"labels": classes(3, SIZE)}),
}
BASES = {"bert": "Bert", "distilbert": "DistilBert", "gpt2": "GPT2", "llama": "Llama"}
CASES = [
    (base, name)
    for base, prefix in BASES.items()
    for name, (head, _, _) in HEADS.items()
    if hasattr(hf, prefix + head)
]


def made(base, name, **changes):
    head, options, labels = HEADS[name]
    config = CONFIGS[base]()
    for key, value in {**options, **changes}.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = getattr(hf, BASES[base] + head)(config).double().eval()
    ids = tokens(SIZE, 3, TOKENS) if head == "ForMultipleChoice" else tokens(SIZE, TOKENS)
    labels = {k: v.double() if v.is_floating_point() else v for k, v in labels.items()}
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels}


def one(inputs, row):
    return {k: v[row : row + 1] for k, v in inputs.items()}


@pytest.mark.parametrize(("base", "name"), CASES)
def test_the_task_loss_is_that_of_transformers(base, name):
    model, inputs = made(base, name)
    with torch.no_grad():
        ours = task(model, call(model, inputs), inputs)
        theirs = [model(**one(inputs, row)).loss for row in range(SIZE)]
    assert ours.shape == (SIZE,)
    known = torch.stack(theirs)
    known[known.isnan()] = 0  # nothing is predicted
    # of tokens, transformers computes it in float32
    torch.testing.assert_close(ours, known.double(), rtol=1e-5, atol=1e-6)


def test_an_end_beyond_the_tokens_is_ignored():
    model, inputs = made("bert", "span")
    cut = {**inputs, "end_positions": torch.full((SIZE,), TOKENS)}
    with torch.no_grad():
        outputs = call(model, cut)
        starts = torch.nn.functional.cross_entropy(
            outputs.start_logits, cut["start_positions"], reduction="none"
        )
        torch.testing.assert_close(task(model, outputs, cut), starts / 2)


@pytest.mark.parametrize(("base", "name"), CASES)
def test_a_model_does_not_diverge_from_itself_and_another_does(base, name):
    model, inputs = made(base, name)
    bare = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = call(model, bare)
        divergence = divergence_from(model, before, bare)
        torch.testing.assert_close(divergence(model, before, bare), torch.zeros(SIZE).double())
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        assert (divergence(model, call(model, bare), bare) > 1e-6).all()


@pytest.mark.parametrize("loss", ["task", "kl"])
@pytest.mark.parametrize(("base", "name"), CASES)
def test_every_head_is_scored_by_any_loss(base, name, loss):
    model, inputs = made(base, name)
    together = score(model, [inputs], "fisher", loss=loss)
    alone = score(model, [one(inputs, row) for row in range(SIZE)], "fisher", loss=loss)
    values = np.stack(together.values)
    assert (values > 0).any()
    np.testing.assert_allclose(np.stack(alone.values), values, rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("name", ["span", "many labels", "tokens"])
def test_padding_changes_nothing(name):
    model, inputs = made("bert", name)
    wider = dict(inputs)
    for key, value in inputs.items():
        if value.shape == (SIZE, TOKENS):
            wider[key] = torch.nn.functional.pad(
                value, (0, 3), value=-100 if key == "labels" else 0
            )
    for loss in (task, kl):
        expected = loss(model, call(model, inputs), inputs)
        torch.testing.assert_close(loss(model, call(model, wider), wider), expected)


WRONG = [
    (
        "many labels",
        {"labels": classes(3, SIZE)},
        "does not fit: labels of shape .4. and",
    ),
    ("many labels", {"labels": classes(2, SIZE, 2)}, "does not fit"),
    ("many labels", {"labels": torch.full((SIZE, 3), 2.0)}, "outside 0 to 1; write 0 or 1"),
    ("one class", MULTI, "does not fit: labels of shape .4, 3."),
    ("one class", {"labels": torch.ones(SIZE)}, "does not fit: .* torch.float32"),
    ("one class", {"labels": torch.full((SIZE,), 3)}, "label 3 is not among the model's 3 classes"),
    ("one class", {"labels": torch.full((SIZE,), -1)}, "label -1 is not among"),
    ("numbers", {"labels": torch.ones(SIZE)}, "does not fit"),
    ("tokens", {"labels": torch.full((SIZE, TOKENS), 3)}, "label 3 is not among"),
    ("tokens", {"labels": classes(3, SIZE)}, "does not fit"),
    ("span", {"start_positions": classes(3, SIZE)}, "needs end_positions, .* choose the loss 'kl'"),
    ("span", {**SPANS, "end_positions": torch.full((SIZE,), 99)}, "give positions of 0 to 6"),
    ("span", {"labels": classes(3, SIZE)}, "needs start_positions"),
    ("choice", {"labels": classes(3, SIZE) + 3}, "is not among the model's 3 classes"),
    ("next tokens", {"labels": torch.full((SIZE, TOKENS), VOCAB)}, "is not among the model's 40"),
]


@pytest.mark.parametrize(("name", "labels", "message"), WRONG)
@pytest.mark.parametrize("criterion", ["taylor", "gradient_norm"])
def test_labels_that_contradict_the_head_are_refused(name, labels, message, criterion):
    model, inputs = made("llama" if name == "next tokens" else "bert", name)
    kept = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask")}
    with pytest.raises(DataError, match=message) as caught:
        score(model, [{**kept, **labels}], criterion, loss="task")
    assert "\n" not in str(caught.value)


def test_a_model_of_several_heads_is_refused():
    torch.manual_seed(0)
    model = hf.BertForPreTraining(CONFIGS["bert"]()).eval()
    with pytest.raises(DataError, match="seq_relationship_logits are of several heads"):
        score(model, [batch()], "taylor", loss="kl")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("criterion", [n for n in CRITERIA if n != "file"])
@pytest.mark.slow
def test_a_sample_of_padding_only_counts_nowhere(criterion, side):
    model = hf.BertForSequenceClassification(CONFIGS["bert"]()).double().eval()
    inputs = batch((9, 6, 4), padding_side=side)
    inputs["labels"] = inputs["labels"] % 2
    empty = {k: torch.zeros_like(v[:1]) for k, v in inputs.items()}
    among = {k: torch.cat([inputs[k][:2], empty[k], inputs[k][2:]]) for k in inputs}
    expected = score(model, [inputs], criterion)
    for batches in ([among], [empty, inputs], [inputs, empty]):
        found = score(model, batches, criterion)
        np.testing.assert_allclose(
            np.stack(found.values), np.stack(expected.values), rtol=1e-9, atol=1e-15
        )
    if criterion not in ("magnitude", "random"):
        with pytest.raises(DataError, match="no calibration samples"):
            score(model, [empty], criterion)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": torch.tensor([[3, 4, 400]])}, "token id 400 is not among the model's 40"),
        ({"input_ids": torch.tensor([[3, -4, 4]])}, "token id -4 is not among the model's 40"),
        ({"input_ids": torch.tensor([[3.0, 4.0, 5.0]])}, "input_ids of torch.float32"),
        ({"inputs_embeds": torch.ones(1, 3, 99)}, "cannot run a batch of inputs_embeds"),
    ],
)
def test_batches_that_the_model_cannot_run_are_refused(change, message):
    model = hf.BertModel(CONFIGS["bert"]()).eval()
    with pytest.raises(DataError, match=message) as caught:
        score(model, [change], "output_norm")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="batch 0 is a str"):
        list(ready(model, ["a text"]))
