"""Checkpoints carry the records of a model type that were derived."""

import json

import pytest

import deadhead
from deadhead.derivation.code import derive_record
from deadhead.derivation.tiny import tiny_model
from deadhead.errors import CheckpointError
from deadhead.models.architectures import ARCHITECTURES, derived, has_records

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def carried(own_architectures, monkeypatch, tmp_path):
    """A cut checkpoint of a type that has no record in this process."""
    monkeypatch.setattr(derived, "shipped_records", dict)
    model = tiny_model("mixtral").float()
    derive_record(model.config)
    heads = [head for head in deadhead.HeadModel(model).mask.heads if head.index < 3]
    deadhead.remove_(model, heads)
    deadhead.save_model(model, None, tmp_path / "cut")
    ARCHITECTURES._entries.pop("mixtral")
    assert not has_records("mixtral")
    return tmp_path / "cut"


def test_a_checkpoint_loads_where_its_type_has_no_record(carried):
    loaded = deadhead.load_model(carried)
    assert deadhead.HeadModel(loaded.model).mask.n_kept == 6


@pytest.mark.parametrize(
    "damage",
    [[], [{"blocks": "layers.*"}], [{"attention": 3}], [{"shrink": {"__class__.x": "heads"}}]],
)
def test_damaged_records_are_refused(carried, damage):
    config = json.loads((carried / "config.json").read_text())
    config["quantization_config"]["architecture"] = damage
    (carried / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is damaged"):
        deadhead.load_model(carried)
