"""Tiny random models, one maker per supported model type. Weights are drawn with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

VOCAB = 40
_SIZES: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": 0}
_BERT = {
    **_SIZES,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
}
_LLAMA = {
    **_SIZES,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**_BERT),
    "roberta": lambda: hf.RobertaConfig(**_BERT),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(**_BERT),
    "albert": lambda: hf.AlbertConfig(**_BERT, embedding_size=16, num_hidden_groups=2),
    "distilbert": lambda: hf.DistilBertConfig(
        **_SIZES, dim=24, n_layers=3, n_heads=6, hidden_dim=20, max_position_embeddings=40
    ),
    "electra": lambda: hf.ElectraConfig(**_BERT, embedding_size=16),
    "gpt2": lambda: hf.GPT2Config(**_SIZES, n_embd=24, n_layer=3, n_head=6, n_positions=40),
    "opt": lambda: hf.OPTConfig(
        **_SIZES,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=6,
        ffn_dim=20,
        max_position_embeddings=40,
        word_embed_proj_dim=24,
    ),
    "bloom": lambda: hf.BloomConfig(**_SIZES, hidden_size=24, n_layer=3, n_head=6),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**_BERT, rotary_pct=0.5),
    "llama": lambda: hf.LlamaConfig(**_LLAMA, attention_bias=True),
    # transformers itself gives NaN where a padding query sees only padding in its window
    "mistral": lambda: hf.MistralConfig(**_LLAMA, sliding_window=8),
    "qwen2": lambda: hf.Qwen2Config(**{k: v for k, v in _LLAMA.items() if k != "head_dim"}),
    "qwen3": lambda: hf.Qwen3Config(**_LLAMA),
}
MODEL_TYPES = tuple(CONFIGS)
DECODERS = ("gpt2", "opt", "bloom", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
BACKENDS = ("eager", "sdpa")
AUTO = {
    "base": hf.AutoModel,
    "classification": hf.AutoModelForSequenceClassification,
    "masked_lm": hf.AutoModelForMaskedLM,
    "causal_lm": hf.AutoModelForCausalLM,
}


def kinds_of(model_type: str) -> tuple[str, ...]:
    """The auto classes a model type is tested with."""
    return ("base", "classification", "causal_lm" if model_type in DECODERS else "masked_lm")


def make(
    model_type: str,
    kind: str = "classification",
    *,
    backend: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> nn.Module:
    """Make a random model whose heads all matter (weights far from zero, biases too)."""
    torch.manual_seed(seed)
    config = CONFIGS[model_type]()
    if kind == "classification":
        config.num_labels = 3
    if model_type == "bloom":
        backend = "eager"  # BLOOM has no other
    model = AUTO[kind].from_config(config, attn_implementation=backend, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def batch(
    lengths: tuple[int, ...] = (9, 6, 4), *, seed: int = 1, padding_side: str = "right"
) -> dict[str, torch.Tensor]:
    """Make a padded batch of random tokens with class labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        tokens = torch.randint(3, VOCAB, (n,), generator=generator)
        where = slice(0, n) if padding_side == "right" else slice(max(lengths) - n, None)
        ids[row, where] = tokens
        mask[row, where] = 1
    labels = torch.randint(0, 3, (len(lengths),), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def outputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (or last hidden state) of the real tokens."""
    with torch.no_grad():
        out = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    first = out.logits if hasattr(out, "logits") else out[0]
    return first[inputs["attention_mask"].bool()] if first.dim() == 3 else first
