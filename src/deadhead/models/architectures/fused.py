"""Decoders with one fused query/key/value projection: GPT-2, BLOOM, GPT-NeoX."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deadhead.models.architectures.record import (
    Architecture,
    fused_by_part,
    fused_per_head,
    project_nothing,
    register_architecture,
)


class SelectAlibi:
    """Forward pre-hook: give a BLOOM attention the slopes of these original indices.

    BLOOM builds one ALiBi tensor for all blocks, with a row per original head.
    """

    def __init__(self, kept: tuple[int, ...]):
        self.kept = kept

    def __call__(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with the slopes of the kept heads only."""
        alibi = kwargs["alibi"]  # (batch * original heads, 1, key)
        batch = args[0].shape[0]
        rows = alibi.reshape(batch, -1, *alibi.shape[1:])[:, list(self.kept)]
        return args, {**kwargs, "alibi": rows.reshape(-1, *alibi.shape[1:])}


def _select_alibi(attention: nn.Module, kept: tuple[int, ...]) -> None:
    hooks = attention._forward_pre_hooks
    for key in [k for k, hook in hooks.items() if isinstance(hook, SelectAlibi)]:
        del hooks[key]
        attention._forward_pre_hooks_with_kwargs.pop(key, None)
    attention.register_forward_pre_hook(SelectAlibi(kept), with_kwargs=True)


def _bloom(attention: Any, hidden: Tensor, args: tuple[Any, ...]) -> Tensor:
    context = project_nothing(attention.dense, hidden)
    residual = args[0]
    return residual + F.dropout(context, attention.hidden_dropout, attention.training)


def _refuse_slow_bloom(config: Any) -> str | None:
    if config.pretraining_tp > 1 and config.slow_but_exact:
        return "slow_but_exact bypasses the output projection; set config.slow_but_exact = False"
    return None


def _gpt2(attention: Any, hidden: Tensor, args: tuple[Any, ...]) -> Tensor:
    return attention.resid_dropout(project_nothing(attention.c_proj, hidden))


register_architecture(
    Architecture(
        model_type="gpt2",
        blocks="h.*",
        attention="attn",
        query="attn.c_attn",
        key="attn.c_attn",
        value="attn.c_attn",
        output="attn.c_proj",
        layout=fused_by_part,
        shrink={"num_heads": "heads", "split_size": "width"},
        headless=_gpt2,
    ),
    Architecture(
        model_type="bloom",
        blocks="h.*",
        attention="self_attention",
        query="self_attention.query_key_value",
        key="self_attention.query_key_value",
        value="self_attention.query_key_value",
        output="self_attention.dense",
        layout=fused_per_head,
        shrink={"num_heads": "heads"},
        headless=_bloom,
        after_cut=_select_alibi,
        slopes=True,
        maps="output",
        refuse=_refuse_slow_bloom,
    ),
    Architecture(
        model_type="gpt_neox",
        blocks="layers.*",
        attention="attention",
        query="attention.query_key_value",
        key="attention.query_key_value",
        value="attention.query_key_value",
        output="attention.dense",
        head_dim="head_size",
        layout=fused_per_head,
    ),
)
