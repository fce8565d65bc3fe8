import re
from pathlib import Path

import pytest
import torch
from torch import nn

from deadhead.errors import BudgetError, DataError
from deadhead.measure import (
    latency,
    measure_all,
    measure_decode,
    measure_speed,
    parameter_count,
    parameters_read,
    speed_ceiling,
)


class Toy(nn.Module):
    """An embedding of 100 x 8, a matrix of 8 x `width`, and a head that may be tied."""

    def __init__(self, width, tied=False):
        super().__init__()
        self.words = nn.Embedding(100, 8)
        self.up = nn.Linear(8, width, bias=False)
        self.head = nn.Linear(8, 100, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, input_ids):
        return self.up(self.words(input_ids))


def llama(heads):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        head_dim=4,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=24,
    )
    return LlamaForCausalLM(config)


def test_input_embeddings_count_only_where_they_are_also_the_output_head():
    free, tied = Toy(4), Toy(4, tied=True)
    assert (parameter_count(free), parameters_read(free)) == (1632, 832)
    assert (parameter_count(tied), parameters_read(tied)) == (832, 832)


@pytest.mark.parametrize("tied", [True, False])
def test_ceiling_of_a_hand_cut_model(tied):
    assert speed_ceiling(Toy(100, tied), Toy(50, tied)) == (800 + 800) / (400 + 800)


def test_row_describes_the_inputs():
    row = measure_speed(
        Toy(64), Toy(32), {"input_ids": torch.zeros(3, 5, dtype=torch.long)}, repeats=4, warmup=1
    )
    assert (row.setting, row.batch, row.length, row.repeats) == ("forward", 3, 5, 4)
    assert row.ceiling == (512 + 800) / (256 + 800)
    assert 0 < row.low <= row.speedup <= row.high
    assert row.ms_before > 0
    assert row.ms_after > 0


def test_calls_alternate_and_warmup_is_left_out():
    calls = []

    class Recorder(Toy):
        def forward(self, input_ids):
            calls.append(self.name)
            assert not self.training
            assert torch.is_inference_mode_enabled()
            return super().forward(input_ids)

    before, after = Recorder(4), Recorder(4)
    before.name, after.name = "A", "B"
    row = measure_speed(before, after, {"input_ids": torch.zeros(1, 2).long()}, repeats=3, warmup=2)
    assert "".join(calls) == "AB" * 5
    assert row.repeats == 3


def test_models_come_back_in_their_modes_also_after_an_exception():
    before, after = Toy(4), Toy(4).eval()
    before.up.eval()
    with pytest.raises(TypeError, match="unexpected keyword"):
        measure_speed(before, after, {"other": torch.zeros(1, 2)}, repeats=1)
    assert before.training
    assert not before.up.training
    assert not after.training


def test_causal_models_are_timed_for_prefill_and_decode():
    before, after = llama(4), llama(2)
    rows = measure_all(before, after, {"input_ids": torch.ones(2, 24).long()}, repeats=2, warmup=0)
    assert [(r.setting, r.batch, r.length) for r in rows] == [
        ("prefill", 2, 24),
        ("decode", 1, 23),  # one position is left for the new token
    ]
    saved = 2 * 4 * 16 * 8  # layers x projections x hidden x (2 heads of 4)
    read = parameters_read(before)
    assert rows[1].ceiling == pytest.approx(read / (read - saved))


def test_every_decode_step_sees_the_same_cache():
    model, lengths = llama(2), []
    forward = model.forward

    def spy(*args, **kwargs):
        if (cache := kwargs.get("past_key_values")) is not None:
            lengths.append((kwargs["input_ids"].shape[1], cache.get_seq_length()))
        return forward(*args, **kwargs)

    model.forward = spy
    measure_decode(model, model, length=7, repeats=3, warmup=1)
    assert lengths == [(1, 7)] * 8


def test_decode_of_a_model_without_a_cache_is_refused():
    with pytest.raises(DataError, match="Toy does not generate"):
        measure_decode(Toy(4), Toy(4))


def test_nothing_to_time_is_refused():
    with pytest.raises(DataError, match="no inputs"):
        measure_speed(Toy(4), Toy(4), {})
    with pytest.raises(BudgetError, match="0 repeats"):
        measure_speed(Toy(4), Toy(4), {"input_ids": torch.zeros(1, 2).long()}, repeats=0)


CLOCKS = re.compile(r"\b(perf_counter|process_time|monotonic|thread_time|timeit)\b|time\.time\(")


def test_there_is_one_clock():
    """Kernels are queued: only the timer knows what to wait for before it reads the clock."""
    source = Path(latency.__file__).parents[1]
    reading = {
        str(file.relative_to(source))
        for file in source.rglob("*.py")
        if CLOCKS.search(file.read_text(encoding="utf-8"))
    }
    assert reading == {"measure/__init__.py"}
