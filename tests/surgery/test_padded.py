"""Modules that reshape by the width of the model: zeros stand for the heads that are gone."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as hf

from deadhead import HeadModel, PruningPlan, masked, register_architecture, remove_, score
from deadhead.derivation.derive import derive
from deadhead.derivation.tiny import default_config, tiny_config
from deadhead.models.architectures import records_named
from deadhead.models.maps import hook_maps

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_architectures")]
HEADS = [(0, 1), (0, 4), (1, 0), (1, 2), (1, 3)]


@pytest.fixture
def bert():
    """A tiny BERT in float64 whose record says that its attention goes on with all heads."""
    record = records_named("bert")[0]
    register_architecture(replace(record, padded=True, shrink={}, headless="sliced"))
    torch.manual_seed(0)
    return hf.BertModel(tiny_config(default_config("bert"))).double().eval()


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(5, 90, (2, 7), generator=generator)}


def answer(model):
    with torch.no_grad():
        return model(**inputs()).last_hidden_state


def test_logits_equal_those_of_the_masked_model(bert):
    with masked(bert, HEADS):
        expected = answer(bert)
    before = sum(p.numel() for p in bert.parameters())
    cut = remove_(bert, HEADS)
    assert torch.allclose(answer(cut), expected, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in cut.parameters()) == before - 5 * 4 * 8 * 48 - 5 * 3 * 8
    assert cut.encoder.layer[0].attention.self.num_attention_heads == 6  # it computes with all


def test_a_second_cut_and_a_block_without_heads(bert):
    every = [*HEADS, *((0, n) for n in range(6))]
    with masked(bert, every):
        expected = answer(bert)
    remove_(bert, HEADS)
    remove_(bert, every)
    assert torch.allclose(answer(bert), expected, rtol=0, atol=1e-12)
    assert HeadModel(bert).mask.counts == (6, 6)
    assert HeadModel(bert).mask.n_kept == 3


def test_a_checkpoint_loads_as_it_was(bert, tmp_path):
    remove_(bert, HEADS)
    bert.save_pretrained(tmp_path / "cut")
    loaded = hf.AutoModel.from_pretrained(tmp_path / "cut", dtype=torch.float64).eval()
    for (name, saved), (_, read) in zip(
        bert.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(read, saved), name
    # a copy lies in memory as the model does, so that products round alike
    assert torch.equal(answer(copy.deepcopy(loaded)), answer(bert))


def test_scores_of_a_cut_model_are_those_of_a_masked_one(bert):
    def loss(model, out, batch):
        return out.last_hidden_state.square().mean((1, 2))

    names = ("taylor", "gradient_norm", "output_norm")
    with masked(bert, HEADS):
        expected = [score(bert, [inputs()], name, loss=loss) for name in names]
    remove_(bert, HEADS)
    for name, before in zip(names, expected, strict=True):
        after = score(bert, [inputs()], name, loss=loss)
        for head in HeadModel(bert).mask.heads:
            one, other = (s.values[head.block][head.index] for s in (before, after))
            assert one == pytest.approx(other, rel=1e-5), (name, head)


def test_maps_are_those_of_the_heads_that_stay(bert):
    seen = {}
    with hook_maps(HeadModel(bert), lambda n, rows, maps, visible: seen.update({n: maps.clone()})):
        answer(bert)
    remove_(bert, [(0, 1), (0, 4)])
    with hook_maps(
        HeadModel(bert),
        lambda n, rows, maps, visible: None if n else seen.update({"cut": maps.clone()}),
    ):
        answer(bert)
    assert torch.allclose(seen["cut"], seen[0][:, [0, 2, 3, 5]])


@pytest.mark.parametrize("model_type", ["blip_vision_model", "trocr", "table-transformer"])
def test_types_that_reshape_by_their_width_are_derived(model_type):
    found = derive(model_type)
    assert any(record.padded for record in found.records)
    assert found.difference <= 1e-10
    assert found.reloaded == 0.0
    assert not found.left_out


def test_a_cache_holds_zeros_for_heads_that_are_gone():
    register_architecture(*derive("trocr").records)
    torch.manual_seed(0)
    model = hf.TrOCRForCausalLM(tiny_config(default_config("trocr"))).eval()
    view = HeadModel(model)
    before = view.kv_bytes_per_token()
    remove_(view, PruningPlan(view.mask.drop((0, 1), (1, 0))))
    assert view.kv_bytes_per_token() == before
