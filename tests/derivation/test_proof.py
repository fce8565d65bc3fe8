"""All laws as one function: what holds, what is refuted, what is not applicable."""

from dataclasses import replace

import pytest
import torch

from deadhead.derivation.exercises import exercises
from deadhead.derivation.proof import check_laws, prove_laws
from deadhead.derivation.tiny import tiny_model
from deadhead.models.architectures import records_named, register_architecture
from deadhead.models.heads import HeadModel

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn
LAWS = (
    "mask == removal, eager",
    "mask == removal, sdpa",
    "a wrong cut is caught",
    "a block without heads",
    "saved and loaded",
    "cached == uncached",
    "gate gradients",
    "a dead head is last",
    "hooks are seen",
    "the model is as found",
)


def laws_of(model_type, **how):
    model = tiny_model(model_type)
    return prove_laws(model, exercises(model), **{"fresh_process": False, **how})


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "t5", "whisper", "clip", "mixtral"])
def test_every_law_is_passed_or_says_why_not(name):
    proof = laws_of(name)
    assert tuple(law.law for law in proof.laws) == LAWS
    assert proof.failed == ()
    assert proof.verdict == "exact"
    assert all(law.detail for law in proof.laws)


def test_a_block_that_no_output_depends_on_refutes_nothing():
    """VitPose reads the last but one block of its tiny image encoder."""
    proof = laws_of("vitpose")
    found = {law.law: law for law in proof.laws}
    assert proof.failed == ()
    assert found["a dead head is last"].detail == "in 2 of 3 blocks"


def test_a_law_that_says_nothing_gives_its_reason():
    found = {law.law: law for law in laws_of("vit").laws}
    assert found["cached == uncached"].status == "not applicable"
    assert "does not generate" in found["cached == uncached"].detail
    found = {law.law: law for law in laws_of("bloom").laws}
    assert "no sdpa" in found["mask == removal, sdpa"].detail


def test_attention_that_no_record_covers_is_named_as_kept_whole(own_architectures):
    vision = next(r for r in records_named("clip") if "vision" in r.stack)
    register_architecture(replace(vision, stack=""))
    proof = laws_of("clip")
    assert proof.failed == ()
    assert proof.verdict.startswith("exact in part: kept whole: text_model.encoder.layers.*")


def test_a_wrong_record_is_refuted_with_its_stack_and_how_far_off(own_architectures):
    register_architecture(*(replace(r, after_cut=None) for r in records_named("bloom")))
    proof = laws_of("bloom")
    assert proof.failed
    assert "refused: mask == removal, eager" in proof.verdict


def test_the_stack_that_is_wrong_is_named(own_architectures):
    records = records_named("t5")
    register_architecture(*(replace(r, rows=(), after_cut=None) for r in records))
    first = laws_of("t5").failed[0]
    assert first.law == "mask == removal, eager"


@pytest.mark.slow
def test_a_cut_model_loads_in_a_new_process():
    found = {law.law: law for law in laws_of("bart", fresh_process=True).laws}
    assert found["saved and loaded"].detail == "equal bit for bit, in a new process"


def test_the_model_stays_as_it_is():
    model = tiny_model("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_laws(model, exercises(model), fresh_process=False)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert HeadModel(model).mask.n_kept == HeadModel(model).mask.n_heads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
