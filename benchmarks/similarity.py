"""Distances between heads: the stream against stored attention maps, and memory over prompts.

The stored-maps procedure is that of explainabloomity, in our words: an eager base model with
`output_attentions`, ten prompts at a time; the maps of all prompts kept, then joined; head vectors
that grow by one prompt's lower triangle at a time, in Python loops over prompts, blocks and heads;
SciPy's `pdist` per block. Both sides start from the same random decoder and prompts, each turn in a
process of its own (the peak of a process never goes down), and have to agree on the distances. The
forward pass costs both the same, so the hidden size is small: at a real one it takes most of the
time of both, and the memory is what differs.

Needs no argument. Took 23 minutes on 2 busy cores, most of it for the 1,000 prompts; less on quiet
ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from tables import print_rows

TOKENS = 128
BATCH = 8
PUBLISHED_BATCH = 10
TURNS = 3  # of both sides, in turns
COMPARED = (24, 16, 16, 100)  # blocks, heads, head_dim, prompts
LARGE = (40, 40, 8)
PROMPTS = (10, 100, 1000)


def random_decoder(blocks, heads, head_dim):
    """A random OPT whose heads attend to different things."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=1000,
        hidden_size=heads * head_dim,
        word_embed_proj_dim=heads * head_dim,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        ffn_dim=heads * head_dim,
        max_position_embeddings=TOKENS,
        init_std=0.1,
    )
    return transformers.AutoModel.from_config(config, attn_implementation="sdpa").eval()


def streamed(model, ids):
    """Distances per block, by what the package does."""
    from deadhead.similarity import head_grams
    from deadhead.similarity.distances import distances

    batches = ({"input_ids": part, "attention_mask": part > 0} for part in ids.split(BATCH))
    return distances(head_grams(model, batches), "euclidean").matrices


def stored(model, ids):
    """The same from stored maps, as published."""
    import numpy as np
    import torch
    from scipy.spatial.distance import pdist, squareform

    model.set_attn_implementation("eager")
    maps = all_maps(model, ids)
    vectors = {}
    for prompt in range(len(ids)):
        for block, layer in enumerate(maps):
            for head in range(layer.shape[1]):
                square = layer[prompt, head]
                lower = square[torch.ones_like(square).tril().bool()]
                longer = [vectors[block, head], lower] if (block, head) in vectors else [lower]
                vectors[block, head] = torch.cat(longer)
    table = np.array([vector.numpy() for vector in vectors.values()])
    return [squareform(pdist(rows)) for rows in np.split(table, len(maps))]


def all_maps(model, ids):
    """Every map of every prompt; per block (prompts, heads, query, key)."""
    import torch

    with torch.no_grad():
        batches = [
            model(input_ids=part, attention_mask=part > 0, output_attentions=True).attentions
            for part in ids.split(PUBLISHED_BATCH)
        ]
    return [torch.cat(of_block) for of_block in zip(*batches, strict=True)]


WAYS = {"streamed": streamed, "stored": stored}


def measure(way, shape, prompts, threads):
    """Run one way in this process; return seconds, MiB beyond the loaded model, distances."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = random_decoder(*shape)
    ids = torch.randint(5, 1000, (prompts, TOKENS), generator=torch.Generator().manual_seed(1))
    WAYS[way](model, ids[:1, :8])  # what both need: libraries, kernels, thread pools
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    found = WAYS[way](model, ids)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "mib": (peak - before) / 1024,
        "distances": [matrix.tolist() for matrix in found],
    }


def in_a_process_of_its_own(way, shape, prompts, threads):
    print(f"{way}: {shape[0]} x {shape[1]} heads, {prompts} prompts", file=sys.stderr, flush=True)
    what = json.dumps([way, shape, prompts, threads])
    command = [sys.executable, __file__, "--measure", what]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def largest_difference(a, b):
    """Largest relative difference of two lists of matrices."""
    flat = [[x for matrix in side for row in matrix for x in row] for side in (a, b)]
    return max(abs(x - y) / y for x, y in zip(*flat, strict=True) if y)


def compare(threads):
    """Rows of the table for both sides, and what they say together."""
    *shape, prompts = COMPARED
    runs = {way: [] for way in WAYS}
    for _ in range(TURNS):
        for way, found in runs.items():
            found.append(in_a_process_of_its_own(way, shape, prompts, threads))
    seconds = {way: statistics.median(r["seconds"] for r in found) for way, found in runs.items()}
    peak = {way: statistics.median(r["mib"] for r in found) for way, found in runs.items()}
    pairs = list(zip(runs["stored"], runs["streamed"], strict=True))
    ratios = {
        name: statistics.median(a[name] / b[name] for a, b in pairs) for name in ("mib", "seconds")
    }
    difference = max(largest_difference(b["distances"], a["distances"]) for a, b in pairs)
    rows = [
        [way, f"{shape[0]} x {shape[1]}", str(prompts), f"{peak[way]:.0f}", f"{seconds[way]:.1f}"]
        for way in ("stored", "streamed")
    ]
    words = (
        f"stored / streamed, median of {TURNS} pairs: {ratios['mib']:.1f}x the memory (bar: 20x),"
        f" {ratios['seconds']:.1f}x the time (bar: 3x);"
        f" largest relative difference of the distances {difference:.0e}"
    )
    return rows, words


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS, help="of the large one")
    parser.add_argument("--measure", help="used by the program itself")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*json.loads(args.measure))))
        return
    begun = time.perf_counter()
    rows, words = compare(args.threads)
    for prompts in args.prompts:
        run = in_a_process_of_its_own("streamed", LARGE, prompts, args.threads)
        peak, seconds = f"{run['mib']:.0f}", f"{run['seconds']:.1f}"
        rows.append(["streamed", f"{LARGE[0]} x {LARGE[1]}", str(prompts), peak, seconds])
    columns = ("maps", "heads", "prompts", "peak beyond the model, MiB", "seconds")
    title = f"distances per block, prompts of {TOKENS} tokens, {args.threads} threads"
    print_rows(title, columns, rows)
    print(words)
    print(f"bar at {LARGE[0]} x {LARGE[1]} heads: under 4096 MiB, whatever the number of prompts")
    print(f"took {(time.perf_counter() - begun) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
