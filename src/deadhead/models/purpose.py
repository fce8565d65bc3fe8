"""What a model is made for, by its class: the one answer to "is it a causal language model?"."""

from __future__ import annotations

from typing import Any, Literal

Purpose = Literal[
    "causal_lm",
    "classification",
    "ctc",
    "masked_lm",
    "multiple_choice",
    "question_answering",
    "seq2seq",
    "token_classification",
    "other",
    "unknown",
]

_NAMES: dict[str, Purpose] = {
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForCTC": "ctc",
    "ForSequenceClassification": "classification",
    "ForMaskedLM": "masked_lm",
    "ForMultipleChoice": "multiple_choice",
    "ForQuestionAnswering": "question_answering",
    "ForTokenClassification": "token_classification",
}
# of models with an encoder and a decoder; others of these names read images and write text
_SEQ2SEQ = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")


def purpose_of(model: Any) -> Purpose:
    """Read it off the class of a model and its parents, or the `architectures` of a config.

    A config that has none, of a model that was never saved, is "unknown".
    """
    if hasattr(model, "forward"):
        names = [kind.__name__ for kind in type(model).__mro__]
        config = getattr(model, "config", None)
    else:
        names, config = list(getattr(model, "architectures", None) or ()), model
    both = getattr(config, "is_encoder_decoder", False)
    for name in names:
        if both and any(part in name for part in _SEQ2SEQ):
            return "seq2seq"
        for part, purpose in _NAMES.items():
            if part in name:
                return purpose
    return "other" if names else "unknown"


def is_causal_lm(model: Any) -> bool:
    """Whether a model, or what a config describes, predicts each next token."""
    return purpose_of(model) == "causal_lm"
