"""What a cut model says about itself: the `quantization_config` entry of its config.

The modules are the truth, and the entry follows them: it is written from the modules when the model
is cut and again whenever the config is saved. The keys per block are those of transformers'
`per_layer_config`, plus ours for original indices.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from typing import Any

from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from deadhead.errors import CheckpointError, DeadheadError, UnsupportedModelError
from deadhead.models.architectures import (
    has_derived,
    has_records,
    records_named,
    register_architecture,
)
from deadhead.models.architectures.derived import as_data, records_from
from deadhead.models.blocks import Block, OriginalHeads
from deadhead.models.heads import HeadModel

QUANT_METHOD = "deadhead"
FORMAT = 1
COPY_IT = "take config.json from where the checkpoint was written"


class DeadheadConfig(QuantizationConfigMixin):
    """Manifest of a cut model.

    Attributes:
        quant_method: always `"deadhead"`; names the loader to transformers.
        format: version of this entry.
        blocks: per block number (as text), `num_attention_heads`, `num_key_value_heads`,
            `head_dim`, the original indices `heads` and `key_value_heads`, and the original
            counts; `slopes` if heads have the ALiBi slopes of others; `output_bias` if a repair
            gave the output projection a bias that the model type lacks. Uncut blocks are not
            listed.
        architecture: the records of the model type where they were derived, so that the checkpoint
            loads where the type has none, or others; else None.

    Raises:
        CheckpointError: the entry was written by a newer deadhead, or lacks its blocks.
    """

    architecture: list[dict[str, Any]] | None = None
    __slots__ = ("_model",)  # a slot, since transformers writes and copies all of __dict__

    def __init__(
        self,
        blocks: dict[str, dict[str, Any]] | None = None,
        format: int = FORMAT,
        quant_method: str = QUANT_METHOD,
        architecture: list[dict[str, Any]] | None = None,
        **unknown: Any,
    ):
        if format != FORMAT or unknown or not isinstance(blocks, dict):
            raise CheckpointError(
                f"the deadhead entry of config.json has format {format!r} and keys"
                f" {sorted(('blocks', *unknown))}; this version reads format {FORMAT} with 'blocks'"
                " only; upgrade deadhead, or repair the file"
            )
        self.quant_method = quant_method  # type: ignore[assignment] - an enum in transformers
        self.format = format
        self.blocks = blocks
        if architecture is not None:  # else it is not written
            self.architecture = architecture

    def describe(self, model: nn.Module) -> DeadheadConfig:
        """Keep up with a model from now on, without keeping it alive."""
        self._model = weakref.ref(model)
        return self

    @property
    def model(self) -> nn.Module | None:
        """The model that this entry describes, if there still is one. A copy describes none."""
        return getattr(self, "_model", lambda: None)()

    def __getstate__(self) -> dict[str, Any]:  # copies and pickles leave the model out
        return self.__dict__

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; transformers asks a config that it is given in this way."""
        return getattr(self, name, default)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as the model is now."""
        if self.model is not None:
            with contextlib.suppress(DeadheadError):  # no longer a model that we can read
                view = HeadModel(self.model)
                self.blocks, carried = _blocks_of(view), carried_by(view)
                if carried is not None:
                    self.architecture = carried
        return super().to_dict()

    def original(self) -> dict[int, OriginalHeads]:
        """Return which original heads each listed block holds.

        Raises:
            CheckpointError: an entry contradicts itself.
        """
        for number in self.blocks:
            if not number.isdecimal() or len(number) > 9 or number != str(int(number)):
                raise CheckpointError(
                    f"the deadhead entry of config.json lists block {number!r}, which is no"
                    f" number; {COPY_IT}"
                )
        return {int(number): _original(number, entry) for number, entry in self.blocks.items()}


def manifest_of(view: HeadModel) -> DeadheadConfig:
    """Describe what the blocks of a model hold."""
    made = DeadheadConfig(_blocks_of(view), architecture=carried_by(view))
    return made.describe(view.model)


def carried_by(view: HeadModel) -> list[dict[str, Any]] | None:
    """Return the records that a checkpoint of a model carries: those that were derived."""
    if not all(record.derived for record in view.records):
        return None
    return [as_data(record) for record in view.records]


def register_carried(model_type: str, entry: Any) -> None:
    """Register the records that a checkpoint carries, unless those of its type are written.

    They were derived for its config, and the derived ones that ship for that of the type.

    Args:
        model_type: of the config.
        entry: the manifest, or the `quantization_config` entry of a config as it is read.

    Raises:
        CheckpointError: they are damaged.
    """
    values = entry if isinstance(entry, dict) else vars(entry)
    carried = values.get("architecture")
    if values.get("quant_method") != QUANT_METHOD or carried is None:
        return
    if has_records(model_type) and not has_derived(model_type):
        return
    try:
        records = records_from(model_type, carried)
    except UnsupportedModelError as error:
        raise CheckpointError(f"{error}, or {COPY_IT}") from error
    if not has_records(model_type) or records_named(model_type) != records:
        register_architecture(*records)


def record_in_config(view: HeadModel) -> None:
    """Let the model's config, if it has one, say what its blocks hold.

    The config is changed in place, so that a model and its `base_model` go on sharing it. A model
    gets a config of its own if the one it has describes another model, or claims a cut that this
    model does not have.
    """
    config = getattr(view.model, "config", None)
    manifest, entry = manifest_of(view), claim_of(view.model)
    if config is None or (entry is None and not manifest.blocks):
        return
    if not manifest.blocks or _describes_another(entry, view):
        config = _own_config_(view.model)
    if manifest.blocks:
        config.quantization_config = manifest
    else:
        del config.quantization_config


def correct_config(view: HeadModel) -> None:
    """Correct what the model's config claims about cut heads, if it claims anything."""
    entry = claim_of(view.model)
    if isinstance(entry, DeadheadConfig) and entry.model is view.model:
        right = entry.blocks == _blocks_of(view)
    else:
        right = entry is None
    if not right:
        record_in_config(view)


def claim_of(model: nn.Module) -> DeadheadConfig | dict[str, Any] | None:
    """Return the entry by which a model's config says that heads have been cut, if it does."""
    entry = getattr(getattr(model, "config", None), "quantization_config", None)
    if isinstance(entry, dict):
        return entry if entry.get("quant_method") == QUANT_METHOD else None
    return entry if isinstance(entry, DeadheadConfig) else None


def _describes_another(entry: Any, view: HeadModel) -> bool:
    other = entry.model if isinstance(entry, DeadheadConfig) else None
    own = [block.attention for block in view.blocks]
    return other is not None and not any(module in own for module in other.modules())


def _own_config_(model: nn.Module) -> Any:
    """Give a model, and every module in it, a copy of its config."""
    copies: dict[int, Any] = {}
    config = copy.deepcopy(model.config, copies)
    model.config = config  # type: ignore[assignment]
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, PreTrainedConfig) and id(value) in copies:
                setattr(module, name, copies[id(value)])
    return config


def _blocks_of(view: HeadModel) -> dict[str, dict[str, Any]]:
    blocks = enumerate(view.blocks)
    return {str(n): _entry(b) for n, b in blocks if hasattr(b.attention, "deadhead_heads")}


def _entry(block: Block) -> dict[str, Any]:
    slopes = {"slopes": list(block.original.slopes)} if block.original.slopes else {}
    bias = {"output_bias": True} if block.original.output_bias else {}
    stack = {"stack": block.record.stack} if block.record.stack else {}
    return {
        **slopes,
        **bias,
        **stack,
        "num_attention_heads": block.n_heads,
        "num_key_value_heads": block.n_kv_heads,
        "head_dim": block.head_dim,
        "heads": list(block.original.heads),
        "key_value_heads": list(block.original.kv_heads),
        "original_num_attention_heads": block.original.n_heads,
        "original_num_key_value_heads": block.original.n_kv_heads,
    }


def _original(number: str, entry: dict[str, Any]) -> OriginalHeads:
    try:
        original = OriginalHeads(
            _integer(entry, "original_num_attention_heads"),
            _integer(entry, "original_num_key_value_heads"),
            _integers(entry, "heads", "original_num_attention_heads"),
            _integers(entry, "key_value_heads", "original_num_key_value_heads"),
            _integers({"slopes": (), **entry}, "slopes", "original_num_attention_heads"),
            entry.get("output_bias", False),
        )
        counts = tuple(_integer(entry, f"num_{kind}_heads") for kind in ("attention", "key_value"))
        if not isinstance(original.output_bias, bool):
            raise TypeError(f"output_bias is {original.output_bias!r}, not true or false")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
        raise CheckpointError(
            f"block {number} of the deadhead entry in config.json {what}; {COPY_IT}"
        ) from error
    heads, kv_heads = original.heads, original.kv_heads
    agrees = (
        counts == (len(heads), len(kv_heads))
        and list(heads) == sorted(set(heads))
        and len(original.slopes) in (0, len(heads))
        and (len(heads) % len(kv_heads) == 0 if kv_heads else not heads)
        and bool(heads) == bool(kv_heads)
    )
    if not agrees:
        raise CheckpointError(
            f"block {number} of the deadhead entry in config.json contradicts itself: heads"
            f" {list(heads)}, key/value heads {list(kv_heads)}, counts {list(counts)}; {COPY_IT}"
        )
    return original


def _integers(entry: dict[str, Any], name: str, limit: str) -> tuple[int, ...]:
    values = tuple(entry[name])
    for value in values:
        if type(value) is not int or not 0 <= value < entry[limit]:
            raise ValueError(f"{name} holds {value!r}, which is no index below {limit}")
    return values


def _integer(entry: dict[str, Any], name: str) -> int:
    if type(entry[name]) is not int:
        raise TypeError(f"{name} is {entry[name]!r}, not a whole number")
    return entry[name]
