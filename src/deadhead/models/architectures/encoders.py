"""Encoders with separate projections: the BERT family, ALBERT, DistilBERT."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from deadhead.models.architectures.record import (
    Architecture,
    project_nothing,
    register_architecture,
)


def _bert(attention: nn.Module, hidden: Tensor, args: tuple[Any, ...]) -> Tensor:
    return hidden.new_zeros(*hidden.shape[:-1], 0)  # BertSelfOutput projects and adds


def _albert(attention: Any, hidden: Tensor, args: tuple[Any, ...]) -> Tensor:
    context = attention.output_dropout(project_nothing(attention.dense, hidden))
    return attention.LayerNorm(hidden + context)


def _bert_record(model_type: str) -> Architecture:
    return Architecture(
        model_type=model_type,
        blocks="encoder.layer.*",
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        head_dim="attention_head_size",
        shrink={"num_attention_heads": "heads", "all_head_size": "width"},
        headless=_bert,
    )


register_architecture(
    *map(_bert_record, ("bert", "roberta", "xlm-roberta", "electra")),
    Architecture(
        model_type="albert",  # layers share modules: one physical row of heads per shared layer
        blocks="encoder.albert_layer_groups.*.albert_layers.*",
        attention="attention",
        query="attention.query",
        key="attention.key",
        value="attention.value",
        output="attention.dense",
        head_dim="attention_head_size",
        shrink={"num_attention_heads": "heads", "all_head_size": "width"},
        headless=_albert,
    ),
    Architecture(
        model_type="distilbert",
        blocks="transformer.layer.*",
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        head_dim="attention_head_size",
        shrink={"n_heads": "heads"},
    ),
)
