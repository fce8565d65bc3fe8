"""The laws on a model's own weights: as saved, or cut before."""

from dataclasses import replace

import pytest
import torch
import transformers as hf

from deadhead import HeadModel, load_model, register_architecture, remove_, save_model
from deadhead.derivation import weights
from deadhead.derivation.exercises import exercises
from deadhead.derivation.laws import draw_masks, wrong_cuts
from deadhead.derivation.proof import OF_GATES, prove_laws
from deadhead.derivation.weights import free_memory, own_model
from deadhead.models.architectures import records_named

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn


def laws_of(model):
    proof = prove_laws(model, exercises(model), fresh_process=False, tiny=False)
    return proof, {law.law: law for law in proof.laws}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The bundled decoder without some of its heads."""
    loaded = load_model("bundled:decoder")
    remove_(loaded.model, [(0, 1), (1, 0), (1, 2)])
    folder = tmp_path_factory.mktemp("cut") / "model"
    save_model(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.mark.parametrize("source", ["bundled:encoder", "cut"])
def test_a_checkpoint_obeys_the_laws_in_float64(source, request):
    model = own_model(source if ":" in source else request.getfixturevalue(source))
    assert model.dtype == torch.float64
    proof, found = laws_of(model)
    assert proof.verdict == "exact"
    assert not set(OF_GATES) & set(found)
    assert found["a wrong cut is caught"].status == "passed"
    assert found["saved and loaded"].detail == "equal bit for bit, in this process"
    if source == "cut":
        assert "left padding" in found["cached == uncached"].detail


def test_where_memory_is_short_the_laws_hold_in_the_dtype_that_fits(monkeypatch):
    monkeypatch.setattr(weights, "free_memory", lambda: 1)
    model = own_model("bundled:decoder")
    assert model.dtype == load_model("bundled:decoder").model.dtype == torch.float32
    proof, found = laws_of(model)
    assert proof.verdict == "exact"
    assert found["saved and loaded"].detail == "equal bit for bit, in this process"


def test_free_memory_is_a_number_of_bytes_or_not_known():
    free = free_memory()
    assert free is None or free > 2**20


def test_a_wrong_record_is_refuted_on_the_weights(own_architectures):
    register_architecture(*(replace(r, after_cut=None) for r in records_named("bloom")))
    torch.manual_seed(0)
    config = hf.BloomConfig(vocab_size=64, hidden_size=24, n_layer=2, n_head=6)
    proof, found = laws_of(hf.BloomForCausalLM(config).double().eval())
    assert found["mask == removal, eager"].status == "failed"
    assert proof.verdict.startswith("refused: mask == removal, eager")


def test_masks_of_a_cut_model_keep_no_head_that_is_gone(cut):
    view = HeadModel(load_model(cut).model)
    for mask in draw_masks(view, 6):
        assert set(mask.heads) < set(view.mask.heads)
    found = exercises(view.model)
    assert min(wrong_cuts(view, found).values()) > 1e-3
