"""Images and waves with a signal, and tiny models of them that a few steps can teach it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from torch import nn

COLORS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (220, 50, 40)}
SIDE, RATE = 16, 8000
LETTERS = "abc"
TONES = {"a": 400.0, "b": 900.0, "c": 1700.0, " ": 3000.0}
TONE = 640  # samples


def paint(color, state) -> np.ndarray:
    """Make a noisy image of a color."""
    noise = state.normal(0, 40, (SIDE, SIDE, 3))
    return np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)


def images(folder: Path, per_class: int = 12, *, seed: int = 0, names=tuple(COLORS)) -> Path:
    """Write a folder per class."""
    from PIL import Image

    state = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            Image.fromarray(paint(name, state)).save(folder / name / f"{number}.png")
    return folder


def wave(text: str, state, *, rate: int = RATE) -> np.ndarray:
    """Say a text: a tone for each letter."""
    size = TONE * rate // RATE
    time = np.arange(size) / rate
    fade = np.hanning(size)
    parts = [fade * np.sin(2 * np.pi * TONES[letter] * time) for letter in text]
    return np.concatenate(parts) + state.normal(0, 0.01, size * len(text))


def sounds(folder: Path, count: int = 24, *, seed: int = 0, rate: int = RATE) -> Path:
    """Write recordings and metadata.csv, which names them and their texts."""
    import soundfile

    state = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file_name,transcription"]
    for number in range(count):
        words = ["".join(state.choice(list(LETTERS), state.integers(2, 4))) for _ in range(2)]
        text = " ".join(words)
        kind = "flac" if number % 2 else "wav"
        soundfile.write(folder / f"{number}.{kind}", wave(text, state, rate=rate), rate)
        lines.append(f"{number}.{kind},{text}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def taught(model: nn.Module, batches, *, steps: int, rate: float = 2e-3) -> nn.Module:
    """Fit a model to batches with labels."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        loss = model(**batches[step % len(batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def vit() -> tuple[nn.Module, hf.PreTrainedModel]:
    """A ViT of 2 blocks with 4 heads, and its image processor."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    names = dict(enumerate(COLORS))
    config = hf.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        image_size=SIDE,
        patch_size=8,
        id2label=names,
        label2id={name: number for number, name in names.items()},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return hf.ViTForImageClassification(config), processor


def letters(folder: Path) -> hf.Wav2Vec2CTCTokenizer:
    """A tokenizer of single letters."""
    known = ["<pad>", "<unk>", "|", *LETTERS]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "vocab.json"
    file.write_text(json.dumps({token: number for number, token in enumerate(known)}))
    tokens = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": None, "eos_token": None}
    return hf.Wav2Vec2CTCTokenizer(str(file), **tokens)


def wav2vec2(folder: Path, *, norm: str = "layer") -> tuple[nn.Module, hf.ProcessorMixin]:
    """A Wav2Vec2 of 2 blocks for CTC, and its processor."""
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(
        vocab_size=6,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        conv_dim=(32, 32),
        conv_kernel=(20, 8),
        conv_stride=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        pad_token_id=0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.0,
        apply_spec_augment=False,
        ctc_loss_reduction="mean",
    )
    extractor = hf.Wav2Vec2FeatureExtractor(
        sampling_rate=RATE, return_attention_mask=norm == "layer", do_normalize=True
    )
    processor = hf.Wav2Vec2Processor(extractor, letters(folder))
    return hf.Wav2Vec2ForCTC(config), processor


def whisper() -> tuple[nn.Module, hf.ProcessorMixin]:
    """A Whisper of 2 + 2 blocks for recordings of one second, and its processor."""
    torch.manual_seed(0)
    ends = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {token: number for number, token in enumerate([*LETTERS, "Ġ", *ends])}
    tokenizer = hf.WhisperTokenizer(
        vocab=vocabulary,
        merges=[],
        bos_token=ends[1],
        eos_token=ends[0],
        unk_token=ends[0],
        additional_special_tokens=ends[2:],
    )
    config = hf.WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=16,
        max_source_positions=50,
        max_target_positions=40,
        pad_token_id=vocabulary[ends[0]],
        bos_token_id=vocabulary[ends[1]],
        eos_token_id=vocabulary[ends[0]],
        decoder_start_token_id=vocabulary[ends[1]],
        dropout=0.0,
    )
    extractor = hf.WhisperFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=80, chunk_length=1, n_fft=400
    )
    model = hf.WhisperForConditionalGeneration(config)
    model.generation_config.forced_decoder_ids = None
    return model, hf.WhisperProcessor(extractor, tokenizer)


def clip() -> tuple[nn.Module, hf.ProcessorMixin]:
    """A CLIP of 2 + 2 blocks that knows the words of its prompts, and its processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    words = ["<unk>", "<pad>", "<start>", "<end>", "a", "photo", "of", *COLORS]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=8,
    )
    shared = {
        "hidden_size": 24,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {
        "vocab_size": len(words),
        "max_position_embeddings": 8,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = hf.CLIPConfig(
        text_config={**shared, **text},
        vision_config={**shared, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return hf.CLIPModel(config), hf.CLIPProcessor(images, tokenizer)
