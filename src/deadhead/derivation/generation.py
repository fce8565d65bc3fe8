"""The law of generation: with and without a cache, cut and masked models write the same."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.models.auto import modeling_auto

from deadhead.derivation.exercises import Exercise
from deadhead.derivation.laws import difference, draw_masks, tolerance_of
from deadhead.derivation.promotion import exact
from deadhead.derivation.results import NotApplicable, Refuted
from deadhead.derivation.tiny import build, is_remote, randomize_constants_
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

Inputs = dict[str, Any]
Written = tuple[Tensor, Tensor]  # tokens, logits


def has_generator(model: PreTrainedModel) -> bool:
    """Whether transformers has a class for the config of a model that generates text."""
    return _class_for(model) is not None


def cached_generation(
    model: PreTrainedModel, exercises: Sequence[Exercise], *, tiny: bool = True
) -> str:
    """Compare greedy generation of a masked and a cut model, with and without a cache.

    A tiny model that does not generate stands for its config: one is built that does. Where the
    uncut model's own cache changes what it writes, the two are compared with a cache and without,
    each for itself.
    """
    dense = _generator(model) if tiny else _itself(model)
    try:
        view = HeadModel(dense)
    except UnsupportedModelError as error:
        reason = f"{type(dense).__name__}, which generates, has none of its stacks"
        raise NotApplicable(reason) from error
    inputs, expected = _generated(dense, exercises)
    most = max(CLOSE_LOGITS, tolerance_of(dense) if not tiny else 0.0)
    own = _off(*expected) <= most
    mask = draw_masks(view, 2, seed=3)[1]
    with masked(view, mask):
        silent = _both(dense, inputs)
    if _off(expected[0], silent[0]) == 0.0:
        raise NotApplicable("no head that is masked changes what it writes")
    cut = _both(remove_(copy.deepcopy(dense), PruningPlan(mask, gqa="equalize")), inputs)
    pairs = {
        "with a cache, cut and masked": (cut[0], silent[0]),
        "without a cache, cut and masked": (cut[1], silent[1]),
        **({"cut, with a cache and without": cut} if own else {}),
    }
    differences = {what: _off(*pair) for what, pair in pairs.items()}
    worst = max(differences, key=differences.__getitem__)
    if differences[worst] > most:
        raise Refuted(f"{worst}: tokens or logits differ by {differences[worst]:.1e}")
    padded = ", left padding" if "attention_mask" in inputs else ""
    alike = "" if own else ", cut and masked alone (the uncut model's own cache changes its text)"
    return f"{NEW_TOKENS} tokens{padded}{alike}, largest difference {differences[worst]:.0e}"


def _class_for(model: PreTrainedModel) -> Any:
    """Return the class that generates and is built from the config of a model, or None."""
    config: Any = model.config
    if is_remote(type(model)):
        own = vars(sys.modules[type(model).__module__]).values()
        kinds = [k for k in own if isinstance(k, type) and issubclass(k, GenerationMixin)]
        return next((k for k in kinds if k.__module__ == type(model).__module__), None)
    both = bool(getattr(config, "is_encoder_decoder", False))
    for name in sorted(GENERATE, key=lambda n: both and "SEQ" not in n):
        mapping = getattr(modeling_auto, name, None)
        if mapping is None or type(config) not in mapping.keys():  # noqa: SIM118 - lazy mapping
            continue
        found = mapping[type(config)]
        found = found[0] if isinstance(found, (tuple, list)) else found
        if hasattr(found, "generate") and found.config_class in (None, type(config)):
            return found
    return None


def _itself(model: Any) -> Any:
    if not isinstance(model, GenerationMixin):
        raise NotApplicable("it does not generate text")
    return model


def _generator(model: PreTrainedModel) -> Any:
    """Build the tiny model that generates, of the same config."""
    config, found = copy.deepcopy(model.config), _class_for(model)
    if found is None:
        raise NotApplicable("it does not generate text")
    if getattr(config, "is_decoder", None) is False and not config.is_encoder_decoder:
        config.is_decoder = True  # BERT and its kind generate only then
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = build(found, config, torch.float64).eval()
            randomize_constants_(made)
    except Exception as error:  # each type has its own way to refuse a config
        raise NotApplicable(f"{found.__name__}, which generates, {_refusal(error)}") from error
    return made


def _refusal(error: Exception) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return f"does so with no inputs of ours ({said[:120]})"


def _generated(dense: Any, exercises: Sequence[Exercise]) -> tuple[Inputs, tuple[Written, Written]]:
    """Return the first inputs that a model generates from, and what it writes."""
    reason = f"{type(dense).__name__} gives no inputs to generate from"
    for inputs in _inputs(dense, exercises):
        try:
            written = _both(dense, inputs)
        except Exception as error:  # each type refuses in its own way to generate
            reason = f"{type(dense).__name__}, which generates, {_refusal(error)}"
            continue
        if not bool(written[0][1].isnan().any()):
            return inputs, written
        reason = f"{type(dense).__name__}, which generates, has logits that are no numbers"
    raise NotApplicable(reason)


def _inputs(model: Any, exercises: Sequence[Exercise]) -> Iterator[Inputs]:
    """Yield inputs: padded text, or what the model hears or sees; then all that it takes."""
    name = model.main_input_name
    ids = torch.randint(10, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    seen = torch.ones_like(ids)
    seen[0, :PADDING] = 0
    if name == "input_ids":
        yield {"input_ids": ids, "attention_mask": seen}
    whole = next((e.kwargs for e in exercises if e.path == ""), {})
    if name != "input_ids" and isinstance(whole.get(name), Tensor):
        yield {name: whole[name]}
    if whole:
        yield {n: value for n, value in whole.items() if not n.startswith(("decoder_", "labels"))}
    if name == "input_ids":
        yield {"input_ids": ids}


def _both(model: Any, inputs: Inputs) -> tuple[Written, Written]:
    """Return what a model writes with a cache and without."""
    return _written(model, inputs, cache=True), _written(model, inputs, cache=False)


def _written(model: Any, inputs: Inputs, *, cache: bool) -> Written:
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
