"""Sites are found by tracing, and a record is believed only when it is proven."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers as hf
from torch import nn

from deadhead import HeadModel, masked, register_architecture, remove_, score
from deadhead.derivation.derive import derive, prove, proven_as_written
from deadhead.derivation.exercises import exercises
from deadhead.derivation.laws import (
    TOLERANCE,
    difference,
    draw_masks,
    known,
    mask_equals_removal,
    run_exercises,
    wrong_cuts,
)
from deadhead.derivation.records import candidates
from deadhead.derivation.tiny import default_config, tiny_config, tiny_model
from deadhead.derivation.trace import record, sites_in
from deadhead.errors import UnsupportedModelError
from deadhead.models.architectures import ARCHITECTURES, fused_by_part, fused_grouped, records_named
from deadhead.models.architectures.derived import as_data, records_from, shipped_records

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn

FOUND = {
    "bart": ["encoder", "decoder", "decoder.cross"],
    "t5": ["encoder", "decoder", "decoder.cross"],
    "clip": ["vision", "text"],
    "deepseek_v3": [""],
    "gpt_oss": [""],
    "olmo2": [""],
    "phi3": [""],
    "swin": [""],
    "gpt_bigcode": [""],
}


@pytest.fixture(scope="module")
def derived():
    return {name: derive(name) for name in FOUND}


@pytest.mark.parametrize("model_type", FOUND)
def test_every_stack_is_found_and_cut_exactly(model_type, derived):
    found = derived[model_type]
    assert [r.stack for r in found.records] == FOUND[model_type]
    assert found.difference <= TOLERANCE
    assert found.reloaded == 0.0
    assert not found.left_out
    assert not found.not_exercised
    assert all(r.derived for r in found.records)


def test_what_belongs_to_heads_beyond_projections(derived):
    def rows(name):
        return {(r.parameter, r.unit, r.dim) for r in derived[name].records[0].rows}

    assert rows("gpt_oss") == {("self_attn.sinks", "heads", 0)}
    table = "attention.relative_position_bias.relative_position_bias_table"
    assert rows("swin") == {(table, "heads", 1)}
    assert ("self_attn.kv_b_proj.weight", "heads", 0) in rows("deepseek_v3")
    assert derived["deepseek_v3"].records[0].query == ""
    olmo2 = derived["olmo2"].records[0]
    assert [r.parameter for r in olmo2.selected] == [
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
    ]
    assert derived["phi3"].records[0].layout is fused_by_part


@pytest.mark.parametrize("model_type", FOUND)
def test_records_are_plain_data(model_type, derived):
    records = derived[model_type].records
    text = json.dumps([as_data(r) for r in records])
    assert records_from(model_type, json.loads(text)) == records


@pytest.mark.parametrize(
    "changes",
    [
        {"layout": "os.system"},
        {"after_cut": "eval"},
        {"refuse": "x"},
        {"blocks": 3},
        {"shrink": {"num_heads": "everything"}},
        {"rows": [{"parameter": "x", "unknown": 1}]},
        {"nonsense": ""},
    ],
)
def test_damaged_records_are_refused(changes, derived):
    entry = as_data(derived["phi3"].records[0]) | changes
    with pytest.raises(UnsupportedModelError, match=r"damaged.*derive it again"):
        records_from("phi3", [entry])


@pytest.mark.parametrize("model_type", ["resnet", "mamba"])
def test_models_without_heads_are_refused(model_type):
    with pytest.raises(UnsupportedModelError, match="no softmax in it feeds a row of heads"):
        derive(model_type)


def test_an_attention_that_no_record_can_cut_is_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match=r"self_attn cannot be cut exactly"):
        derive("diffllama")


def test_a_wrong_record_is_refuted():
    model = tiny_model("phi3")
    found = exercises(model)
    sites = sites_in(record(model, found[0]))
    candidate = candidates(model, "phi3", sites)[0]
    wrong = replace(candidate, record=replace(candidate.record, layout=fused_grouped))
    assert isinstance(prove(model, found, wrong), str)
    assert not isinstance(prove(model, found, candidate), str)


# fmt: off
REPRESENTATIVE = (
    "arcee", "aria_text", "bart", "beit", "bigbird_pegasus", "blenderbot", "camembert",
    "chameleon", "chatglm", "clip", "codegen", "cohere2", "convbert", "ctrl", "data2vec-audio",
    "dbrx", "deberta-v2", "deepseek_v3", "deit", "dinov2", "ernie", "esm", "exaone4", "falcon",
    "gemma2", "gemma3", "glm4", "gpt_bigcode", "gpt_neo", "gpt_oss", "gptj", "granite",
    "helium", "hubert", "idefics3", "internvl", "jamba", "layoutlmv3", "llama4_text", "llava",
    "m2m_100", "marian", "mbart", "minimax", "mixtral", "modernbert", "moshi", "mpnet", "mpt",
    "nemotron", "olmo2", "olmoe", "pegasus", "persimmon", "phi", "phi3", "qwen2_moe",
    "qwen3_moe", "roformer", "siglip", "smollm3", "speech_to_text", "stablelm", "starcoder2",
    "swin", "swinv2", "t5", "umt5", "videomae", "vit", "vits", "wav2vec2", "wavlm", "whisper",
    "xglm", "xlm", "zamba2",
)
# fmt: on
FAST = ("bart", "falcon", "gpt_oss", "modernbert", "t5", "vit")


def shipped():
    slow = (pytest.mark.slow,)
    names = [name for name in REPRESENTATIVE if name in shipped_records()]
    marked = [pytest.param(name, marks=() if name in FAST else slow) for name in names]
    return marked + [pytest.param(name, marks=slow) for name in sorted(ARCHITECTURES)]


@pytest.mark.parametrize("model_type", shipped())
def test_shipped_and_written_records_obey_the_laws(model_type):
    result = proven_as_written(model_type)
    assert result.difference <= TOLERANCE
    assert result.reloaded == 0.0


def test_enough_of_the_representative_types_ship():
    assert len(shipped()) >= 70
    assert set(FAST) <= set(shipped_records())


@pytest.fixture
def t5():
    return tiny_model("t5").float()


def inputs(**more):
    torch.manual_seed(3)
    ids = torch.randint(3, 90, (2, 6))
    return {"input_ids": ids, "decoder_input_ids": ids[:, :4], **more}


def test_blocks_are_numbered_through_and_labeled_by_stack(t5):
    view = HeadModel(t5)
    assert [b.label for b in view.blocks] == [
        *("encoder 0", "encoder 1", "decoder 0", "decoder 1"),
        *("decoder.cross 0", "decoder.cross 1"),
    ]


def test_an_encoder_decoder_is_scored_and_cut():
    torch.manual_seed(0)
    model = hf.T5ForConditionalGeneration(tiny_config(default_config("t5"))).eval()
    batch = inputs()
    scores = score(
        model, [batch], "taylor", loss=lambda model, out, batch: out.logits.square().mean((1, 2))
    )
    assert scores.counts == HeadModel(model).mask.counts == (6,) * 6
    assert all((row > 0).all() for row in scores.values)
    mask = HeadModel(model).mask.drop(*scores.ranking()[:4])
    with masked(model, mask), torch.no_grad():
        expected = model(**batch).logits
    with torch.no_grad():
        assert (remove_(model, mask)(**batch).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("heads", [[(0, 0), (4, 1), (5, 1)], [(0, 0), (5, 1)]])
def test_a_pass_may_leave_a_stack_out_and_is_refused_if_it_goes_around_a_hook(t5, heads):
    encoded = t5.encoder(input_ids=inputs()["input_ids"])
    attention = t5.decoder.block[1].layer[1].EncDecAttention
    with masked(t5, heads), torch.no_grad():
        t5(encoder_outputs=encoded, decoder_input_ids=inputs()["decoder_input_ids"])
        attention.o = _Plain(attention.o)
        with pytest.raises(UnsupportedModelError, match="without calling its hooks"):
            t5(**inputs())


class _Plain(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.weight = inner.weight

    def forward(self, x):
        return x @ self.weight.T


def test_the_negative_control_notices_a_wrong_cut_in_every_stack():
    model = tiny_model("bart")
    found = exercises(model)
    with known(records_named("bart")):
        mask = draw_masks(HeadModel(model), 1)[0]
        caught = wrong_cuts(HeadModel(model), found)
        assert list(caught) == FOUND["bart"]
        assert min(caught.values()) > 1e-3
        assert mask_equals_removal(model, found, [mask]) <= TOLERANCE
        with pytest.raises(ArithmeticError, match="changes no output"):
            mask_equals_removal(model, found, [HeadModel(model).mask])


def test_differences_count_shapes_and_missing_numbers():
    one, nan = torch.ones(2).double(), torch.tensor([1.0, torch.nan]).double()
    assert difference([one], [one.clone()]) == 0
    assert difference([nan], [nan.clone()]) == 0
    assert difference([one], [nan]) == float("inf")
    assert difference([one], [torch.ones(3).double()]) == float("inf")
    assert difference([one], [one + 1e-3]) == pytest.approx(1e-3)


@pytest.mark.parametrize("floor", [torch.finfo(torch.float64).min, -1e9, -torch.inf])
def test_values_for_minus_infinity_do_not_hide_a_difference(floor):
    one = torch.tensor([1.0, floor], dtype=torch.float64)
    assert difference([one], [one.clone()]) == 0
    assert difference([one], [one + torch.tensor([1e-3, 0])]) == pytest.approx(1e-3)
    assert difference([one], [torch.tensor([1.0, floor / 2 if floor > -torch.inf else 0])]) > 0.1


@pytest.mark.usefixtures("own_architectures")
def test_a_written_record_replaces_a_shipped_one():
    register_architecture(replace(records_named("vit")[0], stack="mine", derived=False))
    assert [b.label for b in HeadModel(tiny_model("vit")).blocks] == ["mine 0", "mine 1"]


def test_running_twice_gives_the_same():
    model = tiny_model("whisper")
    found = exercises(model)
    assert difference(run_exercises(model, found), run_exercises(model, found)) == 0
