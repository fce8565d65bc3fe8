from __future__ import annotations

import json

import datasets
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, OPTConfig, PreTrainedTokenizerFast

from deadhead.data.prompts import open_prompts
from deadhead.errors import DataError, FileFormatError, UnknownNameError

WORDS = ["a", "the", "cat", "dog", "sees", "sleeps", "and", '"', "said", *map(str, range(200))]
LONG_CONFIG = OPTConfig(pad_token_id=0)
CONFIG = OPTConfig(max_position_embeddings=12, pad_token_id=0)


def make_tokenizer(*, bert=False, start=False):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    form = "[CLS] $A [SEP]" if bert else "<s> $A"
    if bert or start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=form, special_tokens=[("[CLS]", 2), ("[SEP]", 3), ("<s>", 4)]
        )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=names if bert else names[::2],
    )


TOKENIZER = make_tokenizer()


def opened(spec, **more):
    return open_prompts(
        spec, more.pop("tokenizer", TOKENIZER), config=more.pop("config", CONFIG), **more
    )


def write(path, content):
    path.write_text(content)
    return path


def numbered(n, start=0):
    return [f"the cat {i}" for i in range(start, start + n)]


THREE = ["the cat sees", "a dog sleeps and sees", "the dog"]
ROWS = [{"id": i, "prompt": text} for i, text in enumerate(THREE)]
FILES = {
    "task.tsv": "".join(f"{text}\t{70 + i}\n" for i, text in enumerate(THREE)),
    "names.tsv": "".join(f"{text}\tMercury_SC_{i}\n" for i, text in enumerate(THREE)),
    "header.tsv": "id\tprompt\n" + "".join(f"x{i}\t{text}\n" for i, text in enumerate(THREE)),
    "alone.tsv": "\n".join(THREE),
    "lines.txt": "the cat sees\n\n  \na dog sleeps and sees\nthe dog\n",
    "rows.jsonl": "\n".join(map(json.dumps, ROWS)),
    "rows.json": json.dumps(ROWS),
    "rows.csv": "id,prompt\n" + "".join(f"{i},{text}\n" for i, text in enumerate(THREE)),
    "pairs.jsonl": "\n".join(
        json.dumps({"sentence_bad": "bad", "sentence_good": text, "UID": "u"}) for text in THREE
    ),
    "sst.tsv": "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in THREE),
    "other.jsonl": "\n".join(json.dumps({"question": text}) for text in THREE),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_prompts(tmp_path, name):
    prompts = opened(write(tmp_path / name, FILES[name]))
    assert prompts.texts == tuple(THREE)
    assert (prompts.size, prompts.tokens) == (3, 10)
    assert prompts.fingerprint == opened(write(tmp_path / "same.txt", "\n".join(THREE))).fingerprint
    assert "100 prompts were asked for" in prompts.notes[0]


def test_parquet_and_saved_data_sets_give_the_same_prompts(tmp_path):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "x.parquet")
    assert opened(tmp_path / "x.parquet").texts == tuple(THREE)
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(tmp_path / "two")
    assert opened(tmp_path / "one").texts == opened(tmp_path / "two").texts == tuple(THREE)
    assert opened(f"{tmp_path / 'one'}[1:]").texts == tuple(THREE[1:])


def test_task_files_quote_as_the_predecessor_wrote_them(tmp_path):
    texts = ['he said "no" and left', "a question\n  A. cat\n  B. dog\nAnswer:", " the cat"]
    frame = pd.DataFrame({"prompt": texts, "id": ["Mercury_7", "LEAP__1", "A&E_3"]})
    frame.to_csv(tmp_path / "task.tsv", sep="\t", header=False, index=False)
    assert '""no""' in (tmp_path / "task.tsv").read_text()
    assert opened(tmp_path / "task.tsv").texts == tuple(texts)
    plain = write(tmp_path / "plain.tsv", '"no" said the cat\t1\nthe dog said "\t2\n')
    assert opened(plain).texts == ('"no" said the cat', 'the dog said "')


def test_a_slice_takes_rows_and_a_folder_all_its_files(tmp_path):
    for number, name in enumerate(("train", "test", "b")):
        lines = numbered(10, 10 * number)
        write(tmp_path / f"{name}.tsv", "".join(f"{line}\t{i}\n" for i, line in enumerate(lines)))
    assert opened(f"{tmp_path}/train.tsv[2:5]").texts == tuple(numbered(3, 2))
    assert opened(f"{tmp_path}/train.tsv[-1:]").texts == ("the cat 9",)
    assert sorted(opened(tmp_path).texts) == sorted(numbered(30))
    sliced = opened(f"{tmp_path}[:4]", n=6)
    assert sliced.name.startswith("the 12 in ")
    assert sorted(int(t.split()[-1]) // 10 for t in sliced.texts) == [0, 0, 1, 1, 2, 2]
    assert all(int(t.split()[-1]) % 10 < 4 for t in sliced.texts)


def test_prompts_are_drawn_by_seed_without_replacement(tmp_path):
    path = write(tmp_path / "x.txt", "\n".join(numbered(150)))
    first, again, other = (opened(path, n=20, seed=seed) for seed in (0, 0, 1))
    assert first.texts == again.texts
    assert first.fingerprint == again.fingerprint
    assert set(first.texts) != set(other.texts)
    assert first.fingerprint != other.fingerprint
    assert len(set(first.texts)) == 20
    assert list(first.texts) == sorted(first.texts, key=lambda t: int(t.split()[-1]))
    assert opened(path).size == 100
    assert opened(path, n=None).texts == tuple(numbered(150))
    assert first.notes == opened(path, n=None).notes == ()


@pytest.mark.parametrize("name", ["agreement", "text", "sentiment"])
def test_bundled_prompts_need_no_file(name):
    first, again, other = (
        opened(f"bundled:{name}", config=LONG_CONFIG, n=5, seed=seed) for seed in (3, 3, 4)
    )
    assert first.size == 5
    assert first.notes == ()
    assert first.texts == again.texts != other.texts


def test_batches_hold_every_prompt_once_padded_on_the_right(tmp_path):
    path = write(tmp_path / "x.txt", "\n".join(THREE))
    for size in (1, 2, None):
        batches = opened(path, batch_size=size).batches()
        assert all(len(b["input_ids"]) <= (size or 3) for b in batches)
        rows = [row[mask.bool()] for b in batches for row, mask in zip(*b.values(), strict=True)]
        assert sorted(TOKENIZER.decode(row) for row in rows) == sorted(THREE)
        assert all(set(b) == {"input_ids", "attention_mask"} for b in batches)
    batch = opened(path, batch_size=3).batches()[0]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1] * 3 + [0] * 2, [1] * 2 + [0] * 3]
    assert batch["input_ids"][batch["attention_mask"] == 0].tolist() == [0] * 5


def test_special_tokens_are_those_of_the_tokenizer(tmp_path):
    path = write(tmp_path / "x.txt", "the cat\n")
    (start,) = opened(path, tokenizer=make_tokenizer(start=True)).batches()
    assert start["input_ids"].tolist() == [[4, 6, 7]]
    config = BertConfig(max_position_embeddings=12)
    (bert,) = open_prompts(path, make_tokenizer(bert=True), config=config).batches()
    assert bert["input_ids"].tolist() == [[2, 6, 7, 3]]
    assert torch.equal(bert["token_type_ids"], torch.zeros(1, 4, dtype=torch.long))


def test_long_prompts_are_truncated_and_noted_or_refused(tmp_path):
    path = write(tmp_path / "x.txt", "the cat\n" + "the dog " * 10 + "\na cat sees\n")
    prompts = opened(path, n=3)
    assert prompts.batches()[0]["input_ids"].shape[1] == 12
    (note,) = prompts.notes
    assert "1 of 3 prompts were truncated to 12 tokens (row 1 of" in note
    assert "has 20)" in note
    bert = make_tokenizer(bert=True)
    cut = open_prompts(path, bert, config=BertConfig(max_position_embeddings=12), max_length=4)
    assert cut.batches()[0]["input_ids"][1].tolist() == [2, 6, 8, 3]  # ends as a prompt ends
    with pytest.raises(DataError, match=r"1 of 3 prompts are longer than 12 tokens .row 1 of"):
        opened(path, n=3, strict=True)
    assert opened(f"{path}[:1]", n=1, strict=True).notes == ()
    with pytest.raises(DataError, match="max_length 13 is more than the model's 12 positions"):
        opened(path, max_length=13)


@pytest.mark.parametrize(
    ("name", "content", "more", "kind", "message"),
    [
        ("x.tsv", "", {}, DataError, "has no prompts; give a file with at least one"),
        ("x.tsv", "prompt\tid\n", {}, DataError, "has no prompts"),
        ("x.tsv", " \t1\n\t2\n", {}, DataError, "has no prompts, only blank rows"),
        ("x.txt", "\n \n", {}, DataError, "has no rows"),
        (
            "x.jsonl",
            '{"prompt": null}\n',
            {},
            DataError,
            "row 0 .* None .* which is missing",
        ),
        ("x.jsonl", '{"prompt": 3}\n', {}, DataError, "3 as 'prompt', which is not text"),
        ("x.txt", "cat\ndog\n", {}, DataError, "every prompt has one token .*heads look alike"),
        ("x.txt", "cat\n", {"n": 1}, DataError, "every prompt has one token"),
        ("x.jsonl", '{"a": "x", "b": "y"}', {}, DataError, "which column of .* a, b; name one"),
        ("x.jsonl", '{"a": "x y"}', {"column": "aa"}, UnknownNameError, "did you mean 'a'"),
        ("x.tsv", "the cat\t1\n", {"column": "promt"}, UnknownNameError, "did you mean 'prompt'"),
        ("x.tsv", "the cat\t1\nthe dog\n", {}, FileFormatError, "differ in their number of fields"),
        ("x.tsv", "prompt\tprompt\na\tb\n", {}, FileFormatError, "a header with a name twice"),
        ("x.tsv", "\0", {}, FileFormatError, "is binary"),
        ("x.docx", "the cat", {}, DataError, "its ending is none of .csv, .json"),
        ("x.txt", "the cat\n", {"n": 0}, DataError, "0 prompts tell heads apart by nothing"),
        ("x.txt", "the cat\n", {"batch_size": 0}, DataError, "batch_size 0 makes no batch"),
    ],
)
def test_bad_prompts_are_refused_in_one_line(tmp_path, name, content, more, kind, message):
    with pytest.raises(kind, match=message) as caught:
        opened(write(tmp_path / name, content), **more)
    assert "\n" not in str(caught.value)


def test_places_without_prompts_are_refused_in_one_line(tmp_path):
    write(tmp_path / "paws.tsv", "the cat\t1\n")
    (tmp_path / "empty").mkdir()
    for spec, kind, message in (
        (f"{tmp_path}/pawz.tsv", DataError, r"no file or folder .*did you mean .*paws.tsv"),
        (f"{tmp_path}/paws.tsv[5:9]", DataError, r"takes none of the 1 rows"),
        (f"{tmp_path}/empty", DataError, "has no files to read; supported are .tsv"),
        ("bundled:txt", UnknownNameError, "did you mean 'text'"),
    ):
        with pytest.raises(kind, match=message) as caught:
            opened(spec)
        assert "\n" not in str(caught.value)


def test_a_column_is_taken_by_name_and_blank_rows_are_noted(tmp_path):
    rows = [{"text": "no", "mine": text} for text in ("the cat", " ", "a dog")]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    prompts = opened(path, column="mine", n=2)
    assert prompts.texts == ("the cat", "a dog")
    assert prompts.notes == (f"1 blank prompts of {str(path)!r} were left out",)
    tsv = write(tmp_path / "x.tsv", "mine\tid\nthe cat\t1\n")
    assert opened(tsv, column="mine").texts == ("the cat",)
