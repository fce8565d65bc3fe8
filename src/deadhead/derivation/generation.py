"""The law of generation: with and without a cache, cut and masked models write the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.auto import modeling_auto

from deadhead.derivation.exercises import Exercise
from deadhead.derivation.laws import difference, draw_masks, exact
from deadhead.derivation.results import NotApplicable, Refuted
from deadhead.derivation.tiny import build, randomize_constants_
from deadhead.errors import UnsupportedModelError
from deadhead.models.heads import HeadModel
from deadhead.surgery.mask import masked
from deadhead.surgery.remove import remove_
from deadhead.types import PruningPlan

GENERATE = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",
)
NEW_TOKENS = 5
PADDING = 3  # on the left, of the first of two samples
CLOSE_LOGITS = 1e-8  # relative: the sums of a cache are rounded in another order

Written = tuple[Tensor, Tensor]  # tokens, logits


def cached_generation(model: PreTrainedModel, exercises: Sequence[Exercise]) -> str:
    """Compare greedy generation of a cut model with and without a cache, and that of a masked one.

    Where the uncut model's own cache changes what it writes, the law says nothing.
    """
    dense = _generator(model)
    try:
        view = HeadModel(dense)
    except UnsupportedModelError as error:
        reason = f"{type(dense).__name__}, which generates, has none of its stacks"
        raise NotApplicable(reason) from error
    inputs = _inputs(dense, exercises)
    try:
        expected, own = (_written(dense, inputs, cache=cache) for cache in (False, True))
    except Exception as error:  # each type refuses in its own way to generate
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise NotApplicable(f"the uncut tiny model does not generate ({reason})") from error
    if _off(expected, own) > CLOSE_LOGITS:
        raise NotApplicable("the uncut model writes something else with its cache than without")
    mask = draw_masks(view, 2, seed=3)[1]
    with masked(view, mask):
        silent = _written(dense, inputs, cache=True)
    cut = remove_(copy.deepcopy(dense), PruningPlan(mask, gqa="equalize"))
    cached, plain = (_written(cut, inputs, cache=cache) for cache in (True, False))
    worst = 0.0
    for what, other in (("without a cache", plain), ("masked", silent)):
        off = _off(cached, other)
        if off > CLOSE_LOGITS:
            raise Refuted(f"the cut model with a cache and the model {what} differ by {off:.1e}")
        worst = max(worst, off)
    padded = ", left padding" if "attention_mask" in inputs else ""
    return f"{NEW_TOKENS} tokens{padded}, largest difference {worst:.0e}"


def _generator(model: PreTrainedModel) -> Any:
    """Build the tiny model that generates, of the same config."""
    config: Any = model.config
    both = bool(getattr(config, "is_encoder_decoder", False))
    for name in sorted(GENERATE, key=lambda n: both and "SEQ" not in n):
        mapping = getattr(modeling_auto, name, None)
        if mapping is None or type(config) not in mapping.keys():  # noqa: SIM118 - lazy mapping
            continue
        found = mapping[type(config)]
        found = found[0] if isinstance(found, (tuple, list)) else found
        if not hasattr(found, "generate"):
            continue
        config = copy.deepcopy(config)
        if getattr(config, "is_decoder", None) is False and not both:
            config.is_decoder = True  # BERT and its kind generate only then
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = build(found, config, torch.float64).eval()
            randomize_constants_(made)
        return made
    raise NotApplicable("it does not generate text")


def _inputs(model: Any, exercises: Sequence[Exercise]) -> dict[str, Tensor]:
    name = model.main_input_name
    whole = next((e.kwargs for e in exercises if e.path == ""), {})
    if name != "input_ids":
        if not isinstance(whole.get(name), Tensor):
            raise NotApplicable(f"no {name} is known to generate from")
        return {name: whole[name]}
    ids = torch.randint(10, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    seen = torch.ones_like(ids)
    seen[0, :PADDING] = 0
    return {"input_ids": ids, "attention_mask": seen}


def _written(model: Any, inputs: dict[str, Tensor], *, cache: bool) -> Written:
    start = getattr(model.config, "decoder_start_token_id", None)
    more = {"decoder_start_token_id": start if isinstance(start, int) else 1}
    with torch.no_grad(), exact(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generate = vars(GenerationMixin)["generate"]  # Whisper has one of its own, for long audio
        found = generate(
            model,
            **inputs,
            **(more if model.config.is_encoder_decoder else {}),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            use_cache=cache,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return found.sequences, torch.stack(found.logits)


def _off(one: Written, other: Written) -> float:
    """Return how far logits differ; inf if tokens do."""
    if not torch.equal(one[0], other[0]):
        return float("inf")
    return difference([one[1]], [other[1]])
