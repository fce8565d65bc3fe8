"""Whatever is read: a value or a line that says what is wrong; no traceback, no hang.

The number of examples is that of the whole suite; `make test-fast` takes a few of each.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from odd import TEXTS, alike, damaged, each_of, nearly, odd
from safetensors.torch import save_file
from world import ROWS, no_hang

from deadhead import (
    HeadMask,
    HeadModel,
    HeadScores,
    PruningPlan,
    Recipe,
    apply_,
    load_model,
    masked,
    open_task,
    remove_,
    score,
)
from deadhead.errors import DeadheadError
from deadhead.interop import read_importance, read_pruning_log
from deadhead.options.values import count_heads
from deadhead.pruning.trajectory import Trajectory
from deadhead.runs.journal import JOURNAL, partial_folder
from deadhead.similarity.distances import HeadDistances
from deadhead.types import Head

FEW = 5


def examples(n: int):
    """Take a few examples in the fast suite, `n` in the whole one."""
    return pytest.mark.parametrize("n", [FEW, pytest.param(n, marks=pytest.mark.slow)])


def ours(function, *args, **options):
    """Call a function that may refuse what it is given, by an error of ours only."""
    with no_hang():
        try:
            return function(*args, **options)
        except DeadheadError:
            return None


@examples(250)
@pytest.mark.slow
def test_config(here, command, n):
    here.copy("model", "odd")

    def check(text):
        here.write("odd/config.json", text)
        command("score", "odd", "-c", "magnitude")

    each_of(nearly(here.json("model/config.json")), n, check)


@examples(200)
def test_manifest(here, command, n):
    here.copy("cut", "odd")
    whole = here.json("cut/config.json")
    before, after = json.dumps({**whole, "quantization_config": "HERE"}).split('"HERE"')

    def check(text):
        here.write("odd/config.json", before + text + after)
        command("score", "odd", "-c", "magnitude")

    each_of(nearly(whole["quantization_config"]), n, check)


@examples(60)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer(here, command, name, n):
    here.copy("model", "odd")

    def check(text):
        here.write(f"odd/{name}", text)
        command("score", "odd", "-c", "output_norm", "-t", "rows.jsonl", "--calibration-size", "2")

    each_of(nearly(here.json(f"model/{name}")), n, check)


@examples(40)
def test_weight_index(here, command, n):
    folder = here.copy("model", "odd")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    names = [key for key, _ in here.model.state_dict().items()]
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "part.safetensors")}

    def check(text):
        here.write("odd/model.safetensors.index.json", text)
        command("score", "odd", "-c", "magnitude")

    each_of(nearly(index), n, check)


@examples(50)
def test_weights(here, command, n):
    content = (here.folder / "model" / "model.safetensors").read_bytes()
    here.copy("model", "odd")

    def check(head):
        here.write("odd/model.safetensors", head + content[2000:])
        command("score", "odd", "-c", "magnitude")

    each_of(damaged(content[:2000]), n, check)


@examples(150)
def test_plan(here, command, n):
    def check(text):
        here.write("odd.json", text)
        command("evaluate", "model", "-p", "odd.json", "-t", "rows.jsonl", "--test-size", "4")

    each_of(nearly(COPYING | here.json("plan.json")), n, check)


COPYING = {"copies": {"0.1": "0.2"}, "action": "duplicate", "provenance": {"seed": 0}}


@examples(50)
def test_plan_in_python(here, n):
    def check(text):
        plan = ours(lambda: PruningPlan.from_json(json.loads(text)))
        if plan is not None:
            ours(lambda: apply_(copy.deepcopy(here.model), plan))

    valid = nearly({**here.json("plan.json"), **COPYING}).filter(is_json)
    each_of(valid, n, check)


def is_json(text: str) -> bool:
    return parsed(text) is not BROKEN


BROKEN = object()


def parsed(text: str) -> object:
    """Parse JSON as Python does; `BROKEN` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return BROKEN


def as_lines(text: str) -> str:
    """Write a JSON list as one value a line; what is no list stays as it is."""
    value = parsed(text)
    lines = [json.dumps(each) for each in value] if isinstance(value, list) else [text]
    return "\n".join(lines) + "\n"


@examples(150)
def test_scores(here, command, n):
    def check(text):
        here.write("odd.json", text)
        command(
            *("plan", "model", "--scores", "odd.json", "-c", "magnitude", "--heads", "3"),
            *("-o", "odd-plan.json"),
        )

    each_of(nearly(here.json("scores.json")), n, check)


@examples(30)
@pytest.mark.parametrize("name", ["run.json", "plan.json", "scores.json"])
def test_finished_run(here, command, name, n):
    here.copy("run", "odd-run")

    def check(text):
        here.write(f"odd-run/{name}", text)
        command("explain", "odd-run", "--samples", "2")

    each_of(nearly(here.json(f"run/{name}")), n, check)


@examples(60)
def test_journal(here, command, n):
    header, *entries = (here.folder / JOURNAL).read_text().splitlines()
    partial = partial_folder(here.folder / "out").name

    def check(text):
        here.clear("out", partial)
        here.write(f"{partial}/{JOURNAL}", f"{header}\n{as_lines(text)}")
        command(*here.prune, "-o", "out", "--resume")

    each_of(nearly([json.loads(entry) for entry in entries]), n, check)


ROW = {"sentence": "one film", "label": 1, "pair": "another"}
BYTES = {
    "rows.tsv": "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS),
    "rows.csv": "sentence,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS),
    "rows.jsonl": "".join(json.dumps({"sentence": t, "label": n}) + "\n" for t, n in ROWS),
    "rows.json": json.dumps([{"sentence": text, "label": label} for text, label in ROWS]),
    "rows.txt": "".join(f"{text}\n" for text, _ in ROWS),
}


@examples(40)
@pytest.mark.parametrize("name", [*BYTES, "rows.parquet"])
def test_data_files(here, name, n):
    if name == "rows.parquet":
        pd.DataFrame(ROWS, columns=["sentence", "label"]).to_parquet(here.folder / name)
        content = (here.folder / name).read_bytes()
    else:
        content = BYTES[name].encode()

    def check(changed):
        here.write(f"odd-{name}", changed)
        opened = ours(
            open_task, f"odd-{name}", here.tokenizer, config=here.model.config, calibration_size=2
        )
        if opened is not None:
            ours(lambda: score(HeadModel(here.model), opened.calibration.batches(), "output_norm"))

    each_of(damaged(content), n, check)


@examples(150)
def test_rows_of_odd_values(here, n):
    def check(text):
        here.write("odd.jsonl", as_lines(text) * 4)
        opened = ours(
            open_task, "odd.jsonl", here.tokenizer, config=here.model.config, calibration_size=4
        )
        if opened is not None:
            ours(lambda: score(HeadModel(here.model), opened.calibration.batches(), "taylor"))

    each_of(nearly([ROW] * 3), n, check)


TABLE = [[0.5, 1.0, -1.0, 2.0], [3.0, 0.0, 1e-9, 4.0]]


@examples(40)
@pytest.mark.parametrize("name", ["x.npy", "x.pt", "x.pkl", "x.csv", "x.json", "x.safetensors"])
def test_importance_tables(here, name, n):
    made = here.folder / name
    match made.suffix:
        case ".npy":
            np.save(made, np.array(TABLE))
        case ".pt":
            torch.save(torch.tensor(TABLE), made)
        case ".pkl":
            made.write_bytes(pickle.dumps(np.array(TABLE)))
        case ".csv":
            made.write_text("\n".join(",".join(map(str, row)) for row in TABLE))
        case ".json":
            made.write_text(json.dumps(TABLE))
        case ".safetensors":
            save_file({"scores": torch.tensor(TABLE)}, made)

    def check(content):
        ours(read_importance, here.write(f"odd-{name}", content), counts=[4, 4])

    each_of(damaged(made.read_bytes()), n, check)


@examples(40)
def test_pruning_logs(here, n):
    log = b"layer, kept, removed\n0, 1, 2\n1, 0, 3\n"
    each_of(
        damaged(log),
        n,
        lambda content: ours(read_pruning_log, here.write("odd.txt", content), counts=[4, 4]),
    )


@examples(40)
@pytest.mark.parametrize("kind", [HeadScores, Trajectory, HeadDistances])
def test_values_read_from_json(here, kind, n):
    good = {
        HeadScores: lambda: here.json("scores.json")["magnitude"],
        Trajectory: lambda: here.json("run/run.json")["trajectory"],
        HeadDistances: lambda: DISTANCES,
    }[kind]()
    valid = nearly(good).filter(is_json)
    each_of(valid, n, lambda text: ours(lambda: kind.from_json(json.loads(text))))


DISTANCES = {
    "metric": "cosine",
    "units": [[["0.0"], ["0.1"]]],
    "matrices": [[[0.0, 0.5], [0.5, 0.0]]],
    "provenance": {},
}


def calls(here):
    """List (function, good arguments): one of them becomes odd."""
    view = HeadModel(here.model)
    config, tokenizer = here.model.config, here.tokenizer
    batches = open_task("rows.jsonl", tokenizer, config=config).calibration.batches()[:1]
    plan = PruningPlan(view.mask)

    def mask_with(plan):
        with masked(view, plan):
            pass

    def opened(**options):
        return open_task(tokenizer=tokenizer, config=config, **options)

    sizes = {"calibration_size": 4, "batch_size": 2, "max_length": 8, "seed": 0}
    columns = {"label_column": "label", "text_column": "sentence"}
    return [
        (lambda amount: count_heads(amount, 8), {"amount": 0.5}),
        (Head.parse, {"given": "0.1"}),
        (HeadMask, {"kept": [[1, 0]]}),
        (lambda head: view.mask.drop(head), {"head": "0.1"}),
        (view.mask.keeps, {"head": (0, 1)}),
        (HeadScores, {"values": [[0.5, 1]], "criterion": "x", "provenance": {}}),
        (PruningPlan, {"mask": [[1, 0]], "copies": {}, "action": "remove", "gqa": "ungroup"}),
        (Recipe, {f.name: getattr(Recipe(), f.name) for f in dataclasses.fields(Recipe)}),
        (load_model, {"source": "model", "device": "cpu", "dtype": "float32"}),
        (mask_with, {"plan": view.mask}),
        (lambda plan: remove_(copy.deepcopy(here.model), plan), {"plan": plan}),
        (partial(score, view), {"data": batches, "criterion": "taylor", "seed": 0, "loss": "task"}),
        (partial(read_importance, counts=[4, 4]), {"path": "table.json", "key": None}),
        (
            opened,
            {"spec": "rows.jsonl", "kind": "classification", "test": None, **sizes, **columns},
        ),
    ]


@st.composite
def one_odd(draw, table):
    """Draw a call with one odd argument."""
    function, arguments = draw(st.sampled_from(table))
    name = draw(st.sampled_from(list(arguments)))
    good = arguments[name]
    similar = alike(good) if isinstance(good, (bool, int, float, str, list, dict)) else odd
    return function, {**arguments, name: draw(st.one_of(odd, similar))}


@examples(300)
def test_arguments(here, n):
    def check(example):
        function, arguments = example
        ours(function, **arguments)

    each_of(one_odd(calls(here)), n, check)


DATA = ("-t", "rows.jsonl", "--calibration-size", "4")
GOOD = {
    "score": ("score", "model", *DATA, "-c", "magnitude"),
    "plan": ("plan", "model", *DATA, "-c", "magnitude", "--heads", "2", "-o", "odd-plan.json"),
}
OPTIONS = {
    "score": "-c -t --loss --kind --calibration-size --batch-size --max-length --text-column"
    " --label-column --seed --device --dtype --calibration",
    "plan": "-c -s --heads --scope --gqa --action --repair --keep-at-least --per-step --seed"
    " --scores --n-clusters --budget",
}


@examples(100)
def test_options(here, command, n):
    letters = st.characters(exclude_characters="\0", codec="utf-8")
    words = st.one_of(st.sampled_from(TEXTS), st.text(letters, max_size=5))
    options = [(name, option) for name, some in OPTIONS.items() for option in some.split()]

    def check(example):
        (name, option), word = example
        command(*GOOD[name], option, word)

    each_of(st.tuples(st.sampled_from(options), words), n, check)
