"""deadhead check: the laws on a tiny model, and records that are derived."""

import json
import re

import pytest

from deadhead.derivation.code import as_code
from deadhead.models.architectures import ARCHITECTURES, records_named

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_architectures")]


@pytest.mark.slow
def test_a_model_type_is_checked(deadhead):
    result = deadhead("check", "bert")
    assert result.code == 0
    assert result.out.rstrip().endswith("exact")
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.slow
def test_derive_prints_code_that_makes_the_record(deadhead):
    result = deadhead("check", "mixtral", "--derive", "--json")
    assert result.code == 0
    assert result.json["verdict"] == "exact"
    derived = records_named("mixtral")
    ARCHITECTURES._entries.pop("mixtral")
    exec(result.json["code"], {})
    assert records_named("mixtral") == derived


@pytest.mark.parametrize("name", ["t5", "bloom", "gpt_oss", "gemma3"])
def test_records_as_code_make_the_same_records(name):
    records = tuple(r for r in records_named(name) if r.derived)
    if records:
        exec(as_code(records), {})
        assert records_named(name) == records


def test_a_type_without_a_record_gets_the_flag_that_finds_one(deadhead, monkeypatch):
    module = "deadhead.models.architectures.derived.shipped_records"
    monkeypatch.setattr(module, dict)
    assert "--derive finds one" in deadhead("check", "mixtral").refused()


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        (
            "resnet",
            "a tiny 'resnet' ran, and no softmax .*; it has no attention modules",
        ),
        ("xlnet", r"no softmax in it feeds .*; its attention: layer\.\*\.rel_attn"),
        ("glm_image_vqmodel", "given nothing, GlmImageVQVAE says NotImplementedError: "),
        (
            "diffllama",
            r"at layers\.\*\.self_attn cannot .*: mask .* differ by 1\.0e\+00",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(deadhead, model_type, reason):
    assert re.search(reason, deadhead("check", model_type, "--derive").refused())


@pytest.mark.slow
def test_a_stack_that_cannot_be_cut_is_named_with_the_reason(deadhead, monkeypatch):
    from deadhead.derivation import derive

    kept = derive.prove

    def proven(model, found, candidate):
        cross = "cross_attn" in candidate.record.output or "encoder_attn" in candidate.record.output
        return "mask and removal differ by 2.0e-03" if cross else kept(model, found, candidate)

    monkeypatch.setattr(derive, "prove", proven)
    found = deadhead("check", "bart", "--derive")
    assert (
        "left out: decoder.layers.*.encoder_attn: mask and removal differ by 2.0e-03" in found.out
    )


def test_a_name_that_is_nothing(deadhead):
    assert "is not there" in deadhead("check", "nothing-like-this").refused()


def test_remote_code_is_refused_without_the_flag(deadhead, tmp_path):
    values = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert "--trust-remote-code" in deadhead("check", tmp_path).refused()


@pytest.mark.slow
def test_the_laws_run_on_the_weights_of_a_checkpoint(deadhead):
    result = deadhead("check", "bundled:decoder", "--weights", "--json")
    assert (result.code, result.json["verdict"]) == (0, "exact")
    assert (result.json["weights"], result.json["dtype"]) == (True, "float64")
    details = {law["law"]: law["detail"] for law in result.json["laws"]}
    assert details["saved and loaded"] == "equal bit for bit, in a new process"


def test_weights_that_are_not_there(deadhead, tmp_path):
    assert "is not there" in deadhead("check", "bert", "--weights").refused()
