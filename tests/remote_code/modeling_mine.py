"""A decoder that no version of transformers has: names and layout of its own."""

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_mine import MineConfig


class MineAttention(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.n_heads, self.number = config.num_attention_heads, number
        self.size = config.hidden_size // self.n_heads
        self.mix = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.back = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, hidden, cache):
        batch, tokens, _ = x.shape
        q, k, v = self.mix(x).view(batch, tokens, 3, self.n_heads, self.size).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(k, v, self.number)
        scores = q @ k.transpose(-1, -2) / self.size**0.5
        weights = (scores + hidden).softmax(-1)
        return self.back((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))


class MineBlock(nn.Module):
    def __init__(self, config, number):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.look = MineAttention(config, number)
        self.think = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, hidden, cache):
        x = x + self.look(self.norm(x), hidden, cache)
        return x + self.think(x).relu()


class MinePreTrained(PreTrainedModel):
    config_class = MineConfig
    base_model_prefix = "body"


class MineModel(MinePreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.steps = nn.ModuleList(MineBlock(config, n) for n in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, **_):
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        before = 0 if past_key_values is None else past_key_values.get_seq_length()
        x = self.embed(input_ids)
        tokens = x.shape[1]
        later = torch.ones(tokens, before + tokens, dtype=torch.bool).triu(before + 1)
        hidden = torch.zeros(later.shape, dtype=x.dtype).masked_fill(later, -1e9)[None, None]
        if attention_mask is not None:
            unseen = attention_mask[:, None, None, :] == 0
            hidden = hidden.masked_fill(unseen, -1e9)
        for step in self.steps:
            x = step(x, hidden, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=past_key_values)


class MineForCausalLM(MinePreTrained, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.body = MineModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None, **more):
        out = self.body(input_ids, attention_mask, **more)
        logits, loss = self.head(out.last_hidden_state), None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss, logits, out.past_key_values)
