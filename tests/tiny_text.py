"""Tiny random models of every head of text, a tokenizer that knows every letter, and their data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "cat", "dog", "sees", "sleeps", "big", "red", "in", "Paris", "Rome", "Ann"]
WORDS += ["Bob", "who", "where", "is", "and", "house", "tree", "small"]
LETTERS = [*ascii_letters, *digits, *".,?:"]
VOCAB = SPECIAL + WORDS + LETTERS + [f"##{letter}" for letter in LETTERS]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def make_tokenizer(*, segments: bool = True, side: str = "right") -> hf.PreTrainedTokenizerFast:
    """Make a tokenizer of whole words and letters, with special tokens as BERT has them."""
    tokens = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(VOCAB)}, unk_token="[UNK]")  # type: ignore
    )
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.decoder = decoders.WordPiece()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="[SEP]",
        padding_side=side,
        model_input_names=names if segments else names[::2],
    )


_BASE = {"vocab_size": len(VOCAB), "pad_token_id": 0}
_DECODES = {"decoder_start_token_id": 0, "eos_token_id": 3, "bos_token_id": 2}
_BERT = {
    **_BASE,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "Bert": lambda **more: hf.BertConfig(**_BERT, **more),
    "Electra": lambda **more: hf.ElectraConfig(**_BERT, embedding_size=24, **more),
    "DistilBert": lambda **more: hf.DistilBertConfig(
        **_BASE, dim=24, n_layers=2, n_heads=4, hidden_dim=32, max_position_embeddings=64, **more
    ),
    "GPT2": lambda **more: hf.GPT2Config(
        **_BASE, n_embd=24, n_layer=2, n_head=4, n_positions=64, eos_token_id=3, **more
    ),
    "Llama": lambda **more: hf.LlamaConfig(
        **{**_BERT, "pad_token_id": None}, eos_token_id=3, bos_token_id=2, **more
    ),
    "T5": lambda **more: hf.T5Config(
        **_BASE, **_DECODES, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4, **more
    ),
    "Bart": lambda **more: hf.BartConfig(
        **_BASE,
        **_DECODES,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        forced_eos_token_id=None,
        **more,
    ),
}


def _named(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


# kind: (what follows the family in the class, options of the config, families)
HEADS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "classification": ("ForSequenceClassification", {"num_labels": 2}, ("Bert", "Llama")),
    "regression": ("ForSequenceClassification", {"num_labels": 1}, ("Bert", "Llama")),
    "multi_label": (
        "ForSequenceClassification",
        {"problem_type": "multi_label_classification", **_named(["cat", "dog", "red"])},
        ("DistilBert", "GPT2"),
    ),
    "token_classification": ("ForTokenClassification", _named(TAGS), ("Bert", "GPT2")),
    "question_answering": ("ForQuestionAnswering", {}, ("Bert", "DistilBert")),
    "masked_lm": ("ForMaskedLM", {}, ("Bert", "DistilBert")),
    "multiple_choice": ("ForMultipleChoice", {}, ("Bert", "Electra")),
    "seq2seq": ("ForConditionalGeneration", {}, ("T5", "Bart")),
}
CASES = [(kind, family) for kind, (_, _, families) in HEADS.items() for family in families]


def make_model(kind: str, family: str, *, dtype: torch.dtype = torch.float32) -> Any:
    """Make a random model whose head is of a kind of task."""
    head, options, _ = HEADS[kind]
    torch.manual_seed(0)
    return getattr(hf, family + head)(CONFIGS[family](**options)).to(dtype).eval()


def _sentences(n: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [list(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(n)]


def _tag(word: str) -> str:
    return {"Ann": "B-PER", "Bob": "I-PER", "Paris": "B-LOC", "Rome": "B-LOC"}.get(word, "O")


def rows_of(kind: str, n: int = 24) -> list[dict[str, Any]]:
    """Make rows for a kind of task, of which a model can learn something."""
    rows: list[dict[str, Any]] = []
    for number, words in enumerate(_sentences(n)):
        text, cats = " ".join(words), sum(word in ("cat", "dog") for word in words)
        if kind == "classification":
            rows.append({"sentence": f"{text} {number}", "label": int(cats > 0)})
        elif kind == "regression":
            rows.append({"sentence1": text, "sentence2": f"the {number}", "score": cats + 0.5})
        elif kind == "multi_label":
            named = [name for name in ("cat", "dog", "red") if name in words]
            rows.append({"text": f"{text} {number}", "labels": named})
        elif kind == "token_classification":
            words = [*words, "Ann", "Bob", f"x{number}"]
            rows.append({"tokens": words, "ner_tags": [_tag(word) for word in words]})
        elif kind == "question_answering":
            context = f"{text} {number}. Ann sees Rome"
            place, where = ("Ann", "who") if number % 2 else ("Rome", "where")
            answers = {"text": [place], "answer_start": [context.rindex(place)]}
            rows.append({"question": f"{where} is it?", "context": context, "answers": answers})
        elif kind == "masked_lm":
            rows.append({"text": f"the cat sees the {words[0]} {number}"})
        elif kind == "multiple_choice":
            endings = ["red", "big", "small"]
            right = endings.index("red") if number % 2 else 2
            endings[right], endings[number % 3] = endings[number % 3], "cat"
            row = {"sent1": text, "sent2": f"a {number}"}
            row |= {f"ending{i}": ending for i, ending in enumerate(endings)}
            rows.append({**row, "label": number % 3})
        else:
            rows.append({"source": f"{text} {number}", "target": " ".join(words[:2])})
    return rows


def save(folder: Path, kind: str, family: str) -> tuple[Path, Path]:
    """Write a model with its tokenizer, and data that repeat no row; return their paths."""
    model, tokenizer = make_model(kind, family), make_tokenizer(segments=family == "Bert")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows_of(kind))))
    return folder / "model", data
