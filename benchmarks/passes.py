"""What scoring by many criteria costs beside one, and what `deadhead prune` does before it cuts.

Sides run in turns on the same model and the same 512 calibration sentences: `taylor` alone; all
gradient and moment criteria in one call; one plain forward and backward pass, as anyone would
write it; and the decision of `auto` with the fits of its repair. Times are processor time of one
thread, so that other work on the machine does not count.

Needs no argument; folders of classifiers given as arguments are measured as well, on the data of
`--task`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import transformers
from tables import print_rows

from deadhead import HeadModel, load_model, open_task
from deadhead.data.batches import call
from deadhead.losses.losses import task as task_loss
from deadhead.pruning.auto import AutoSelector
from deadhead.pruning.recipe import Recipe
from deadhead.repair import fit
from deadhead.scoring import score_all

TOGETHER = ["taylor", "fisher", "gradient_norm", "output_norm", "reconstruction"]
PAIRS = 3  # timed turns, after one that is not counted


def plain(model, batches):
    """Forward and backward through all weights, one batch after the other."""
    for batch in batches:
        task_loss(model, call(model, batch), batch).sum().backward()
        model.zero_grad()


def automatic(view, tasks, heads):
    """Decide on an order and fit its repair."""
    decider = AutoSelector(view, tasks.calibration.batches(), tasks.calibration.probes())
    recipe = Recipe(heads=heads).settled()
    made = decider(recipe, round(heads * view.mask.n_heads))
    fit(view, made.recipe.plan(made.mask), decider.scorers.moments)
    return made.passes


def compare(name, model, tasks):
    view, batches = HeadModel(model), tasks.calibration.batches()
    sides = {
        "taylor": lambda: score_all(view, batches, ["taylor"]),
        "together": lambda: score_all(view, batches, TOGETHER),
        "plain": lambda: plain(model, batches),
        "auto 50%": lambda: automatic(view, tasks, 0.5),
        "auto 75%": lambda: automatic(view, tasks, 0.75),
    }
    turns = []
    for _ in range(PAIRS + 1):
        seconds = {}
        for side, run in sides.items():
            begun = time.process_time()
            run()
            seconds[side] = time.process_time() - begun
        turns.append(seconds)
    del turns[0]

    def ratio(one, other):
        ratios = [turn[one] / turn[other] for turn in turns]
        return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"

    return [
        name,
        f"{statistics.median(turn['taylor'] for turn in turns):.1f}",
        ratio("together", "taylor"),
        ratio("taylor", "plain"),
        ratio("auto 50%", "plain"),
        ratio("auto 75%", "plain"),
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
        tasks = open_task(spec, loaded.tokenizer, config=loaded.model.config, calibration_size=512)
        rows.append(compare(loaded.name, loaded.model, tasks))
    columns = [
        "model",
        "taylor, s",
        "5 criteria / taylor",
        "taylor / plain pass",
        "auto 50% / plain pass",
        "auto 75% / plain pass",
    ]
    print_rows("512 sentences, medians of turns, range in brackets", columns, rows)


if __name__ == "__main__":
    main()
