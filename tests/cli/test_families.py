"""Ten families, made tiny and saved: checked, pruned on texts, loaded plainly, and used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from deadhead.derivation.tiny import build, randomize_constants_, tiny_config

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_architectures")]
TEXT = {
    "t5": ("T5ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
    "mixtral": ("MixtralForCausalLM", "AutoModelForCausalLM"),
    "gemma3": ("Gemma3ForConditionalGeneration", "AutoModelForImageTextToText"),
    "phi3": ("Phi3ForCausalLM", "AutoModelForCausalLM"),
    "deberta-v2": ("DebertaV2ForSequenceClassification", "AutoModelForSequenceClassification"),
    "gpt_oss": ("GptOssForCausalLM", "AutoModelForCausalLM"),
    "modernbert": ("ModernBertForMaskedLM", "AutoModelForMaskedLM"),
}
OTHERS = {
    "whisper": "WhisperForConditionalGeneration",
    "vit": "ViTForImageClassification",
    "clip": "CLIPModel",
}
USE = """
import sys, torch, deadhead, transformers
folder, auto = sys.argv[1:]
model = getattr(transformers, auto).from_pretrained(folder).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(["7 8 9", "4 5 6 7 8"], padding=True, return_tensors="pt")
if model.can_generate():
    print(model.generate(**inputs, max_new_tokens=3, min_new_tokens=3).shape[0])
else:
    print(model(**inputs).logits.shape[0])
"""


def save(name, kind, folder):
    """Make a tiny random model of a class and save it with a tokenizer of a hundred words."""
    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[EOS]", *map(str, range(90))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = tiny_config(hf.AutoConfig.for_model(name))
    for part in (config, config.get_text_config()):
        part.pad_token_id, part.eos_token_id = 0, 2
        part.decoder_start_token_id = 0 if part.is_encoder_decoder else None
    torch.manual_seed(0)
    model = build(getattr(hf, kind), config, torch.float32)
    randomize_constants_(model)
    model.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXT, *OTHERS])
def test_check_says_exact(name, deadhead, tmp_path):
    save(name, TEXT[name][0] if name in TEXT else OTHERS[name], tmp_path / "model")
    result = deadhead("check", "model", "--json")
    laws = {law["law"]: law for law in result.json["laws"]}
    assert result.code == 0, laws
    assert laws["saved and loaded"]["status"] == "passed"
    if name not in ("deberta-v2", "vit", "clip", "modernbert"):
        assert laws["cached == uncached"]["status"] == "passed"
    kept = result.json["kept_whole"]  # the pooling head of SigLIP, for one
    assert result.json["verdict"] == "exact" or (name, len(kept)) == ("gemma3", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
def test_a_family_is_pruned_on_texts_and_used_in_a_new_process(name, deadhead, tmp_path):
    kind, auto = TEXT[name]
    save(name, kind, tmp_path / "model")
    lines = (" ".join(str((7 * row + word) % 90) for word in range(8)) for row in range(60))
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    asked = ("--calibration", "texts.txt", "--calibration-size", "24", "--heads", "30%")
    if name == "gemma3":  # texts say nothing of its image tower
        asked = (*asked[:-1], "25%", "--sites", "language")
    result = deadhead("prune", "model", *asked, "--no-speed", "-o", "run", "--json")
    assert result.code == 0, result.err
    heads = result.json["heads"]
    assert heads["after"] < heads["before"]
    arguments = [sys.executable, "-c", USE, str(tmp_path / "run" / "model"), auto]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout.strip() == "2", done.stderr[-2000:]
