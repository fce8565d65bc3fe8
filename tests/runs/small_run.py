"""A small run of the bundled encoder, and what two runs have to share."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from deadhead.pruning.recipe import Recipe
from deadhead.runs.run_settings import RunSettings
from deadhead.runs.settings import DataSettings, ModelSettings


def settings(output: Path, *, random: int = 2, save: bool = True, **recipe) -> RunSettings:
    """8 heads in 2 moves, 16 examples to score on and 24 to judge on."""
    return RunSettings(
        model=ModelSettings("bundled:encoder"),
        data=DataSettings(
            spec="bundled:sentiment", calibration_size=16, selection_size=16, test_size=24
        ),
        recipe=Recipe(**{"heads": 8, "per_step": 4, **recipe}),
        output=output,
        random=random,
        random_fractions=(0.5, 1.0),
        measure_speed=False,
        save=save,
        command="deadhead prune ...",
    )


def outcome(folder: Path) -> dict:
    """Everything that a run found out, seconds and date aside."""
    with (folder / "trajectory.csv").open() as stream:
        steps = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]
    run = json.loads((folder / "run.json").read_text())
    for step in (run["trajectory"]["start"], *run["trajectory"]["steps"]):
        del step["seconds"]
    del run["run"]["seconds"], run["run"]["date"]
    found = {"steps": steps, "run": run}
    for name in ("plan", "scores"):
        found[name] = json.loads((folder / f"{name}.json").read_text())
    weights = folder / "model" / "model.safetensors"
    found["weights"] = weights.read_bytes() if weights.exists() else None
    return found
