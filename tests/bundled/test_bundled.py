"""The bundled models are worth pruning and their texts never leak between splits."""

import json
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    OPTForCausalLM,
)

from deadhead import bundled
from deadhead.errors import DataError, DeadheadError

SPLITS = ("train", "calibration", "selection", "test")
GENERATORS = (bundled.sentiment, bundled.minimal_pairs, bundled.text)
DENSE_BAR, PARADIGM_BAR, HEADLESS_BAR = 0.95, 0.85, 0.6
MAX_BYTES = 4_000_000


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Such small matrices are slower on two threads, far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sentence_of(row):
    """Take the sentence that decides a row's split."""
    return row if isinstance(row, str) else row.get("sentence", row.get("sentence_good"))


def words(sentence):
    return re.findall(r"\w+|[^\w\s]", sentence)


def projections(model):
    """Find the attention output projection of every block."""
    suffixes = ("attention.output.dense", "self_attn.out_proj")
    found = [module for name, module in model.named_modules() if name.endswith(suffixes)]
    assert len(found) == model.config.num_hidden_layers
    return found


def zero_all_heads(model):
    """Zero what every attention output projection reads; its bias stays."""
    for projection in projections(model):
        projection.register_forward_pre_hook(lambda _m, args: (torch.zeros_like(args[0]),))


def sentiment_accuracy(model, tokenizer, rows):
    """Count right labels: one number per class."""
    batch = tokenizer([row["sentence"] for row in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        predicted = model(**batch).logits.argmax(-1).tolist()
    right = Counter(
        row["label"] for row, p in zip(rows, predicted, strict=True) if row["label"] == p
    )
    total = Counter(row["label"] for row in rows)
    return {label: right[label] / total[label] for label in total}


def log_likelihood(model, tokenizer, sentences):
    """Sum log probabilities after `<s>`, with `</s>`."""
    batch = tokenizer(
        [f"{sentence} </s>" for sentence in sentences], padding=True, return_tensors="pt"
    )
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.inference_mode():
        log_probabilities = model(ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    return (log_probabilities.gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum(-1)


def pair_accuracy(model, tokenizer, rows):
    """Count the pairs whose good half is likelier: one number per paradigm."""
    good = log_likelihood(model, tokenizer, [row["sentence_good"] for row in rows])
    bad = log_likelihood(model, tokenizer, [row["sentence_bad"] for row in rows])
    right = (good > bad).tolist()
    by_paradigm = {}
    for row, ok in zip(rows, right, strict=True):
        by_paradigm.setdefault(row["UID"], []).append(ok)
    return {uid: sum(oks) / len(oks) for uid, oks in by_paradigm.items()}


def mean(table):
    return sum(table.values()) / len(table)


def load(name):
    """Load a bundled model with plain auto classes, its tokenizer, and how it is judged."""
    path = bundled.model_path(name)
    if name == "encoder":
        auto, make, judge = (
            AutoModelForSequenceClassification,
            bundled.sentiment,
            sentiment_accuracy,
        )
    else:
        auto, make, judge = AutoModelForCausalLM, bundled.minimal_pairs, pair_accuracy
    model, tokenizer = auto.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    return model, tokenizer, make, judge


@pytest.mark.parametrize("make", GENERATORS)
@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_gives_same_rows_and_another_seed_others(make, split):
    assert make(split, 60, seed=3) == make(split, 60, seed=3)
    assert make(split, 60, seed=3) != make(split, 60, seed=4)


def alone(code):
    """Run code in a new process, with `deadhead.bundled` imported but not the rest."""
    package = str(bundled.model_path("encoder").parent.parent)
    stub = (
        "import json, sys, types; deadhead = types.ModuleType('deadhead'); "
        f"deadhead.__path__ = [{package!r}]; sys.modules['deadhead'] = deadhead; "
        "from deadhead import bundled; "
    )
    run = subprocess.run([sys.executable, "-c", stub + code], capture_output=True, check=True)
    return json.loads(run.stdout)


def test_rows_do_not_depend_on_the_process():
    names = [make.__name__ for make in GENERATORS]
    rows = alone(f"print(json.dumps([getattr(bundled, n)('test', 30, seed=5) for n in {names}]))")
    assert rows == [make("test", 30, seed=5) for make in GENERATORS]


@pytest.mark.slow
@pytest.mark.parametrize("make", GENERATORS)
def test_splits_share_no_sentence_at_any_seed(make):
    owner = {}
    for split in SPLITS:
        for seed in (0, 1):
            for row in make(split, 800, seed=seed):
                assert owner.setdefault(sentence_of(row), split) == split


@pytest.mark.slow
def test_test_pairs_are_not_in_the_training_text():
    trained = set(bundled.text("train", 6_000))
    assert not trained & {row["sentence_good"] for row in bundled.minimal_pairs("test", 3_000)}


@pytest.mark.slow
def test_bad_sentences_are_never_generated_as_text():
    grammatical = {line for split in SPLITS for line in bundled.text(split, 1_500, seed=7)}
    assert not grammatical & {row["sentence_bad"] for row in bundled.minimal_pairs("train", 6_000)}


@pytest.mark.slow
@pytest.mark.parametrize("make", GENERATORS)
def test_rows_are_unique_and_as_many_as_asked(make):
    for n in (0, 1, 2_000):
        rows = [sentence_of(row) for row in make("calibration", n)]
        assert len(rows) == len(set(rows)) == n


def test_labels_and_paradigms_are_balanced():
    labels = Counter(row["label"] for row in bundled.sentiment("test", 301))
    assert sorted(labels) == list(range(len(bundled.LABELS)))
    assert max(labels.values()) - min(labels.values()) <= 1
    paradigms = Counter(row["UID"] for row in bundled.minimal_pairs("test", 301))
    assert sorted(paradigms) == sorted(bundled.PARADIGMS)
    assert len(paradigms) >= 6
    assert max(paradigms.values()) - min(paradigms.values()) <= 1


def test_pairs_differ_by_one_word_or_by_one_exchange():
    for row in bundled.minimal_pairs("selection", 2_000):
        good, bad = words(row["sentence_good"]), words(row["sentence_bad"])
        assert len(good) == len(bad)
        changed = [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        if len(changed) == 2:
            first, second = changed
            assert (good[first], good[second]) == (bad[second], bad[first])
        else:
            assert len(changed) == 1, row


@pytest.mark.slow
def test_counting_words_does_not_solve_the_sentiment_task():
    """A linear classifier of word counts stays far below the bar of the model."""
    train, test = bundled.sentiment("train", 2_500), bundled.sentiment("test", 900)
    ids = {w: i for i, w in enumerate(sorted({w for r in train for w in words(r["sentence"])}))}

    def counts(rows):
        table = torch.zeros(len(rows), len(ids))
        for i, row in enumerate(rows):
            for word in words(row["sentence"]):
                if word in ids:
                    table[i, ids[word]] += 1
        return table, torch.tensor([row["label"] for row in rows])

    x, y = counts(train)
    classifier = torch.nn.Linear(len(ids), len(bundled.LABELS))
    optimizer = torch.optim.Adam(classifier.parameters(), 0.03)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(x), y).backward()
        optimizer.step()
    x, y = counts(test)
    assert (classifier(x).argmax(-1) == y).double().mean() <= 0.75


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bundled.model_path("encodr"), "'encodr' is not known; did you mean 'encoder'"),
        (lambda: bundled.sentiment("tests", 3), "'tests' is not known; did you mean 'test'"),
        (lambda: bundled.minimal_pairs("tset", 3), "known: calibration, selection, test, train"),
        (lambda: bundled.text("train", -1), "n=-1"),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(call, message):
    with pytest.raises(DeadheadError, match=re.escape(message)):
        call()


def test_asking_for_more_than_there_is_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(bundled.agreement, "sentence", lambda rng: f"{rng.randrange(50)}")
    with pytest.raises(DataError, match="ran dry at"):
        bundled.text("train", 51)


def test_importing_bundled_alone_imports_no_torch_and_no_transformers():
    heavy = {"torch", "transformers", "numpy"}
    loaded = alone("print(json.dumps([name.split('.')[0] for name in sys.modules]))")
    assert "deadhead" in loaded
    assert not heavy & set(loaded)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_files_are_small_float32_and_hold_no_paths(name):
    folder = bundled.model_path(name)
    files = {path.name: path for path in folder.iterdir()}
    assert {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    } <= set(files)  # fmt: skip
    assert all(path.stat().st_size <= MAX_BYTES for path in files.values())
    config = json.loads(files["config.json"].read_text())
    assert config["dtype"] == "float32"
    for path in files.values():
        if path.suffix == ".json":
            assert not re.search(r"/(work|home|tmp|root|Users)\b", path.read_text()), path


@pytest.mark.parametrize(
    ("name", "kind"), [("encoder", BertForSequenceClassification), ("decoder", OPTForCausalLM)]
)
def test_auto_classes_load_the_models(name, kind):
    model, tokenizer, *_ = load(name)
    assert isinstance(model, kind)
    heads = model.config.num_hidden_layers * model.config.num_attention_heads
    assert 16 <= heads <= 32
    assert len(tokenizer) == model.config.vocab_size


def test_encoder_tokenizer_knows_every_word_and_adds_both_marks():
    _, tokenizer, *_ = load("encoder")
    for ids in tokenizer([row["sentence"] for row in bundled.sentiment("test", 1_000)])[
        "input_ids"
    ]:
        assert tokenizer.unk_token_id not in ids
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_decoder_tokenizer_knows_every_word_and_adds_only_the_first_mark():
    model, tokenizer, *_ = load("decoder")
    for ids in tokenizer(bundled.text("test", 1_000))["input_ids"]:
        assert tokenizer.unk_token_id not in ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids
        assert len(ids) < model.config.max_position_embeddings


def test_encoder_says_its_labels():
    config = load("encoder")[0].config
    assert tuple(config.id2label[i] for i in range(3)) == bundled.LABELS
    assert config.label2id == {label: i for i, label in config.id2label.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_model_is_accurate_with_heads_and_lost_without(name):
    model, tokenizer, make, judge = load(name)
    rows = make("test", 600)
    table = judge(model, tokenizer, rows)
    assert mean(table) >= DENSE_BAR
    assert min(table.values()) >= PARADIGM_BAR, table
    zero_all_heads(model)
    assert mean(judge(model, tokenizer, rows)) <= HEADLESS_BAR


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_half_of_the_heads_at_random_cannot_go_for_free(name):
    """The mean over random halves falls by far more than one point."""
    model, tokenizer, make, judge = load(name)
    rows = make("test", 240)
    dense = mean(judge(model, tokenizer, rows))
    blocks, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    width = model.config.hidden_size // heads
    kept = torch.ones(blocks, heads)
    for block, projection in enumerate(projections(model)):
        projection.register_forward_pre_hook(
            lambda _m, args, block=block: (args[0] * kept[block].repeat_interleave(width),)
        )
    rng = random.Random(0)
    drops = []
    for _ in range(3):
        kept.fill_(1.0)
        kept.view(-1)[rng.sample(range(blocks * heads), blocks * heads // 2)] = 0.0
        drops.append(dense - mean(judge(model, tokenizer, rows)))
    assert mean(dict(enumerate(drops))) > 0.05
