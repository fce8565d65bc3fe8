"""Padding for classifiers that read a text's last token, and whose config names no padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from deadhead.data.inputs import Batch


@contextmanager
def padding_named(model: nn.Module, batch: Batch) -> Iterator[Batch]:
    """Yield a batch whose padding a decoder's classifier can tell from text, and tell it how.

    Such models classify by the last token that is not `pad_token_id` of their config, and refuse
    several texts where it is not set. A token that none of the texts ends with is one: the last
    token of each is then found as if it were alone. The tokenizer's padding token goes first; the
    usual way out, its end-of-sequence token, would skip the last token of texts that end with it.
    The config is as it was afterwards.
    """
    config = _config_without_padding(model)
    ids, mask = batch.get("input_ids"), batch.get("attention_mask")
    if config is None or ids is None or ids.dim() != 2 or len(ids) < 2:
        yield batch
        return
    if mask is None:
        mask = torch.ones_like(ids)
    places = torch.arange(ids.shape[1], device=ids.device)
    ends = ids.gather(1, (places * (mask != 0)).argmax(1, keepdim=True)).flatten().tolist()
    padded = ids[mask == 0]
    candidates = [*padded[:1].tolist(), *range(len(ids) + 1)]
    token = next(token for token in candidates if token not in ends)
    before = vars(config).get("pad_token_id")
    own = "pad_token_id" in vars(config)
    config.pad_token_id = token
    try:
        yield {**batch, "input_ids": ids.masked_fill(mask == 0, token)}
    finally:
        if own:
            config.pad_token_id = before
        else:
            del config.pad_token_id


def _config_without_padding(model: nn.Module) -> Any:
    """Return the config that a classifier reads its padding token off, if it has none."""
    config: Any = getattr(model, "config", None)
    if config is None or "ForSequenceClassification" not in type(model).__name__:
        return None
    texts = config.get_text_config() if hasattr(config, "get_text_config") else config
    known = getattr(texts, "pad_token_id", None)
    return texts if known is None or known < 0 else None
