from __future__ import annotations

import json

import datasets
import numpy as np
import pytest

from deadhead.data.examples import Examples, keep_disjoint
from deadhead.errors import DataError, UnknownNameError
from deadhead.tasks import KINDS, Evaluation, open_task, register_task

from .conftest import bert_config, make_tokenizer

CONFIG, TOKENIZER = bert_config(labels=2), make_tokenizer()


def opened(spec, config=CONFIG, **more):
    return open_task(spec, TOKENIZER, config=config, **more)


def table(path, start, stop):
    path.write_text("".join(f"the cat {i}\t{i % 2}\n" for i in range(start, stop)))
    return path


def numbers(task):
    return [int(texts[0].split()[-1]) for texts in task.examples.texts]


def pair_file(path, n, offset=0):
    rows = [{"sentence_good": f"good {offset + i}", "sentence_bad": f"bad {i}"} for i in range(n)]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def folder(tmp_path):
    for name, start, stop in (("train", 0, 100), ("dev", 100, 130), ("test", 130, 180)):
        table(tmp_path / f"{name}.tsv", start, stop)
    return tmp_path


def test_split_files_take_their_roles(folder):
    sets = opened(folder, calibration_size=None)
    assert numbers(sets.calibration) == list(range(100))
    assert numbers(sets.selection) == list(range(100, 130))
    assert numbers(sets.test) == list(range(130, 180))
    assert sets.test.kind == "classification"
    text = sets.describe()
    for task in (sets.calibration, sets.selection, sets.test):
        assert f"{task.size} examples of" in text
        assert task.fingerprint in text


def test_one_file_gives_its_first_80_percent_and_says_so(tmp_path):
    sets = opened(table(tmp_path / "all.tsv", 0, 50), calibration_size=None)
    assert numbers(sets.calibration) == list(range(40))
    assert numbers(sets.test) == list(range(40, 50))
    assert sets.selection is None
    assert "the first 80% of the rows calibrate, the last 20% test" in sets.describe()


def test_files_of_a_folder_are_paradigms_split_each(tmp_path):
    for number, name in enumerate("xyz"):
        pair_file(tmp_path / f"{name}.jsonl", 100, offset=1000 * number)
    sets = opened(tmp_path, calibration_size=31)
    assert sets.test.kind == "minimal_pairs"
    assert sets.test.size == 60
    groups = list(sets.calibration.examples.groups)
    assert sorted(groups.count(name) for name in "xyz") == [10, 10, 11]
    assert all(
        n % 1000 < 80 for n in (int(g.split()[1]) for g, _ in sets.calibration.examples.texts)
    )
    sliced = opened(tmp_path, test=f"{tmp_path}[90:100]", calibration=f"{tmp_path}[:10]")
    assert (sliced.calibration.size, sliced.test.size) == (30, 30)


def test_explicit_sets_win(folder):
    sets = opened(
        folder, calibration=f"{folder}/train.tsv[10:20]", selection=folder / "train.tsv[20:25]"
    )
    assert numbers(sets.calibration) == list(range(10, 20))
    assert numbers(sets.selection) == list(range(20, 25))
    assert numbers(sets.test) == list(range(130, 180))


def test_all_of_a_file_tests_if_calibration_is_given(folder):
    sets = opened(folder / "test.tsv", calibration=folder / "train.tsv")
    assert numbers(sets.test) == list(range(130, 180))
    assert sets.calibration.size == 100


def test_sampling_is_reproducible_and_without_replacement(folder):
    one, same, other = (opened(folder, calibration_size=40, seed=seed) for seed in (1, 1, 2))
    assert one.calibration.fingerprint == same.calibration.fingerprint
    assert one.calibration.fingerprint != other.calibration.fingerprint
    assert len(set(numbers(one.calibration))) == 40
    assert one.test.fingerprint == other.test.fingerprint


def test_small_groups_are_made_up_for():
    examples = Examples([("x",)] * 111, groups=["a"] * 100 + ["b"] * 10 + ["c"])
    groups = list(examples.sample(30, seed=0).groups)
    assert [groups.count(g) for g in "abc"] == [19, 10, 1]


@pytest.mark.parametrize("kind", ["sentiment", "agreement", "text"])
def test_bundled_sets_are_disjoint(kind):
    sizes = {"calibration_size": 20, "selection_size": 10, "test_size": 20}
    sets = opened(f"bundled:{kind}", config=bert_config(labels=3), **sizes)
    assert (sets.calibration.size, sets.selection.size, sets.test.size) == (20, 10, 20)
    keys = [set(t.examples.keys) for t in (sets.calibration, sets.selection, sets.test)]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_saved_data_sets_keep_their_splits_and_class_names(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )

    def part(start):
        return datasets.Dataset.from_dict(
            {"text": [f"cat {start + i}" for i in range(9)], "label": [i % 2 for i in range(9)]},
            features=features,
        )

    both = {"train": part(0), "validation": part(10), "test": part(20)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    turned = bert_config(labels=2, label2id={"pos": 0, "neg": 1}, id2label={0: "pos", 1: "neg"})
    sets = opened(tmp_path / "saved", config=turned)
    assert sets.test.targets.tolist() == [1, 0] * 4 + [1]
    assert opened(tmp_path / "saved").test.targets.tolist() == [0, 1] * 4 + [0]
    assert sets.selection.size == 9
    part(0).save_to_disk(tmp_path / "one")
    assert opened(tmp_path / "one").calibration.size == 7


def test_kinds_are_read_off_the_columns(tmp_path):
    (tmp_path / "x.txt").write_text("a cat\nthe dog\n" * 3 + "a\nb\nc\nd\n")
    with pytest.raises(DataError, match=r"a cat"):  # the same lines on both sides
        opened(tmp_path / "x.txt", calibration=tmp_path / "x.txt")
    assert opened(tmp_path / "x.txt").test.kind == "perplexity"
    columns = {"q": ["a"] * 10, "p": [f"b {i}" for i in range(10)], "y": [0, 1] * 5}
    (tmp_path / "x.json").write_text(json.dumps(columns))
    sets = opened(tmp_path / "x.json", text_column="q", text_pair_column="p", label_column="y")
    assert sets.test.kind == "classification"
    assert sets.test.examples.texts[0] == ("a", "b 8")


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"kind": "clasification"}, UnknownNameError, "did you mean 'classification'"),
        ({"kind": "minimal_pairs"}, DataError, "does not fit .*no 'sentence_good' among its col"),
        ({"text_column": "sentense"}, UnknownNameError, "column 'sentense'.*mean 'sentence'"),
        ({"label_column": "lable"}, UnknownNameError, "column 'lable'.*mean 'label'"),
        ({"calibration_size": 0}, DataError, "calibration_size 0 leaves no examples"),
        ({"max_length": 99}, DataError, "99 is more than the model's 40"),
        ({"test": "bundled:agreemant"}, UnknownNameError, "bundled data 'agreemant'"),
    ],
)
def test_what_does_not_fit_is_refused(folder, more, error, message):
    with pytest.raises(error, match=message):
        opened(folder, **more)


def test_text_is_no_classification(tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(f"cat {i}" for i in range(10)))
    with pytest.raises(DataError, match=r"'classification' does not fit .*no label among its"):
        opened(tmp_path / "x.txt", kind="classification")


def test_missing_paths_are_refused_with_the_nearest(folder):
    with pytest.raises(
        DataError, match=r"no file or folder '.*tets.tsv'; did you mean '.*test.tsv"
    ):
        opened(folder / "tets.tsv")
    with pytest.raises(DataError, match=r"takes none of the 50 rows of .*test.tsv"):
        opened(folder, test=f"{folder}/test.tsv[90:95]")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no files to read; supported are .tsv"):
        opened(folder / "empty")
    (folder / "dev.tsv").unlink()
    (folder / "test.tsv").unlink()
    with pytest.raises(
        DataError, match=r"has no test set .it has calibration.; name one with test"
    ):
        opened(folder)


def test_data_sets_that_cannot_be_loaded_are_one_clear_line(monkeypatch):
    def offline(*args):
        raise ConnectionError("Couldn't reach 'no/such' on the Hub (LocalEntryNotFoundError)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"'no/such' is no file or folder of data") as e:
        opened("no/such")
    assert "\n" not in str(e.value)


def test_the_same_rows_twice_are_refused(folder):
    with pytest.raises(DataError, match=r"1 example is in both .* \(the same rows"):
        opened(None, calibration=f"{folder}/train.tsv[:51]", test=f"{folder}/train.tsv[50:]")
    sets = opened(
        None,
        calibration=f"{folder}/train.tsv[:51]",
        test=f"{folder}/train.tsv[50:]",
        allow_overlap=True,
    )
    assert sets.calibration.size == 51
    assert "overlap allowed: 1 example is in both calibration and test" in sets.describe()


def test_texts_that_one_file_repeats_are_removed_from_calibration():
    def part(texts, file, first):
        rows = [(file, first + n) for n in range(len(texts))]
        return Examples(tuple((text,) for text in texts), origins=rows)

    few, test = part(["a", "b", "b", "c"], "x.txt", 0), part(["b", "d"], "x.txt", 4)
    sets, notes = keep_disjoint({"calibration": few, "test": test})
    assert [texts for (texts,) in sets["calibration"].texts] == ["a", "c"]
    assert len(sets["test"]) == 2
    assert "removed 2 of 4 examples from calibration" in notes[0]
    with pytest.raises(DataError, match="in both calibration and test"):
        keep_disjoint({"calibration": part(["b"], "x.txt", 0), "test": test})
    for other in (part(["b", "c"], "y.txt", 0), Examples((("b",), ("c",)))):
        with pytest.raises(DataError, match="as the text"):
            keep_disjoint({"calibration": other, "test": test})


def test_much_overlap_is_refused_and_little_is_dropped():
    test = Examples([(f"t {i}",) for i in range(300)])
    few = Examples([(f"c {i}",) for i in range(500)] + [(" t 7\n",), ("t 8",)])
    sets, notes = keep_disjoint({"calibration": few, "test": test})
    assert len(sets["calibration"]) == 500
    assert sets["test"] is test
    assert notes == [
        "removed 2 of 502 examples from calibration, whose text is in test as well, e.g. ' t 7\\n'"
    ]
    many = Examples([(f"c {i}",) for i in range(500)] + [(f"t {i}",) for i in range(3)])
    with pytest.raises(
        DataError, match=r"3 examples are in both calibration and test.*--allow-ove"
    ):
        keep_disjoint({"calibration": many, "test": test})


def test_equal_texts_are_equal_in_any_unicode_form():
    one, other = Examples([("caf\u00e9",)]), Examples([(" cafe\u0301 ",)])
    assert one.keys == other.keys
    assert Examples([("a", "b")]).keys != Examples([("a b",)]).keys


def test_interval_covers_the_value_and_narrows_with_examples():
    rng = np.random.default_rng(0)
    widths = []
    for n in (100, 10_000):
        x = (rng.random(n) < 0.8).astype(float)
        found = Evaluation("accuracy", float(x.mean()), {}, x)
        low, high = found.interval()
        assert low < x.mean() < high
        assert (low, high) == found.interval()
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.96 * 0.4 / 10, rel=0.25)
    assert widths[1] < widths[0] / 5


def test_interval_weighs_tokens_and_keeps_paradigms_apart():
    x, w = np.array([1.0, 3.0]), np.array([1e9, 1.0])
    low, high = Evaluation("perplexity", np.e, {}, x, weights=w, exponential=True).interval(0.4)
    assert low == pytest.approx(np.e)
    assert high == pytest.approx(np.e)
    groups = np.array([0, 0, 0, 1])
    found = Evaluation("accuracy", 0.5, {}, np.array([1.0, 1, 1, 0]), groups=groups)
    assert found.interval() == (0.5, 0.5)
    with pytest.raises(DataError, match=r"level 95 is not in"):
        found.interval(95)
    with pytest.raises(DataError, match=r"0 draws make no interval"):
        found.interval(draws=0)


def test_a_new_kind_is_one_class_and_a_name_is_taken_once():
    with pytest.raises(DataError, match=r"'perplexity' is taken by PerplexityTask"):

        @register_task("perplexity")
        class Other(KINDS["classification"]):
            pass


@pytest.mark.parametrize("column", ["labels", "groups", "origins"])
def test_examples_need_columns_of_equal_length(column):
    with pytest.raises(DataError, match=f"2 {column} were given for 1 examples"):
        Examples([("a",)], **{column: [1, 2]})
    with pytest.raises(DataError, match=r"there are no examples"):
        Examples([])


def test_all_that_calibration_is_drawn_from_is_there_to_train_on(folder):
    sets = opened(folder, calibration_size=10)
    assert sets.calibration.size == 10
    assert numbers(sets.training) == list(range(100))


def test_text_to_train_on_needs_no_labels_and_shares_nothing_with_what_judges(tmp_path):
    for name, start, stop in (("train", 0, 100), ("dev", 100, 300), ("test", 300, 500)):
        table(tmp_path / f"{name}.tsv", start, stop)
    kept = [f"the dog {i}" for i in range(400)]
    texts = tmp_path / "unlabeled.txt"
    texts.write_text("\n".join([*kept, "", "the cat 100", "the cat 300"]))
    sets = opened(tmp_path, train=texts, calibration_size=10)
    assert [text for (text,) in sets.training.examples.texts] == kept
    assert set(sets.training.batches()[0]) >= {"input_ids", "attention_mask"}
    for role in ("selection", "test"):
        assert f"from training, whose text is in {role} as well" in sets.describe()
    assert "training: 400 examples of" not in sets.describe()
    assert f"fingerprint {sets.training.fingerprint}" in sets.describe(trains=True)
    with pytest.raises(DataError, match="200 examples are in both training and test"):
        opened(tmp_path, train=tmp_path / "test.tsv")


def test_text_to_train_a_language_model_on_may_be_any_text_or_pairs(opt, tmp_path):
    for name, offset in (("train", 0), ("test", 500), ("more", 800)):
        pair_file(tmp_path / f"{name}.jsonl", 200, offset)
    pair_file(tmp_path / "twice.jsonl", 200, 600)
    (tmp_path / "plain.txt").write_text("some text\nand more text\n")
    spec = {"calibration": tmp_path / "train.jsonl", "test": tmp_path / "test.jsonl"}
    plain = opened(None, opt.config, **spec, train=tmp_path / "plain.txt").training
    assert plain.size == 2
    pairs = opened(None, opt.config, **spec, train=tmp_path / "more.jsonl").training
    assert pairs.examples.texts[0] == ("good 800",)
    with pytest.raises(DataError, match="100 examples are in both training and test"):
        opened(None, opt.config, **spec, train=tmp_path / "twice.jsonl")
    sentences = opened(None, opt.config, **spec).training.batches()
    assert sum(len(b["input_ids"]) for b in sentences) == 200
