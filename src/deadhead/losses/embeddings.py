"""One embedding per sample of a model without a head, pooled as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deadhead.data.inputs import Batch
from deadhead.display import Brief
from deadhead.errors import CheckpointError, DataError, unknown_name
from deadhead.files import read_json
from deadhead.losses.answers import logits_of, valid_answers, widened
from deadhead.models.sentence_modules import modules_of

# of token states (samples, tokens, features) and which of them are real, (samples, tokens, 1)
Pool = Callable[[Tensor, Tensor], Tensor]


def _mean(states: Tensor, valid: Tensor) -> Tensor:
    return (states * valid).sum(1) / valid.sum(1).clamp(min=1)


def _by_place(states: Tensor, valid: Tensor) -> Tensor:
    places = valid.cumsum(1) * valid
    return (states * places).sum(1) / places.sum(1).clamp(min=1)


def _last(states: Tensor, valid: Tensor) -> Tensor:
    count = valid.shape[1]
    last = (valid * torch.arange(1, count + 1, device=valid.device)[:, None]).argmax(1)
    return states.take_along_dim(last[:, None], 1)[:, 0]


POOLS: dict[str, Pool] = {
    "cls": lambda states, valid: states.take_along_dim(valid.argmax(1)[:, None], 1)[:, 0],
    "max": lambda states, valid: states.masked_fill(valid == 0, -torch.inf).amax(1),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda states, valid: (
        (states * valid).sum(1) / valid.sum(1).clamp(min=1).sqrt()
    ),
    "weightedmean": _by_place,
    "lasttoken": _last,
}
# as older versions of sentence-transformers write them
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU}


@dataclass(frozen=True, repr=False)
class Embedder(Brief):
    """How the token states of a model become one embedding per sample.

    Attributes:
        pools: names of `POOLS`; several are put side by side.
        layers: what follows, in order: dense layers, normalization.
        prompt: what every text starts with.
        max_length: tokens of a text at most; None is what the model takes.
    """

    pools: tuple[str, ...] = ("mean",)
    layers: tuple[Callable[[Tensor], Tensor], ...] = ()
    prompt: str = ""
    max_length: int | None = None

    def __call__(self, model: nn.Module, outputs: Any, batch: Batch) -> Tensor:
        """Embed the samples of a batch.

        What is one vector per sample already, such as those of CLIP, is taken as it is.

        Shape: (batch, features).
        """
        states = widened(logits_of(outputs))
        if states.dim() == 3:
            valid = valid_answers(model, states, batch)[..., None].to(states.dtype)
            states = torch.cat([POOLS[name](states, valid) for name in self.pools], dim=-1)
        for layer in self.layers:
            states = layer(states)
        return states


def embedder_of(config: Any) -> Embedder:
    """Read how a model embeds from its sentence-transformers folder; else it is the mean.

    The folder is the `name_or_path` of the config.

    Raises:
        CheckpointError: the files are not whole.
        DataError: a module is of a kind that is not known here.
    """
    folder = Path(getattr(config, "name_or_path", None) or "/nowhere")
    modules = modules_of(folder) if folder.is_dir() else []
    pools: tuple[str, ...] = ("mean",)
    layers: list[Callable[[Tensor], Tensor]] = []
    for module in modules:
        kind, place = module["type"].rpartition(".")[2], folder / module["path"]
        if kind == "Pooling":
            pools = _pools_in(place, prompt=_prompt(folder))
        elif kind == "Dense":
            layers.append(_dense(place))
        elif kind == "Normalize":
            layers.append(lambda states: nn.functional.normalize(states, dim=-1))
        elif kind not in ("Transformer", "Dropout"):
            raise DataError(
                f"the embeddings of {folder.name!r} go through a module {kind!r:.60}, which is not"
                f" known here; known: Pooling, Dense, Normalize"
            )
    return Embedder(pools, tuple(layers), _prompt(folder), _max_length(folder))


def _pools_in(folder: Path, *, prompt: str) -> tuple[str, ...]:
    values = _settings(folder / "config.json")
    if prompt and values.get("include_prompt") is False:
        raise DataError(
            f"{folder.name!r} leaves the prompt {prompt!r:.60} out of its mean (include_prompt:"
            " false), which deadhead cannot; set default_prompt_name in"
            " config_sentence_transformers.json to null, and write the prompt into the texts or"
            " leave it out"
        )
    old = tuple(name for key, name in _OLD_NAMES.items() if values.get(key))
    given = values.get("pooling_mode") or old or "mean"
    names = (given,) if isinstance(given, str) else tuple(map(str, given))
    for name in names:
        if name not in POOLS:
            raise unknown_name("pooling", name, POOLS)
    return names


def _dense(folder: Path) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file

    values = _settings(folder / "config.json")
    name = str(values.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise unknown_name("activation of a dense module", name, _ACTIVATIONS)
    file = folder / "model.safetensors"
    if not file.is_file():
        raise CheckpointError(
            f"the dense module {folder.name!r} has no model.safetensors; deadhead reads safetensors"
            " only (never pickles): save the model anew with sentence-transformers"
        )
    tensors = load_file(file)
    weight, bias = tensors["linear.weight"], tensors.get("linear.bias")
    activation = _ACTIVATIONS[name]()

    def layer(states: Tensor) -> Tensor:
        at = {"device": states.device, "dtype": states.dtype}
        shift = None if bias is None else bias.to(**at)
        return activation(nn.functional.linear(states, weight.to(**at), shift))

    return layer


def _prompt(folder: Path) -> str:
    values = _settings(folder / "config_sentence_transformers.json")
    name, prompts = values.get("default_prompt_name"), values.get("prompts")
    return str(prompts.get(name, "")) if name and isinstance(prompts, dict) else ""


def _max_length(folder: Path) -> int | None:
    given = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
    return given if isinstance(given, int) and given > 1 else None


def _settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    return read_json(file, what="settings of sentence-transformers", error=CheckpointError)


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosine similarity of each pair of embeddings.

    Shape: (samples,). Unit: in [-1, 1].
    """
    return nn.functional.cosine_similarity(one, other, dim=-1)
