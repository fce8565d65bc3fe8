"""Peak memory of attention_entropy over a plain forward pass, and of its rivals.

BERT-base shape, 512 tokens, batch 8, each measurement in a process of its own (the peak of a
process never goes down). Takes about 2 minutes on 2 cores and needs no argument.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from tables import print_rows

HEADS, TOKENS, BATCH = 12, 512, 8
ONE_MAP = BATCH * HEADS * TOKENS * TOKENS * 4 / 2**20  # MiB, one block's maps in float32
WAYS = {
    "loaded": "the model, no forward pass",
    "forward": "plain forward pass (sdpa)",
    "entropy": "attention_entropy",
    "all_maps": "output_attentions=True (all blocks' maps)",
}


def measure(way):
    """Run one way in this process and return its peak resident memory in MiB."""
    import torch
    import transformers

    from deadhead import HeadModel, score

    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=1000),
    ).eval()
    ids = torch.randint(5, 1000, (BATCH, TOKENS))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    HeadModel(model)
    with torch.inference_mode():
        model(input_ids=ids[:1, :8])  # what every way needs: kernels, thread pools
    if way == "forward":
        with torch.inference_mode():
            model(**batch)
    elif way == "entropy":
        score(model, [batch], "attention_entropy")
    elif way == "all_maps":
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            model(**batch, output_attentions=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    peaks = {}
    for way in WAYS:
        command = [sys.executable, __file__, way]
        peaks[way] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    columns = ("way", "peak, MiB", "over plain forward, MiB", "in blocks' maps")
    over = {way: peak - peaks["forward"] for way, peak in peaks.items()}
    rows = [
        [words, f"{peaks[way]:.0f}", f"{over[way]:+.0f}", f"{over[way] / ONE_MAP:+.2f}"]
        for way, words in WAYS.items()
    ]
    print_rows("peak memory of one batch", columns, rows)
    print(f"one block's maps: {ONE_MAP:.0f} MiB; bar: attention_entropy at most +1.00")


if __name__ == "__main__":
    main()
