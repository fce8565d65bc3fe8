"""Attention maps of chosen heads on one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deadhead.checkpoints import Loaded
from deadhead.data.batches import call, to_device
from deadhead.data.tokens import context_length
from deadhead.display import Brief
from deadhead.errors import DataError, HeadError, ScoreError
from deadhead.models.heads import HeadModel
from deadhead.models.maps import hook_maps
from deadhead.runs.settings import need_tokenizer
from deadhead.types import Head


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMaps(Brief):
    """What heads attend to in one text.

    Attributes:
        text, tokens: the text and its tokens, special ones included.
        names: of each map: the head, and where its block is applied several times, which time.
        maps: (query, key) each, float64; every row sums to 1.
    """

    text: str
    tokens: tuple[str, ...]
    names: tuple[str, ...]
    maps: tuple[np.ndarray, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        maps = {name: map_.tolist() for name, map_ in zip(self.names, self.maps, strict=True)}
        return {"text": self.text, "tokens": list(self.tokens), "maps": maps}


def parse_heads(text: str) -> tuple[Head, ...]:
    """Read `0.1,2.3`; a head that is named twice is one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise HeadError(f"{text!r} names no head; write block.index, as in 0.1,2.3")
    return tuple(dict.fromkeys(Head.parse(name) for name in names))


def attention_maps(loaded: Loaded, text: str, heads: Sequence[Head]) -> AttentionMaps:
    """Run a text once and keep the attention maps of some heads.

    The text is tokenized as the tokenizer does by itself, with its special tokens.

    Cost: one forward pass; one block's maps in memory at a time, and those asked for.

    Raises:
        HeadError: the model has no such head, or has lost it.
        DataError: the text is blank, of one token, or longer than the model's context.
        ScoreError: a map is not finite.
    """
    view = HeadModel(loaded.model)
    for head in heads:
        if not view.mask.keeps(head):
            raise HeadError(
                f"head {head} has been cut out of {loaded.name!r}; look at one that it still has"
            )
    encoded = _encode(loaded, text)
    found: dict[Head, list[np.ndarray]] = {head: [] for head in heads}

    def keep(block: int, rows: slice, maps: Tensor, visible: Tensor | None) -> None:
        for head in heads:
            if head.block == block:
                at = view.blocks[block].position(head.index)
                found[head].append(maps[0, at].double().cpu().numpy())

    with view.at_rest(), hook_maps(view, keep), torch.no_grad():
        call(getattr(view.model, "base_model", view.model), to_device(encoded, view.device))
    names, maps = [], []
    for head, applied in found.items():
        for time, weights in enumerate(applied, 1):
            if not np.isfinite(weights).all():
                raise ScoreError(
                    f"the attention map of head {head} is not finite; compute with --dtype float32"
                )
            names.append(str(head) if len(applied) == 1 else f"{head}, time {time}")
            maps.append(weights)
    tokens = _tokens(loaded.tokenizer, encoded["input_ids"][0].tolist())
    return AttentionMaps(text, tokens, tuple(names), tuple(maps))


def _encode(loaded: Loaded, text: str) -> dict[str, Tensor]:
    need_tokenizer(loaded.tokenizer)
    limit = context_length(loaded.tokenizer, loaded.model.config)
    encoded = dict(loaded.tokenizer(text, return_tensors="pt", verbose=False))
    n = encoded["input_ids"].shape[1]
    if not text.strip() or n < 2 or n > (limit or n):
        raise DataError(
            f"the text {text!r:.80} has {n} token{'s' * (n != 1)}; give a sentence of 2 tokens or"
            f" more{f', and {limit} at most' if limit else ''}"
        )
    return encoded


def _tokens(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return tokens as people write them; those that are no text of their own, as they are."""
    raw = tokenizer.convert_ids_to_tokens(ids)
    texts = [tokenizer.decode([i]).strip() for i in ids]
    return tuple(
        text if text and "\ufffd" not in text else str(token)
        for text, token in zip(texts, raw, strict=True)
    )
