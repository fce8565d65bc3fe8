"""How much faster ONNX Runtime computes a cut model than the dense one, beside the most it could.

Both graphs run in turns on the same random tokens, one thread each, so that a machine that slows
down slows both. The interval is that of the median of the pairwise ratios (bootstrap, 95%).
The ceiling is the ratio of the parameters that every token passes through; the share is what was
gained of the gain at that ceiling, in time: (1 - cut/dense) / (1 - 1/ceiling).

Needs no argument; folders of models given as arguments are measured as well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tables import print_rows

from deadhead import HeadModel, PruningPlan, load_model, remove_
from deadhead.exports import export
from deadhead.exports.run_onnx import Graph
from deadhead.measure.size import speed_ceiling

SHAPES = ((1, 24), (1, 128), (8, 128))
PAIRS, WARM_UP = 200, 20


def without_half(folder):
    """Load a model and remove a random half of its heads."""
    loaded = load_model(folder)
    mask = HeadModel(loaded.model).mask
    order = torch.randperm(mask.n_heads, generator=torch.Generator().manual_seed(0)).tolist()
    gone = [mask.heads[i] for i in order[: mask.n_heads // 2]]
    return loaded.name, remove_(loaded.model, PruningPlan(mask.drop(*gone), gqa="equalize"))


def graph_of(model, folder):
    made = export(model, folder, format="onnx")
    print(made)
    return Graph(folder / "model.onnx", threads=1)


def milliseconds(graph, inputs):
    begun = time.perf_counter()
    graph(inputs)
    return 1000 * (time.perf_counter() - begun)


def measured(before, after, inputs):
    """Time both in turns; return the times and the ratio with its interval."""
    pairs = [
        (milliseconds(before, inputs), milliseconds(after, inputs)) for _ in range(WARM_UP + PAIRS)
    ]
    times = np.array(pairs[WARM_UP:])
    ratios = times[:, 0] / times[:, 1]
    draws = np.random.default_rng(0).choice(ratios, (2000, PAIRS))
    return (
        np.median(times, axis=0),
        np.median(ratios),
        np.quantile(np.median(draws, 1), [0.025, 0.975]),
    )


def rows_of(folder, place):
    dense = load_model(folder).model
    name, cut = without_half(folder)
    ceiling = speed_ceiling(dense, cut)
    graphs = graph_of(dense, place / "dense"), graph_of(cut, place / "cut")
    longest = dense.config.max_position_embeddings
    for batch, length in ((b, n) for b, n in SHAPES if n <= longest):
        ids = np.random.default_rng(0).integers(5, dense.config.vocab_size, (batch, length))
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        inputs |= {"token_type_ids": np.zeros_like(ids), "position_ids": np.arange(length)[None]}
        inputs["position_ids"] = inputs["position_ids"].repeat(batch, 0)
        (old, new), ratio, (low, high) = measured(*graphs, inputs)
        share = (1 - 1 / ratio) / (1 - 1 / ceiling)
        spread = f"{ratio:.3f} [{low:.3f}, {high:.3f}]"
        shape = f"{batch} x {length}"
        yield [name, shape, f"{old:.2f}", f"{new:.2f}", spread, f"{ceiling:.3f}", f"{share:.0%}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", help="folders of models to measure as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = []
    for number, folder in enumerate(["bundled:encoder", *args.models]):
        with tempfile.TemporaryDirectory() as place:
            rows += rows_of(folder, Path(place, str(number)))
    columns = ["model", "batch", "dense, ms", "cut, ms", "ratio [95%]", "ceiling", "of the gain"]
    print_rows("ONNX Runtime, half of the heads removed, one thread", columns, rows)


if __name__ == "__main__":
    main()
