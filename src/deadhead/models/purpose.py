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


def purpose_of(model: Any) -> Purpose:
    """Read it off the class of a model and its parents, or the `architectures` of a config.

    A config that has none, of a model that was never saved, is "unknown".
    """
    if hasattr(model, "forward"):
        names = [kind.__name__ for kind in type(model).__mro__]
    else:
        names = list(getattr(model, "architectures", None) or ())
    for name in names:
        for part, purpose in _NAMES.items():
            if part in name:
                return purpose
    return "other" if names else "unknown"


def is_causal_lm(model: Any) -> bool:
    """Whether a model, or what a config describes, predicts each next token."""
    return purpose_of(model) == "causal_lm"
