"""One greedy step, ours against a plain implementation of the published procedure.

The published procedure (Greedy-Gnorm, arXiv 2602.04491) makes one full forward and backward pass
per layer, with gradients of all parameters, and reads one layer's Q, K, V gradients each time; then
it measures accuracy one sample at a time. Its batches are what a plain loader gives: 32 sentences
in the order of the data, padded to the longest of them; ours are sorted by length. Both sides run
here on the same model, as many calibration as test sentences, in turns, and must agree on the
scores of the batch reduction over the same batches.

Takes about 15 minutes on 2 cores. Needs no argument; `--model FOLDER --task DATA` uses a real model
and data instead of a random one of MiniLM's shape.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
import transformers
from tables import print_rows

from deadhead import HeadModel, load_model, masked, open_task, score
from deadhead.data.tokens import length_runs

PAIRS = 3  # timed turns of both sides, after one that is not counted


def published_scores(model, batches):
    """Product of mean gradient norms per head: a full pass per layer, as published."""
    heads = model.config.num_attention_heads
    scores = []
    for layer in range(model.config.num_hidden_layers):
        attention = model.base_model.encoder.layer[layer].attention.self
        sums = {name: torch.zeros(heads) for name in ("query", "key", "value")}
        for batch in batches:
            model.zero_grad()
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            torch.norm(model(**inputs).logits).backward()
            for name, total in sums.items():
                gradient = getattr(attention, name).weight.grad
                total += gradient.view(heads, -1).norm(dim=1)
        means = [total / len(batches) for total in sums.values()]
        scores.append(means[0] * means[1] * means[2])
    model.zero_grad()
    return torch.stack(scores)


def one_at_a_time(model, samples):
    """Accuracy, one sample at a time."""
    hits = 0
    with torch.no_grad():
        for sample in samples:
            inputs = {k: v for k, v in sample.items() if k != "labels"}
            hits += int(model(**inputs).logits.argmax(-1) == sample["labels"])
    return hits / len(samples)


def singles(batches):
    """Split batches into single samples without padding."""
    for batch in batches:
        for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            yield {
                k: (v[row : row + 1, :length] if v.dim() == 2 else v[row : row + 1])
                for k, v in batch.items()
            }


def plain_batches(samples, size=32):
    """Collate single samples in their order, padded to the longest of each batch."""
    found = []
    for start in range(0, len(samples), size):
        rows = samples[start : start + size]
        pad = torch.nn.utils.rnn.pad_sequence
        keys = [k for k in rows[0] if k != "labels"]
        batch = {k: pad([r[k][0] for r in rows], batch_first=True) for k in keys}
        found.append({**batch, "labels": torch.cat([r["labels"] for r in rows])})
    return found


def shuffled(samples):
    """Bring samples, which come sorted by length, into the order of no order."""
    samples = list(samples)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return [samples[i] for i in order]


def random_bert(layers, hidden, heads):
    """A random classifier of a BERT shape; speed does not depend on what it has learned."""
    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


class RandomTask:
    """Random sentences whose lengths are those of SST-2: 4 to 50 tokens, 25 on average."""

    def __init__(self, samples, seed):
        generator = torch.Generator().manual_seed(seed)
        lengths = (torch.randn(samples, generator=generator) * 10 + 25).clamp(4, 50).long()
        self.order = sorted(lengths.tolist(), reverse=True)
        self.generator = generator

    def batches(self):
        """Batches as the product's tasks make them: by length, within a budget of tokens."""
        return [self._batch(self.order[run]) for run in length_runs(self.order)]

    def _batch(self, lengths):
        shape = (len(lengths), lengths[0])
        ids = torch.randint(5, 1000, shape, generator=self.generator)
        mask = torch.arange(shape[1])[None] < torch.tensor(lengths)[:, None]
        labels = torch.randint(0, 2, shape[:1], generator=self.generator)
        return {"input_ids": ids * mask, "attention_mask": mask.long(), "labels": labels}


def ours(view, calibration, test, mask):
    """One greedy step: scores of all blocks at once, accuracy in batches."""
    begun = time.perf_counter()
    scores = score(view, calibration, "gradient_norm", mask=mask)
    scored = time.perf_counter()
    new = mask.drop(scores.ranking(mask)[0])
    hits = 0
    with masked(view, new), torch.inference_mode():
        for batch in test:
            inputs = {k: v for k, v in batch.items() if k != "labels"}
            hits += int((view.model(**inputs).logits.argmax(-1) == batch["labels"]).sum())
    return scored - begun, time.perf_counter() - scored


def theirs(model, calibration, test):
    """The same step, as published."""
    begun = time.perf_counter()
    published_scores(model, calibration)
    scored = time.perf_counter()
    one_at_a_time(model, test)
    return scored - begun, time.perf_counter() - scored


def agree(model, calibration):
    """Whether both sides give the same scores for the batch reduction, to rounding."""
    same = score(HeadModel(model), calibration, "gradient_norm:reduction=batch")
    expected = published_scores(model, calibration).log()
    found = torch.tensor([list(row) for row in same.values])
    return float((found - expected).abs().max())


def compare(name, model, calibration, test):
    """Run both sides in turns; return a row of the table."""
    view, tests = HeadModel(model), shuffled(singles(test))
    plain = plain_batches(shuffled(singles(calibration)))
    mask = view.mask
    difference = agree(model, plain)
    ratios = {"score": [], "accuracy": [], "step": []}
    seconds = []
    for turn in range(PAIRS + 1):
        a, b = ours(view, calibration, test, mask), theirs(model, plain, tests)
        if turn:
            ratios["score"].append(b[0] / a[0])
            ratios["accuracy"].append(b[1] / a[1])
            ratios["step"].append(sum(b) / sum(a))
            seconds.append((sum(a), sum(b)))
        print(f"{name}: turn {turn} of {PAIRS}", file=sys.stderr, flush=True)
    print({k: [f"{x:.1f}" for x in v] for k, v in ratios.items()}, file=sys.stderr, flush=True)
    medians = [statistics.median(r) for r in ratios.values()]
    ours_s, theirs_s = (statistics.median(s) for s in zip(*seconds, strict=True))
    return [
        name,
        f"{ours_s:.1f}",
        f"{theirs_s:.1f}",
        *(f"{m:.1f}x" for m in medians),
        f"{min(ratios['step']):.1f}x to {max(ratios['step']):.1f}x",
        f"{difference:.0e}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a real classifier, instead of random MiniLM shape")
    parser.add_argument("--task", help="its data")
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    rows = []
    if args.model:
        loaded = load_model(args.model)
        tasks = open_task(
            args.task,
            loaded.tokenizer,
            config=loaded.model.config,
            calibration_size=args.calibration,
            test_size=args.test,
        )
        name, model = loaded.name, loaded.model
        data = tasks.calibration.batches(), tasks.test.batches()
    else:
        name, model = "MiniLM shape (6 x 12 heads, 384)", random_bert(6, 384, 12)
        data = RandomTask(args.calibration, 1).batches(), RandomTask(args.test, 2).batches()
    rows.append(compare(name, model, *data))
    sizes = {3: args.calibration, 4: args.test}
    base = [RandomTask(samples, seed).batches() for seed, samples in sizes.items()]
    rows.append(compare("BERT-base shape (12 x 12 heads, 768)", random_bert(12, 768, 12), *base))
    columns = [
        "model",
        "ours, s",
        "published, s",
        "scoring",
        "accuracy",
        "whole step",
        "range",
        "largest difference of log scores",
    ]
    print_rows("one greedy step (score + accuracy), medians of paired runs", columns, rows)


if __name__ == "__main__":
    main()
