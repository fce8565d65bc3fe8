"""The config of a model that no version of transformers has."""

from transformers import PreTrainedConfig


class MineConfig(PreTrainedConfig):
    """Sizes of the model."""

    model_type = "mine"

    def __init__(
        self,
        vocab_size=101,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        pad_token_id=0,
        **more,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        super().__init__(pad_token_id=pad_token_id, **more)
