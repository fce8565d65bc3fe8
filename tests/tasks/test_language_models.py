from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deadhead.data.examples import Examples
from deadhead.data.tokens import TokenSequence, token_ids
from deadhead.errors import DataError, ScoreError
from deadhead.tasks import MinimalPairsTask, PerplexityTask, open_task

from .conftest import bert_config, make_tokenizer, sentences

LIMITS = [{}, {"batch_size": 1}, {"batch_size": 5}, {"max_tokens": 30}]


def brute_loss(model, tokenizer, text):
    """Sum of -log p over one sentence's tokens, by log_softmax, and their number."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = ([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]) + ids
    model.eval()
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    model.train()
    losses = [-logp[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
    return sum(losses), len(losses)


def pairs(n=40):
    good = sentences(n, seed=3)
    bad = [" ".join(s.split()[::-1]) + " not" * (i % 2) for i, s in enumerate(good)]
    return Examples(list(zip(good, bad, strict=True)), groups=["xyz"[i % 3] for i in range(n)])


@pytest.mark.parametrize("limits", LIMITS)
def test_minimal_pairs_equal_brute_force(opt, lm_tokenizer, limits):
    examples = pairs()
    expected = np.array(
        [
            brute_loss(opt, lm_tokenizer, good)[0] < brute_loss(opt, lm_tokenizer, bad)[0]
            for good, bad in examples.texts
        ]
    )
    assert 0 < expected.mean() < 1
    found = MinimalPairsTask(examples, lm_tokenizer, config=opt.config, **limits).evaluate(opt)
    np.testing.assert_array_equal(found.per_example, expected)
    groups = np.array(examples.groups)
    for name in "xyz":
        assert found.metrics[name] == expected[groups == name].mean()
    assert found.value == pytest.approx(np.mean([found.metrics[name] for name in "xyz"]))


@pytest.mark.parametrize("limits", LIMITS)
def test_losses_do_not_depend_on_padding_or_batches(opt, lm_tokenizer, limits):
    texts = sentences(30, seed=5)
    task = PerplexityTask(
        Examples([(t,) for t in texts if len(t.split()) > 1]),
        lm_tokenizer,
        config=opt.config,
        **limits,
    )
    expected = [brute_loss(opt, lm_tokenizer, t) for (t,) in task.examples.texts]
    found = task.evaluate(opt)
    total, tokens = np.sum(expected, axis=0)
    np.testing.assert_allclose(found.per_example, [a / b for a, b in expected], atol=1e-9)
    np.testing.assert_array_equal(found.weights, [b for _, b in expected])
    assert (
        found.value == found.metrics["perplexity"] == pytest.approx(np.exp(total / tokens), 1e-12)
    )


@pytest.mark.parametrize("length", [2, 3, 7, 40])
def test_long_texts_are_cut_into_windows_that_cover_them(opt, lm_tokenizer, length):
    text = " ".join(sentences(12, seed=7))
    start = lm_tokenizer.bos_token is not None
    task = PerplexityTask(
        Examples([(text,), ("a cat",)]), lm_tokenizer, config=opt.config, max_length=length
    )
    words = text.split()
    room = length - start
    windows = [words[i : i + room] for i in range(0, len(words), room)]
    windows = [w for w in windows if len(w) + start > 1]
    parts = [brute_loss(opt, lm_tokenizer, " ".join(w)) for w in windows]
    loss, tokens = np.sum(parts, axis=0)
    found = task.evaluate(opt)
    assert task.size == 2
    assert max(len(s.ids) for s in task.sequences) == length
    assert found.per_example[0] == pytest.approx(loss / tokens, abs=1e-9)
    assert found.weights[0] == tokens


def test_a_tie_is_wrong_whatever_the_batches(opt, lm_tokenizer):
    same = [(s, s) for s in sentences(20)]
    for limits in LIMITS:
        task = MinimalPairsTask(Examples(same), lm_tokenizer, config=opt.config, **limits)
        assert task.evaluate(opt.float()).value == 0
    opt.double()


def test_one_paradigm_has_no_metric_of_its_own(opt, lm_tokenizer):
    examples = Examples(pairs().texts, groups=["only"] * 40)
    found = MinimalPairsTask(examples, lm_tokenizer, config=opt.config).evaluate(opt)
    assert set(found.metrics) == {"accuracy"}


def test_batches_hold_acceptable_sentences_with_causal_labels(opt, lm_tokenizer):
    examples = pairs()
    task = MinimalPairsTask(examples, lm_tokenizer, config=opt.config, batch_size=9)
    start = [] if lm_tokenizer.bos_token_id is None else [lm_tokenizer.bos_token_id]
    expected = [
        start + ids for ids in token_ids(lm_tokenizer, [good for good, _ in examples.texts])
    ]
    found = [
        row[mask.bool()].tolist()
        for batch in task.batches()
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert sorted(found) == sorted(expected)
    for batch in task.batches():
        real = batch["attention_mask"].bool()
        assert (batch["labels"][~real] == -100).all()
        assert (batch["labels"][real] == batch["input_ids"][real]).all()


def test_padding_that_is_also_a_word_is_still_predicted(opt):
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "cat"
    task = PerplexityTask(Examples([("a cat cat",), ("cat",)]), tokenizer, config=opt.config)
    assert task.evaluate(opt).weights.tolist() == [3, 1]


def test_a_start_that_the_tokenizer_adds_is_not_added_twice(opt):
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 4)]
    )
    assert tokenizer("a cat")["input_ids"] == [4, 5, 7]
    task = PerplexityTask(Examples([("a cat",)]), tokenizer, config=opt.config)
    assert task.sequences == [TokenSequence([4, 5, 7])]


def test_large_vocabularies_are_reduced_in_parts(opt, monkeypatch):
    task = PerplexityTask(
        Examples([(s,) for s in sentences(30)]), make_tokenizer(), config=opt.config
    )
    whole = task.evaluate(opt)
    monkeypatch.setattr("deadhead.tasks.language_models._REDUCED_AT_ONCE", 50)
    np.testing.assert_allclose(task.evaluate(opt).per_example, whole.per_example, atol=1e-12)


def test_a_ruined_model_has_infinite_perplexity_and_interval(opt):
    task = PerplexityTask(
        Examples([(s,) for s in sentences(30)]), make_tokenizer(), config=opt.config
    )
    hook = opt.lm_head.register_forward_hook(lambda *args: args[2] * 1e5)
    found = task.evaluate(opt)
    hook.remove()
    assert found.value == np.inf
    assert found.interval() == (np.inf, np.inf)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [MinimalPairsTask, PerplexityTask])
def test_logits_that_are_not_finite_are_judged_by_nobody(opt, kind, value):
    examples = pairs() if kind is MinimalPairsTask else Examples([(s,) for s in sentences(30)])
    task = kind(examples, make_tokenizer(), config=opt.config, batch_size=8, name="dev.txt")
    calls = []

    def spoil(module, args, logits):
        calls.append(logits.shape)
        if len(calls) == 3:
            logits = logits.clone()
            logits[0, 0, 3] = value  # one number, of a token that is not there
        return logits

    hook = opt.lm_head.register_forward_hook(spoil)
    try:
        with pytest.raises(ScoreError, match=r"batch 2 of \d+ of 'dev\.txt' .* --dtype float32"):
            task.evaluate(opt)
    finally:
        hook.remove()
    assert len(calls) == 3
    assert np.isfinite(task.evaluate(opt).value)


@pytest.mark.parametrize("kind", [MinimalPairsTask, PerplexityTask])
def test_a_model_that_overflows_in_half_precision_is_refused(opt, kind):
    examples = pairs(4) if kind is MinimalPairsTask else Examples([(s,) for s in sentences(4)])
    model = copy.deepcopy(opt).half()
    task = kind(examples, make_tokenizer(), config=model.config)
    assert np.isfinite(task.evaluate(model).value)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc2.bias.fill_(6e4)  # two of them are more than half precision holds
    with pytest.raises(ScoreError, match="not finite"):
        task.evaluate(model)


def test_padding_and_tokens_of_no_probability_are_no_overflow(opt):
    task = PerplexityTask(Examples([("a cat sees",), ("a",)]), make_tokenizer(), config=opt.config)
    plain = task.evaluate(opt)

    def on_padding(module, args, logits):
        logits = logits.clone()
        logits[1, 1:] = float("nan")  # the shorter text; its last token predicts nothing either
        return logits

    hook = opt.lm_head.register_forward_hook(on_padding)
    assert task.evaluate(opt).value == plain.value
    hook.remove()
    hook = opt.lm_head.register_forward_hook(
        lambda *args: args[2].index_fill(2, torch.tensor([5]), -float("inf"))
    )
    assert task.evaluate(opt).value == np.inf  # "a" cannot be
    hook.remove()


def test_use_cache_is_restored(opt):
    task = PerplexityTask(Examples([("a cat",)]), make_tokenizer(), config=opt.config)
    seen = []
    hook = opt.register_forward_hook(lambda *args: seen.append(args[2].past_key_values))
    task.evaluate(opt)
    hook.remove()
    assert seen == [None]
    assert opt.config.use_cache is True


def test_sentences_that_do_not_fit_are_refused(opt):
    tokenizer = make_tokenizer()

    def run(*texts):
        MinimalPairsTask(Examples([texts]), tokenizer, config=opt.config, name="x").batches()

    with pytest.raises(
        DataError, match=r"pair 0 of 'x' has a sentence of 50 tokens, outside 1 to 39"
    ):
        run("a", "a " * 50)
    with pytest.raises(DataError, match=r"pair 0 of 'x' has a sentence of 0 tokens"):
        run("", "a")
    with pytest.raises(DataError, match=r"text 0 of '' has no token to predict.*'a'"):
        PerplexityTask(Examples([("a",)]), make_tokenizer(bos=False), config=opt.config).batches()


@pytest.mark.parametrize("kind", [MinimalPairsTask, PerplexityTask])
def test_classifiers_are_refused(kind):
    config = bert_config(architectures=["BertForSequenceClassification"])
    with pytest.raises(DataError, match=r"needs a causal language model"):
        kind(Examples([("a", "b")]), make_tokenizer(), config=config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt-blimp", "bloom-blimp"])
def test_blimp_equals_the_recorded_results(shared, name):
    path = shared / "models" / name
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    recorded = json.loads((path / "results.json").read_text())["blimp_heldout"]
    folder = shared / "data/blimp"
    for paradigm in ("passive_1", "anaphor_gender_agreement"):  # passive_1 has a tie
        sets = open_task(folder / f"{paradigm}.jsonl", tokenizer, config=model.config)
        assert sets.test.size == 200
        assert sets.test.evaluate(model).value == recorded[paradigm]


@pytest.mark.slow
def test_opt_perplexity_of_truncated_paragraphs_is_the_documented_one(shared):
    """The recorded 108.8 reads the first 256 tokens of each paragraph, we read all of it."""
    path = shared / "models/opt-blimp"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    task = open_task(shared / "data/wikitext", tokenizer, config=model.config).test
    texts = [text for (text,) in task.examples.texts]
    cut = [TokenSequence([1, *ids[:255]]) for ids in token_ids(tokenizer, texts)]
    losses = np.array(task.predictions(model, task.pack(cut)))
    tokens = sum(len(c.ids) - 1 for c in cut)
    assert float(np.exp(losses.sum() / tokens)) == pytest.approx(108.8, abs=0.05)
