"""Leave-one-head-out: trials that share what they have in common, against one head at a time.

One head at a time is what anyone would write first: for every head, switch it off, run the batches,
average the loss, take off the loss of the whole model. Both sides run here on the same model and
the same batches, in turns, and must agree. Batches are those that the product's tasks make of 512
sentences, sorted by length; for large models every third row of them, for the random one every
sixth of the middle batch alone, so that there is as much padding as there would be. Times are
processor time of one thread, so that other work on the machine does not count.

Takes about 5 minutes, and 10 more for a model of MiniLM's size. Needs no argument; folders of
classifiers given as arguments are measured as well, on the data of `--task`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
import transformers
from greedy import RandomTask, random_bert
from tables import print_rows

from deadhead import HeadModel, load_model, masked, open_task, score
from deadhead.data.batches import call
from deadhead.losses.losses import task

PAIRS = 3  # timed turns of both sides, after one that is not counted
SENTENCES = 512


def one_at_a_time(view, batches):
    """Loss without each head, less the loss of the whole model."""
    samples = sum(len(batch["labels"]) for batch in batches)

    def mean_loss(mask):
        with torch.inference_mode(), masked(view, mask):
            losses = (task(view.model, call(view.model, b), b).double().sum() for b in batches)
            return float(sum(losses)) / samples

    whole = mean_loss(view.mask)
    return {head: mean_loss(view.mask.drop(head)) - whole for head in view.mask.heads}


def thinned(batches, every):
    """Return some rows of each batch, padded as they are."""
    return [{k: v[::every] for k, v in batch.items()} for batch in batches]


def difference(scores, expected):
    """Return the largest difference of two sides' scores."""
    return max(abs(scores[head] - value) for head, value in expected.items())


def exactness(view, batches):
    """Return the largest difference in float64, on the last batch; the model stays in float64."""
    view.model.double()
    few = batches[-1:]
    return difference(score(view, few, "ablation"), one_at_a_time(view, few))


def compare(name, model, batches):
    """Run both sides in turns; return a row of the table."""
    view = HeadModel(model)
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    seconds = []
    for turn in range(PAIRS + 1):
        begun = time.process_time()
        score(view, batches, "ablation")
        between = time.process_time()
        one_at_a_time(view, batches)
        seconds.append((between - begun, time.process_time() - between))
        ours, plain = seconds[-1]
        print(f"{name}: turn {turn} of {PAIRS}: {ours:.1f} s, {plain:.1f} s", file=sys.stderr)
    del seconds[0]
    ratios = [plain / ours for ours, plain in seconds]
    ours_s, plain_s = (statistics.median(s) for s in zip(*seconds, strict=True))
    return [
        name,
        f"{1 - real / tokens:.0%}",
        f"{ours_s:.1f}",
        f"{plain_s:.1f}",
        f"{statistics.median(ratios):.2f}x",
        f"{min(ratios):.2f}x to {max(ratios):.2f}x",
        f"{exactness(view, batches):.0e}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help="folders of classifiers to measure as well")
    parser.add_argument("--task", help="their data")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    given = [(folder, args.task) for folder in args.models]
    for folder, spec in [("bundled:encoder", "bundled:sentiment"), *given]:
        loaded = load_model(folder)
        how = {"config": loaded.model.config, "calibration_size": SENTENCES}
        batches = open_task(spec, loaded.tokenizer, **how).calibration.batches()
        small = folder.startswith("bundled:")
        rows.append(compare(loaded.name, loaded.model, batches if small else thinned(batches, 3)))
    batches = RandomTask(SENTENCES, 1).batches()
    middle = thinned(batches[len(batches) // 2 :][:1], 6)
    rows.append(compare("BERT-base shape (12 x 12 heads, 768)", random_bert(12, 768, 12), middle))
    columns = [
        "model",
        "padding",
        "ours, s",
        "one at a time, s",
        "ratio",
        "range",
        "largest difference, float64",
    ]
    print_rows("ablation of every head, medians of paired runs", columns, rows)


if __name__ == "__main__":
    main()
