"""A tokenizer of whole words: w2, w3, ... are the tokens 2, 3, ... of the tiny models."""

from __future__ import annotations

import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from models import VOCAB


def tokenizer() -> hf.PreTrainedTokenizerFast:
    """Make it; nothing is put around a text."""
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, VOCAB)}}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=40
    )
