"""Derived records are proven for the config at hand before they are relied on."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from tests.models import batch, outputs

import deadhead
from deadhead import HeadModel, derive_record, register_architecture
from deadhead.derivation.derive import check_derived, misfit
from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures import records_named
from deadhead.models.manifest import register_carried
from deadhead.runs.settings import ModelSettings

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def falcon(**options):
    return hf.FalconConfig(**SMALL, num_kv_heads=2, bos_token_id=1, eos_token_id=2, **options)


OTHER = {"grouped": {"new_decoder_architecture": True}, "alibi": {"alibi": True}}


@pytest.mark.parametrize("options", OTHER.values(), ids=OTHER)
def test_an_option_that_changes_attention_is_refused(options, own_architectures):
    assert misfit(falcon(), records_named("falcon")) == ""
    config = falcon(**options)
    assert misfit(config, records_named("falcon"))
    model = hf.FalconForCausalLM(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match=r"does not hold for this config.*--derive"):
        deadhead.prune(model, [batch()], heads=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_record_is_derived_for_the_config_and_travels(tmp_path, own_architectures):
    config = falcon(new_decoder_architecture=True)
    shipped = records_named("falcon")
    records = derive_record(config)
    assert records != shipped
    check_derived(config)
    assert derive_record(config) is records  # they hold

    model = hf.FalconForCausalLM(config)
    pruned = deadhead.prune(model, [batch()], heads=0.5).model
    pruned.save_pretrained(tmp_path / "cut")
    register_architecture(*shipped)  # as in a new process, where only these are known
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert records_named("falcon") == records
    assert HeadModel(loaded).mask == HeadModel(pruned).mask
    assert torch.equal(outputs(loaded, batch()), outputs(pruned, batch()))


def test_commands_refuse_it_before_they_load(tmp_path, own_architectures):
    falcon(new_decoder_architecture=True, architectures=["FalconForCausalLM"]).save_pretrained(
        tmp_path
    )
    with pytest.raises(UnsupportedModelError, match="does not hold for this config"):
        ModelSettings(str(tmp_path)).load()  # there are no weights


def test_written_records_win_over_carried_ones():
    before = records_named("llama")
    register_carried("llama", {"quant_method": "deadhead", "architecture": [{"blocks": "layers"}]})
    assert records_named("llama") is before
