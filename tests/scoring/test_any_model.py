"""Images, sound and encoder-decoders are scored and pruned on plain batches, without a task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import deadhead
from deadhead import HeadModel, score
from deadhead.derivation.derive import derive
from deadhead.derivation.tiny import build, default_config, randomize_constants_, tiny_config
from deadhead.errors import DataError, UnsupportedModelError
from deadhead.losses.losses import task
from deadhead.models.architectures import ARCHITECTURES, register_architecture
from deadhead.scoring import Scorer

pytestmark = pytest.mark.filterwarnings("ignore")  # defaults of transformers that warn
SAMPLES = 8
CLASSES = {
    "vit": "ViTForImageClassification",
    "swin": "SwinForImageClassification",
    "clip": "CLIPModel",
    "whisper": "WhisperForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "wav2vec2": "Wav2Vec2ForCTC",
    "llava": "LlavaForConditionalGeneration",
}


def made(name):
    config = default_config(name)
    register_architecture(*derive(config).records)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(getattr(transformers, CLASSES[name]), tiny_config(config), torch.float64)
        randomize_constants_(model)
    return model.eval()


def inputs_of(name, model):
    state = torch.Generator().manual_seed(3)

    def floats(*shape):
        return torch.randn(SAMPLES, *shape, generator=state, dtype=torch.float64)

    def tokens(length):
        return torch.randint(3, 90, (SAMPLES, length), generator=state)

    lengths = torch.tensor([9, 7, 5, 9, 3, 9, 9, 8])
    text = {
        "input_ids": tokens(9),
        "attention_mask": (torch.arange(9) < lengths[:, None]).long(),
    }
    if name in ("vit", "swin"):
        return {"pixel_values": floats(3, model.config.image_size, model.config.image_size)}
    if name == "clip":
        side = model.config.vision_config.image_size
        return {**text, "pixel_values": floats(3, side, side)}
    if name == "whisper":
        frames = 2 * model.config.max_source_positions
        return {"input_features": floats(16, frames), "decoder_input_ids": tokens(6)}
    if name == "wav2vec2":
        mask = (torch.arange(4000) < 400 * lengths[:, None]).long()
        return {"input_values": floats(4000) * mask, "attention_mask": mask}
    if name == "llava":
        return text
    labels = tokens(6)
    labels[2, 4:] = -100
    return {**text, "labels": labels}


@pytest.fixture(scope="module", params=CLASSES)
def given(request):
    with ARCHITECTURES.restored():
        model = made(request.param)
        yield request.param, model, inputs_of(request.param, model)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_task_loss_of_speech_is_the_models_own(reduction):
    model = made("wav2vec2")
    model.config.ctc_loss_reduction = reduction
    inputs = inputs_of("wav2vec2", model)
    labels = torch.randint(3, 30, (SAMPLES, 2))
    labels[1, 1] = -100
    inputs = {**inputs, "labels": labels}
    with torch.no_grad():
        found = task(model, deadhead.data.batches.call(model, inputs), inputs)
        for row in range(SAMPLES):
            one = {k: v[row : row + 1] for k, v in inputs.items()}
            assert float(found[row]) == pytest.approx(float(model(**one).loss), rel=1e-6)


@pytest.mark.parametrize("criterion", ["reconstruction", "fisher", "gradient_norm", "ablation"])
def test_scores_do_not_depend_on_the_batches(given, criterion):
    name, model, inputs = given
    if name in ("llava", "wav2vec2") and criterion == "gradient_norm":
        pytest.skip("covered by the other types")
    loss = None if criterion == "reconstruction" else "kl"
    parts = [{k: v[:5] for k, v in inputs.items()}, {k: v[5:] for k, v in inputs.items()}]
    found = score(model, [inputs], criterion, loss=loss)
    again = score(model, parts, criterion, loss=loss)
    for block, one, two in zip(HeadModel(model).blocks, found.values, again.values, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12)
        assert np.isnan(one).all() == ("vision" in block.record.stack and name == "llava")
        assert not (one == 0).any()


def test_a_model_is_pruned_on_plain_batches(given):
    name, model, inputs = given
    heads = 2 if name == "llava" else 0.25
    result = deadhead.prune(model, [inputs] * 2, heads=heads)
    stacks = {HeadModel(model).blocks[h.block].record.stack for h in result.plan.mask.dropped}
    assert result.plan.mask.dropped
    assert not any("vision" in stack for stack in stacks if name == "llava")


def test_heads_that_no_batch_runs_are_kept_and_named():
    model = made("llava")
    scorer = Scorer(model, [inputs_of("llava", model)], "fisher", loss="kl")
    assert np.isnan(np.concatenate(scorer().values)).any()
    assert len(scorer.notes) == 1
    assert "not scored and kept whole, as no batch runs them" in scorer.notes[0]
    assert "\n" not in scorer.notes[0]


@pytest.mark.parametrize("name", ["t5", "bart", "whisper"])
def test_the_task_loss_of_an_encoder_decoder_is_the_models_own(name):
    model = made(name)
    inputs = inputs_of(name, model)
    labels = inputs.get("labels", torch.randint(3, 90, (SAMPLES, 6)))
    inputs = {k: v for k, v in inputs.items() if k != "decoder_input_ids"} | {"labels": labels}
    model.config.decoder_start_token_id = 3
    model.config.pad_token_id = 0
    with torch.no_grad():
        found = task(model, deadhead.data.batches.call(model, inputs), inputs)
        for row in range(SAMPLES):
            one = {k: v[row : row + 1] for k, v in inputs.items()}
            assert float(found[row]) == pytest.approx(float(model(**one).loss), rel=1e-9)


@pytest.mark.parametrize("name", ["t5", "whisper"])
def test_a_decoder_without_input_reads_the_text_or_its_first_token(name):
    model = made(name)
    left_out = ("labels", "decoder_input_ids")
    inputs = {k: v for k, v in inputs_of(name, model).items() if k not in left_out}
    assert np.isfinite(np.concatenate(score(model, [inputs], "fisher", loss="kl").values)).all()


def test_inputs_of_unlike_numbers_are_refused():
    model = made("vit")
    wrong = {"pixel_values": torch.zeros(2, 3, 16, 16), "input_values": torch.zeros(3, 9)}
    with pytest.raises(DataError, match="2 pixel_values and 3 input_values"):
        score(model, [wrong], "fisher")
    with pytest.raises(DataError, match="give a dictionary"):
        score(model, [{"attention_mask": torch.ones(2, 3)}], "fisher")


def test_rows_that_are_of_no_sample_are_refused():
    view = HeadModel(made("vit"))
    gates = [torch.ones(3, 6) for _ in view.blocks]
    message = "mixes the samples of a batch .2 rows of tokens for 3 samples"
    with pytest.raises(UnsupportedModelError, match=message), view.gated(gates):
        view.model(torch.zeros(2, 3, 16, 16, dtype=torch.float64))
