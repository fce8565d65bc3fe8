"""Text of a model's own making: a second stream for repairs, beside calibration texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.batches import Batch, ready, samples_in, take_samples, valid_tokens
from deadhead.data.inputs import has_decoder
from deadhead.data.tokens import positions_of
from deadhead.losses.losses import Probe, held_out
from deadhead.models.heads import HeadModel
from deadhead.models.purpose import is_causal_lm
from deadhead.moments import BlockMoments, MomentSums
from deadhead.moments.sums import HELD_OUT_EVERY
from deadhead.scoring.passes import PassSettings, observe_all

LENGTH = 128  # tokens of a text; shorter ones leave late positions unseen
UNCACHED = 32  # of a model without a cache of keys and values
ROWS = (16, 256)  # fewest and most texts
AT_ONCE = 16  # texts; what is written does not depend on it
PLAIN = {"input_ids", "attention_mask", "token_type_ids", "labels"}  # what a text alone gives


class OwnText:
    """What a model writes itself, or texts joined into long ones, and the moments of it.

    A causal language model samples texts of `LENGTH` tokens at temperature 1, each from the first
    token of a calibration text; no text ends early. For other models of text without a decoder,
    calibration texts are joined, in random order, into ones of `LENGTH` tokens, so that late
    positions are seen; what all texts begin or end with stands at the ends alone. Either way there
    are about as many tokens as in the calibration data. Other models have none, nor have data with
    other inputs than text. All is made when it is first asked for.

    Cost: a forward pass over about as many tokens as the calibration data have; and as much again
    to write them, token by token.
    Source: self-calibration (Williams et al. 2024, arXiv 2410.17170), of which we mix a part into
    the calibration data; joining is ours.

    Args:
        view: the model, at rest or not; comes back as it was.
        data: calibration batches.
        settings: with the seed; where and in what numbers moments are summed.
        rows: how many texts to make; None: as many tokens as the data have.
    """

    def __init__(
        self,
        view: HeadModel,
        data: Iterable[Batch],
        settings: PassSettings,
        *,
        rows: int | None = None,
    ):
        self._view, self._data, self._settings, self._rows = view, data, settings, rows

    @cached_property
    def batches(self) -> list[Batch]:
        """The texts; empty if there are none."""
        model, seed = self._view.model, self._settings.seed
        writes = self.is_written
        if not writes and has_decoder(model):
            return []
        with self._view.at_rest(), torch.no_grad():
            data = list(ready(model, self._data))
            texts = [text for batch in data if _is_plain(batch) for text in _texts_in(batch)]
            if not texts or not all(map(_is_plain, data)):
                return []
            config: Any = getattr(model, "config", None)
            config = config.get_text_config() if hasattr(config, "get_text_config") else config
            most = positions_of(config) or LENGTH
            if not writes:
                return _joined(texts, min(LENGTH, most), self._rows, seed)
            return _written(model, texts, most, _ends_of(config), self._rows, seed)

    @cached_property
    def probes(self) -> list[Probe]:
        """Half of the texts that fits hold out, to compare changed models on."""
        return [
            replace(probe, batch=take_samples(probe.batch, rows))
            for probe in held_out(self.batches)
            if (rows := list(range(0, samples_in(probe.batch), 2)))
        ]

    @property
    def tokens(self) -> int:
        """How many tokens the texts have."""
        return sum(batch["input_ids"].numel() for batch in self.batches)

    @property
    def is_written(self) -> bool:
        """Whether the model writes the texts, rather than that texts are joined."""
        return is_causal_lm(self._view.model)

    @property
    def described(self) -> str:
        """What the texts are, behind a mention of calibration texts."""
        return (
            f"texts that {'the model wrote itself' if self.is_written else 'were joined of them'}"
        )

    def moments(self) -> Sequence[BlockMoments | None]:
        """Return the moments of every block; empty if there are no texts."""
        return self._moments

    @cached_property
    def _moments(self) -> Sequence[BlockMoments | None]:
        if not self.batches:
            return ()
        settings = self._settings
        where = {"device": settings.moments_device, "dtype": settings.moments_dtype}
        sums = MomentSums(self._view, **where)
        observe_all(self._view, self.batches, [sums])
        return sums.value().blocks


def _is_plain(batch: Batch) -> bool:
    """Whether a batch is of one text per sample, and of nothing else."""
    return batch.keys() <= PLAIN and "input_ids" in batch and batch["input_ids"].dim() == 2


def _texts_in(batch: Batch) -> list[Tensor]:
    """Return the token ids of each sample, without padding."""
    pairs = zip(batch["input_ids"].cpu(), valid_tokens(batch).cpu(), strict=True)
    return [ids[valid] for ids, valid in pairs]


def _ends_of(config: Any) -> list[int]:
    ends = getattr(config, "eos_token_id", None)
    return [ends] if isinstance(ends, int) else list(ends or ())


def _rows(texts: Sequence[Tensor], cost: float) -> int:
    """Return how many texts to make, of so many tokens to run each."""
    return min(max(math.ceil(sum(map(len, texts)) / cost), ROWS[0]), ROWS[1])


def _joined(texts: Sequence[Tensor], length: int, rows: int | None, seed: int) -> list[Batch]:
    """Join texts into ones of `length` tokens; those held out of fits are of texts held out."""
    generator = torch.Generator().manual_seed(seed)
    first, last = (
        texts[0][end : end + 1 or None] if len({int(t[end]) for t in texts}) == 1 else texts[0][:0]
        for end in (0, -1)
    )
    inner = [t[len(first) : len(t) - len(last)] for t in texts]
    inner = [t for t in inner if len(t)] or [texts[0]]
    held = inner[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] or inner
    fitting = [t for i, t in enumerate(inner) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    made, room = [], max(1, length - len(first) - len(last))
    for row in range(rows or _rows(texts, length)):
        pool = held if row % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else fitting
        parts: list[Tensor] = []
        while sum(map(len, parts)) < room:
            order = torch.randperm(len(pool), generator=generator).tolist()
            parts += [pool[i] for i in order[: math.ceil(room / 2)]]
        made.append(torch.cat([first, torch.cat(parts)[:room], last]))
    ids = torch.stack(made).split(AT_ONCE)
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]


def _written(
    model: nn.Module,
    texts: Sequence[Tensor],
    most: int,
    ends: Sequence[int],
    rows: int | None,
    seed: int,
) -> list[Batch]:
    """Sample texts; none if the model cannot go on from a first token."""
    firsts = torch.stack([text[:1] for text in texts])
    device = next(model.parameters()).device
    for cached, length in ((True, min(LENGTH, most)), (False, min(UNCACHED, most))):
        number = rows or _rows(texts, length if cached else length**2 / 2)
        starts = firsts[torch.arange(number) * len(firsts) // number].to(device)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(number, length, generator=generator, dtype=torch.float64)
        try:
            return [
                _sampled(model, start, chosen, ends, cached=cached)
                for start, chosen in zip(starts.split(AT_ONCE), draws.split(AT_ONCE), strict=True)
            ]
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
            continue  # it takes or returns no cache of this kind, or other inputs too
    return []


def _sampled(
    model: nn.Module, ids: Tensor, draws: Tensor, ends: Sequence[int], *, cached: bool
) -> Batch:
    """Write a batch of texts token by token; each number of `draws`, in [0, 1), picks a token."""
    past = None
    for column in draws.T[1:]:
        given: dict[str, Any] = {"input_ids": ids if past is None else ids[:, -1:]}
        given["attention_mask"] = torch.ones_like(ids)
        if cached:
            given |= {"use_cache": True, "past_key_values": past}
        outputs = model(**given)
        if cached:
            past = outputs.past_key_values
            if past is None:
                raise ValueError("no cache")
        logits = outputs.logits[:, -1].float().cpu().double()
        logits[:, [token for token in ends if token < logits.shape[1]]] = -math.inf
        below = logits.softmax(-1).cumsum(-1)
        if not below[:, -1].isfinite().all():
            raise ValueError("not finite")
        chosen = torch.searchsorted(below, (column * below[:, -1])[:, None])
        ids = torch.cat([ids, chosen.clamp(max=below.shape[1] - 1).to(ids)], dim=1)
    return {"input_ids": ids.cpu(), "attention_mask": torch.ones_like(ids).cpu()}
