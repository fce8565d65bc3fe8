"""A tokenizer of a few words, tiny random models in float64, and the paths of real data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ["a", "the", "cat", "dog", "cats", "dogs", "sees", "see", "sleeps", "sleep", "good", "bad"]
WORDS += ["very", "big", "small", "and", "not"]
SHARED = Path(__file__).parents[2].parent / "shared"


def make_tokenizer(*, bos: bool = True, bert: bool = False) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>"]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bert:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="<s>" if bos else None,
        model_input_names=names if bert else names[::2],
    )


def sentences(n: int, seed: int = 0, longest: int = 12) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, longest + 1))) for _ in range(n)]


def bert_config(labels: int = 3, **more) -> BertConfig:
    return BertConfig(
        vocab_size=22,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        num_labels=labels,
        initializer_range=0.5,
        **more,
    )


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    # tiny models gain nothing from more, and lose much where cores are shared
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(bert_config()).double().train()


@pytest.fixture(scope="session")
def opt():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=22,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=16,
        word_embed_proj_dim=16,
        max_position_embeddings=40,
        pad_token_id=0,
        bos_token_id=4,
        init_std=0.5,
    )
    return OPTForCausalLM(config).double().train()


@pytest.fixture(scope="session")
def bert_tokenizer():
    return make_tokenizer(bert=True)


@pytest.fixture(scope="session", params=[True, False], ids=["bos", "no_bos"])
def lm_tokenizer(request):
    return make_tokenizer(bos=request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("real models and data are not in ../shared")
    return SHARED
