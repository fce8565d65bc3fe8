"""What a cut model says about itself: the `quantization_config` entry of its config.

The keys per block are those of transformers' `per_layer_config`, plus ours for original indices.
"""

from __future__ import annotations

from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from deadhead.errors import CheckpointError
from deadhead.models.heads import Block, BlockHeads, HeadModel

QUANT_METHOD = "deadhead"
FORMAT = 1


class DeadheadConfig(QuantizationConfigMixin):
    """Manifest of a cut model.

    Attributes:
        quant_method: always `"deadhead"`; names the loader to transformers.
        format: version of this entry.
        blocks: per block number (as text), `num_attention_heads`, `num_key_value_heads`,
            `head_dim`, the original indices `heads` and `key_value_heads`, and the original
            counts; `slopes` if heads have the ALiBi slopes of others; `output_bias` if a repair
            gave the output projection a bias that the model type lacks. Blocks that are as they
            were are not listed.

    Raises:
        CheckpointError: the entry was written by a newer deadhead, or lacks its blocks.
    """

    def __init__(
        self,
        blocks: dict[str, dict[str, Any]] | None = None,
        format: int = FORMAT,
        quant_method: str = QUANT_METHOD,
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

    def held(self) -> dict[int, BlockHeads]:
        """Return what each listed block holds.

        Raises:
            CheckpointError: an entry contradicts itself.
        """
        odd = [n for n in self.blocks if not n.isdecimal() or n != str(int(n))]
        if odd:
            raise CheckpointError(
                f"the deadhead entry of config.json lists block {odd[0]!r}, which is no number;"
                " take config.json from where the checkpoint was written"
            )
        return {int(number): _held(number, entry) for number, entry in self.blocks.items()}


def manifest_of(view: HeadModel) -> DeadheadConfig:
    """Describe what the blocks of a model hold."""
    return DeadheadConfig({str(n): _entry(b) for n, b in enumerate(view.blocks) if _is_cut(b)})


def record_in_config(view: HeadModel) -> None:
    """Write the manifest into the model's config, if it has one and has been cut."""
    config = getattr(view.model, "config", None)
    if config is not None and any(map(_is_cut, view.blocks)):
        config.quantization_config = manifest_of(view)


def _is_cut(block: Block) -> bool:
    return hasattr(block.attention, "deadhead_heads")


def _entry(block: Block) -> dict[str, Any]:
    slopes = {"slopes": list(block.held.slopes)} if block.held.slopes else {}
    bias = {"output_bias": True} if block.held.output_bias else {}
    return {
        **slopes,
        **bias,
        "num_attention_heads": block.n_heads,
        "num_key_value_heads": block.n_kv_heads,
        "head_dim": block.head_dim,
        "heads": list(block.held.heads),
        "key_value_heads": list(block.held.kv_heads),
        "original_num_attention_heads": block.held.n_heads,
        "original_num_key_value_heads": block.held.n_kv_heads,
    }


def _held(number: str, entry: dict[str, Any]) -> BlockHeads:
    try:
        held = BlockHeads(
            entry["original_num_attention_heads"],
            entry["original_num_key_value_heads"],
            tuple(entry["heads"]),
            tuple(entry["key_value_heads"]),
            tuple(entry.get("slopes", ())),
            _flag(entry, "output_bias"),
        )
        heads, kv_heads = held.heads, held.kv_heads
        counts = (entry["num_attention_heads"], entry["num_key_value_heads"])
        agrees = (
            counts == (len(heads), len(kv_heads))
            and list(heads) == sorted(set(heads))
            and all(0 <= h < held.n_heads for h in heads)
            and all(0 <= h < held.n_kv_heads for h in kv_heads)
            and all(0 <= h < held.n_heads for h in held.slopes)
            and len(held.slopes) in (0, len(heads))
            and (len(heads) % len(kv_heads) == 0 if kv_heads else not heads)
        )
    except (KeyError, TypeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
        raise CheckpointError(
            f"block {number} of the deadhead entry in config.json {what};"
            " take config.json from where the checkpoint was written"
        ) from error
    if not agrees:
        raise CheckpointError(
            f"block {number} of the deadhead entry in config.json contradicts itself: heads"
            f" {list(heads)}, key/value heads {list(kv_heads)}, counts {list(counts)};"
            " take config.json from where the checkpoint was written"
        )
    return held


def _flag(entry: dict[str, Any], name: str) -> bool:
    value = entry.get(name, False)
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, not true or false")
    return value
