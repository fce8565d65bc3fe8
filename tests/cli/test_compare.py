import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deadhead import load_model, save_model
from deadhead.options.values import DEFAULT_REPAIR

MODEL = "bundled:encoder"


@pytest.mark.slow
def test_every_criterion_stands_beside_every_repair_and_random_draws(deadhead, tmp_path):
    data = ("-t", "bundled:sentiment", "--calibration-size", "32", "--test-size", "32")
    methods = ("-c", "taylor,reconstruction", "--random", "2")
    found = deadhead("compare", MODEL, *data, *methods, "--heads", "50%", "-o", "out", "--json")
    assert found.code == 0, found.err
    lines = {row["method"]: row for row in found.json["lines"]}
    names = ("taylor", "greedy reconstruction", "random heads")
    wanted = {"dense", *names, *(f"{name} + {DEFAULT_REPAIR}" for name in names)}
    assert set(lines) == wanted
    assert {row["heads_dropped"] for name, row in lines.items() if name != "dense"} == {12}
    assert lines["random heads"]["draws"] == 2
    assert len(json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]) == 9


@pytest.mark.slow
def test_it_says_what_auto_took(deadhead):
    data = ("-t", "bundled:sentiment", "--calibration-size", "32", "--test-size", "32")
    methods = ("-c", "auto", "--repair", "none", "--random", "0", "--heads", "25%,75%")
    found = deadhead("compare", MODEL, *data, *methods, "-o", "out")
    assert found.code == 0, found.err
    said = " ".join(found.err.split())
    assert "note: auto at 25%: " in said
    assert "note: auto at 75%: " in said
    assert f", repair {DEFAULT_REPAIR}: " in said
    assert "95% interval over examples" in found.out


DATA = ("-t", "bundled:sentiment", "--calibration-size", "32")


@pytest.mark.slow
def test_a_plan_is_applied_without_data_by_the_repair_that_is_stored_with_it(deadhead, tmp_path):
    assert "repair: plan.repair.safetensors" in deadhead("plan", MODEL, *DATA, "--heads", "3").out
    assert deadhead("apply", MODEL, "-o", "stored").code == 0
    assert deadhead("apply", MODEL, *DATA, "-o", "fitted").code == 0
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("stored", "fitted")]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name


@pytest.mark.slow
def test_a_stored_repair_is_for_one_plan_and_one_model(deadhead, tmp_path):
    assert deadhead("plan", MODEL, *DATA, "--heads", "3").code == 0
    needs = "needs calibration data: none is stored beside it for this model and this plan; give"
    assert needs in deadhead("apply", MODEL, "--repair", "bias", "-o", "no").refused()
    (loaded := load_model(MODEL)).model.get_parameter(
        "bert.encoder.layer.0.attention.output.dense.weight"
    ).data[0, 0] += 1
    save_model(loaded.model, loaded.tokenizer, tmp_path / "other")
    assert needs in deadhead("apply", "other", "-o", "no").refused()
    (tmp_path / "plan.repair.safetensors").write_bytes(b"no tensors")
    assert "is not a stored repair" in deadhead("apply", MODEL, "-o", "no").refused()
    (tmp_path / "plan.repair.safetensors").unlink()
    assert needs in deadhead("apply", MODEL, "-o", "no").refused()
    assert deadhead("apply", MODEL, "--repair", "none", "-o", "plain").code == 0
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_distill_is_for_the_rows_that_are_named_and_never_for_random_draws(deadhead):
    data = ("-t", "bundled:sentiment", "--calibration-size", "32", "--test-size", "32")
    methods = ("-c", "magnitude,gradient_norm", "--repair", "none,distill", "--random", "1")
    how = ("--distill-of", "magnitude", "--epochs", "1", "--seconds", "5", "--heads", "50%")
    found = deadhead("compare", MODEL, *data, *methods, *how, "-o", "out", "--json")
    assert found.code == 0, found.err
    lines = {row["method"]: row for row in found.json["lines"]}
    fitted = tuple(f"{name} + {DEFAULT_REPAIR}" for name in ("gradient_norm", "random heads"))
    plain = ("dense", "magnitude", "gradient_norm", "random heads")
    assert set(lines) == {*plain, *fitted, "magnitude + distill"}
    whole = json.loads(Path(found.json["files"]["sweep"]).read_text())
    assert set(whole["run"]["data"]) == {"calibration", "selection", "training", "test"}


def test_options_of_distill_are_refused_without_it(deadhead):
    data = ("-t", "bundled:sentiment", "--repair", "none,bias")
    for option in (("--seconds", "5"), ("--distill-of", "all"), ("--train", "texts.txt")):
        said = deadhead("compare", MODEL, *data, *option).refused()
        assert f"{option[0]} does nothing here: it is for --repair distill" in said
    said = deadhead("compare", MODEL, "--repair", "distill", "--distill-of", "tailor").refused()
    assert "method to distill 'tailor' is not known; did you mean 'taylor'" in said


@pytest.mark.slow
def test_too_few_texts_are_a_note_or_refused(deadhead, tmp_path):
    data = ("-t", "bundled:sentiment", "--calibration-size", "1", "--test-size", "16")
    methods = ("-c", "magnitude", "--repair", "least_squares", "--random", "0", "--heads", "50%")
    found = deadhead("compare", MODEL, *data, *methods, "-o", "out")
    assert found.code == 0, found.err
    assert "unknowns per output feature: it was shrunk" in " ".join(found.err.split())
    said = deadhead("compare", MODEL, *data, *methods, "--strict", "-o", "strict").refused()
    assert "unknowns per output feature" in said
    assert not list(tmp_path.glob("*strict*"))


def test_nothing_to_compare_is_refused(deadhead):
    said = deadhead("compare", MODEL, "-t", "bundled:sentiment", "-c", "").refused()
    assert "no criterion is named; give --criteria" in said
