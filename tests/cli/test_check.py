"""deadhead check: the laws on a tiny model, and records that are derived."""

import json

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


def test_what_has_no_heads_is_refused_with_the_reason(deadhead):
    assert "resnet" in deadhead("check", "resnet", "--derive").refused()


def test_a_name_that_is_nothing(deadhead):
    assert "is not there" in deadhead("check", "nothing-like-this").refused()


def test_remote_code_is_refused_without_the_flag(deadhead, tmp_path):
    values = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert "--trust-remote-code" in deadhead("check", tmp_path).refused()
