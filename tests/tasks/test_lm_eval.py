from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import deadhead
from deadhead.errors import DataError, FileFormatError, MissingDependencyError, UnknownNameError
from deadhead.tasks import open_task
from deadhead.tasks.lm_eval import interval, members, primary, run_lm_eval, write_lm_eval
from deadhead.tasks.lm_eval_names import check_lm_eval_tasks

from .conftest import bert_config, make_tokenizer

PAIRS = """
output_type: multiple_choice
doc_to_text: ""
target_delimiter: ""
doc_to_target: 0
doc_to_choice: "{{[good, bad]}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
PERPLEXITY = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{good}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
GENERATE = """
output_type: generate_until
process_docs: !function noise.loud
doc_to_text: "{{good.split(' ')[0]}}"
doc_to_target: "{{good}}"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module", autouse=True)
def no_report_of_the_machine():
    # it starts a dozen programs, two seconds for each evaluation
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
        yield


@pytest.fixture(scope="module")
def decoder():
    return deadhead.load_model("bundled:decoder")


@pytest.fixture(scope="module")
def examples(decoder):
    task = open_task("bundled:agreement", decoder.tokenizer, config=decoder.model.config).test
    return task.examples.texts[:24]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("tasks")
    rows = [json.dumps({"good": good, "bad": bad}) for good, bad in examples]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "noise.py").write_text("def loud(rows):\n    print('noise')\n    return rows\n")
    for name, body in (("pairs", PAIRS), ("texts", PERPLEXITY), ("words", GENERATE)):
        write_task(folder, f"local_{name}", body)
    (folder / "all.yaml").write_text(
        "group: local_all\ntask: [local_pairs, local_texts]\naggregate_metric_list: [{metric: acc}]"
    )
    return folder


def write_task(folder, name, body, data=None):
    data = data or (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}},"
        f" cache_dir: {folder / 'cache'}}}\n"
    )
    (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{data}{body}")


@pytest.fixture
def run(decoder, folder):
    def run(*tasks, model=None, **options):
        model = decoder.model if model is None else model
        options = {"include_path": folder, **options}
        return run_lm_eval(model, decoder.tokenizer, tasks, **options)

    return run


def some_heads(model, n=6):
    heads = deadhead.HeadModel(model).mask
    return heads.drop(*[deadhead.Head(i % 4, i // 4) for i in range(n)])


def plan_of(mask):
    return deadhead.PruningPlan(mask=mask, action="remove")


def test_accuracy_is_that_of_the_likelihoods_worked_out_by_hand(decoder, examples, run):
    def likelihood(text):
        # lm-eval gives a whole sentence the start as its context
        ids = decoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[decoder.tokenizer.bos_token_id, *ids]])
        with torch.no_grad():
            logp = decoder.model(ids[:, :-1]).logits[0].log_softmax(-1)
        return logp.gather(1, ids[0, 1:, None]).sum().item()

    with deadhead.masked(decoder.model, some_heads(decoder.model)):
        found = run("local_pairs")
        right = [likelihood(good) > likelihood(bad) for good, bad in examples]
    assert 0 < np.mean(right) < 1
    assert found["results"]["local_pairs"]["acc,none"] == pytest.approx(np.mean(right))
    assert found["n-samples"]["local_pairs"]["effective"] == len(examples)


@pytest.mark.slow
def test_masked_heads_change_the_numbers_and_nothing_stays_behind(decoder, run):
    ids = torch.arange(4, 40)[None]
    before = decoder.model(ids).logits
    names = ("local_pairs,local_texts", "local_words")
    dense = run(*names)
    with deadhead.masked(decoder.model, some_heads(decoder.model)):
        pruned = run(*names)
    assert set(dense["results"]) == {"local_pairs", "local_texts", "local_words"}
    for task, metric in (("local_pairs", "acc,none"), ("local_texts", "word_perplexity,none")):
        assert dense["results"][task][metric] != pruned["results"][task][metric]
    assert torch.equal(decoder.model(ids).logits, before)
    assert run(*names)["results"] == dense["results"]


def test_a_cut_model_has_the_results_of_the_masked_one(decoder, run):
    mask = some_heads(decoder.model)
    with deadhead.masked(decoder.model, mask):
        masked = run("local_all")
    cut = deadhead.remove_(deadhead.load_model("bundled:decoder").model, plan_of(mask))
    found = run("local_all", model=cut)
    assert found["config"]["model_num_parameters"] < masked["config"]["model_num_parameters"]
    assert primary(found).keys() == {"local_all", "local_pairs", "local_texts"}
    for task, (name, value, error) in primary(masked).items():
        assert primary(found)[task] == (name, pytest.approx(value, rel=1e-5), error)


def test_model_tokenizer_and_generators_are_left_as_found(decoder, run):
    decoder.model.train()
    pad, decoder.tokenizer.pad_token = decoder.tokenizer.pad_token, None
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    try:
        first = run("local_pairs", limit=4, num_fewshot=1, seed=5)
        assert all(module.training for module in decoder.model.modules())
        assert decoder.tokenizer.pad_token is None
    finally:
        decoder.model.eval()
        decoder.tokenizer.pad_token = pad
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert first["n-shot"] == {"local_pairs": 1}
    assert first["config"]["fewshot_seed"] == 5


def test_generators_are_given_back_after_an_error(decoder, folder):
    before = random.getstate()
    write_task(folder, "broken_off", PAIRS.replace("bad]", "worse]"))
    try:
        with pytest.raises(FileFormatError, match=r"'broken_off' cannot be made from .*yaml"):
            run_lm_eval(decoder.model, decoder.tokenizer, ["broken_off"], include_path=folder)
    finally:
        (folder / "broken_off.yaml").unlink()
    assert random.getstate() == before


def test_results_are_written_whole_as_lm_eval_writes_them(run, tmp_path, capfd):
    found = run("local_words", limit=0.25)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "noise" in printed.err
    write_lm_eval(found, tmp_path / "new" / "results.json")
    assert json.loads((tmp_path / "new/results.json").read_text(encoding="utf-8")) == found
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["results.json"]
    assert found["n-samples"]["local_words"] == {"original": 24, "effective": 6}
    expected = {"results", "configs", "versions", "n-shot", "config", "higher_is_better", "date"}
    expected |= {"max_length", "model_name", "total_evaluation_time_seconds"}
    assert expected <= found.keys()
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_lm_eval({"results": object()}, tmp_path / "new" / "results.json")
    assert json.loads((tmp_path / "new/results.json").read_text(encoding="utf-8")) == found


@pytest.mark.slow
def test_batch_size_changes_nothing_that_is_printed(run):
    results = [run("local_pairs,local_texts", batch_size=size) for size in ("auto", 1, "5")]
    assert [found["config"]["batch_size"] for found in results] == [16, 1, 5]
    for found in results[1:]:
        for task, (name, value, _) in primary(results[0]).items():
            assert primary(found)[task][:2] == (name, pytest.approx(value, rel=1e-5))


def test_auto_batches_of_a_large_vocabulary_are_small(run, monkeypatch):
    monkeypatch.setattr("deadhead.tasks.lm_eval._LOGITS_AT_ONCE", 3 * 64 * 196)
    assert run("local_pairs", limit=4)["config"]["batch_size"] == 3
    monkeypatch.setattr("deadhead.tasks.lm_eval._LOGITS_AT_ONCE", 1)
    assert run("local_pairs", limit=4)["config"]["batch_size"] == 1


def test_primary_prefers_normalized_accuracy_and_skips_what_has_no_number():
    rows = {
        "a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.75},
        "b": {"sample_len": 3, "em,strict": 0.25, "em_stderr,strict": 0.5, "em,loose": 1.0},
        "c": {"word_perplexity,none": 9.0, "word_perplexity_stderr,none": "N/A", "acc,none": 1},
        "group": {"alias": "group", " ,none": " "},
    }
    assert primary({"results": rows}) == {
        "a": ("acc_norm", 0.75, None),
        "b": ("em,strict", 0.25, 0.5),
        "c": ("acc", 1.0, None),
    }


def test_what_has_no_metric_of_its_own_is_judged_by_its_tasks():
    rows = {
        "loose": {"alias": "loose", " ,none": " "},
        "mean": {"acc,none": 0.5},
        "a": {"acc,none": 0.25},
        "b": {"acc,none": 0.75},
    }
    results = {"results": rows, "group_subtasks": {"loose": ["mean"], "mean": ["a", "b"], "a": []}}
    assert members("mean", results) == ("mean",)
    assert members("a", results) == ("a",)
    assert members("loose", results) == ("a", "b")
    assert members("a_tag", results) == ("a", "b")


@pytest.mark.parametrize(
    ("metric", "value", "error", "expected"),
    [
        ("acc", 0.5, 0.1, (0.304, 0.696)),
        ("acc", 0.95, 0.1, (0.754, 1.0)),
        ("acc_norm", 0.05, 0.1, (0.0, 0.246)),
        ("exact_match,strict-match", 0.95, 0.1, (0.754, 1.0)),
        ("exact_match", 30.0, 1.0, (28.04, 31.96)),  # a task that gives percentages
        ("word_perplexity", 1.05, 0.1, (0.854, 1.246)),
        ("mcc", 0.95, 0.1, (0.754, 1.146)),
    ],
)
def test_intervals_of_fractions_end_at_0_and_1(metric, value, error, expected):
    assert interval(metric, value, error) == pytest.approx(expected)


def test_there_is_no_interval_without_an_error():
    assert all(math.isnan(end) for end in interval("acc", 1.0, None))


def test_names_come_in_lists_and_once(folder):
    names = check_lm_eval_tasks(["local_pairs, local_all", "local_pairs"], folder)
    assert names == ("local_pairs", "local_all")
    with pytest.raises(DataError, match=r"no lm-eval task is named"):
        check_lm_eval_tasks([" ,"], folder)


def test_a_changed_folder_is_read_again(folder, tmp_path):
    write_task(tmp_path, "first", PAIRS)
    assert check_lm_eval_tasks(["first"], tmp_path) == ("first",)
    write_task(tmp_path, "second", PAIRS)
    assert check_lm_eval_tasks(["second"], tmp_path) == ("second",)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("task: [x\nother: y", r"bad\.yaml' is not YAML: line 2: expected ',' or ']'"),
        ("- a\n- b", r"bad\.yaml' is not a task file: it holds list"),
        ("include: base.yaml\ntask: x", r"includes 'base\.yaml', which is missing"),
    ],
)
def test_a_broken_file_is_named_and_not_passed_over(tmp_path, text, match):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(FileFormatError, match=match):
        check_lm_eval_tasks(["x"], tmp_path)


def test_folders_without_task_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone' is not a folder; --include-path wants one"):
        check_lm_eval_tasks(["x"], tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds no task file; their names end in \.yaml"):
        check_lm_eval_tasks(["x"], tmp_path)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            "dataset_path: Rowan/hellaswag\n",
            r"task 'other' needs the data set 'Rowan/hellaswag', .*Couldn't reach.*HF_HUB_OFFLINE",
        ),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: {test: gone.jsonl}}\n",
            r"task 'other' needs the data set \{'test': 'gone\.jsonl'\}, .*check the path",
        ),
    ],
)
def test_a_missing_data_set_is_named_with_its_task(decoder, tmp_path, data, match):
    write_task(tmp_path, "other", PAIRS, data)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [other]\n")
    with pytest.raises(DataError, match=match):
        run_lm_eval(decoder.model, decoder.tokenizer, ["other"], include_path=tmp_path)
    with pytest.raises(DataError, match=r"task 'other' \(of 'both'\) needs the data set"):
        run_lm_eval(decoder.model, decoder.tokenizer, ["both"], include_path=tmp_path)


def test_tasks_that_run_code_are_refused(decoder, folder):
    write_task(folder, "code", GENERATE + "unsafe_code: true\n")
    try:
        with pytest.raises(DataError, match=r"'code' runs code that the model writes"):
            run_lm_eval(decoder.model, decoder.tokenizer, ["code"], include_path=folder)
    finally:
        (folder / "code.yaml").unlink()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"limit": 0}, "limit 0 is no number of documents"),
        ({"limit": 1.5}, "limit 1.5 is no number of documents"),
        ({"num_fewshot": -1}, "num_fewshot -1 is less than none"),
        ({"batch_size": 0}, "batch size 0 makes no batch"),
        ({"batch_size": "many"}, "batch size 'many' makes no batch"),
    ],
)
def test_options_are_checked(run, options, match):
    with pytest.raises(DataError, match=match):
        run("local_pairs", **options)


def test_models_and_tokenizers_that_do_not_fit_are_refused(decoder):
    config = bert_config(architectures=["BertForSequenceClassification"])
    with pytest.raises(DataError, match="needs a causal language model"):
        run_lm_eval(SimpleNamespace(config=config), make_tokenizer(), ["x"])  # type: ignore
    with pytest.raises(DataError, match="bos or eos token, and it has neither"):
        run_lm_eval(decoder.model, make_tokenizer(bos=False), ["x"])
    with pytest.raises(DataError, match="needs a tokenizer"):
        run_lm_eval(decoder.model, None, ["x"])


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'deadhead\[eval\]'"):
        check_lm_eval_tasks(["hellaswag"])


@pytest.mark.slow
def test_lm_eval_is_imported_only_when_it_is_needed():
    code = "import sys, deadhead, deadhead.tasks.lm_eval; sys.exit('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_tasks_of_lm_eval_itself(decoder, folder):
    """Names are looked for in lm-eval's own 14,000; their data sets are not there offline."""
    both = check_lm_eval_tasks(["hellaswag,arc_easy", "local_pairs"], folder)
    assert both == ("hellaswag", "arc_easy", "local_pairs")
    assert check_lm_eval_tasks(["lambada_openai", "paws_en", "blimp", "mmlu"])
    assert len(check_lm_eval_tasks(["blimp_a*"])) == 5
    with pytest.raises(UnknownNameError, match=r"'helaswag' is not known; nearest: hellaswag, "):
        check_lm_eval_tasks(["helaswag"])
    with pytest.raises(UnknownNameError, match=r"'local_pair' .*nearest: local_pairs.*ls tasks"):
        check_lm_eval_tasks(["local_pair"], folder)
    with pytest.raises(DataError, match=r"'hellaswag' needs the data set 'Rowan/hellaswag'"):
        run_lm_eval(decoder.model, decoder.tokenizer, ["hellaswag"])
    with pytest.raises(DataError, match=r"'blimp_.*' \(of 'blimp'\) .* 'nyu-mll/blimp' \("):
        run_lm_eval(decoder.model, decoder.tokenizer, ["blimp"])
