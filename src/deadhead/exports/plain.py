"""Run a checkpoint as people do who do not have deadhead: this file imports transformers only.

Also a script: `python plain.py FOLDER` loads FOLDER/model, runs what is in FOLDER/inputs.json and
inputs.safetensors, and writes FOLDER/outputs.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

NEW_TOKENS = 12


def outputs_of(
    model: Any, calls: list[dict[str, Tensor]], prompts: Tensor | None
) -> dict[str, Tensor]:
    """Run a model: the numbers that it gives for each call, and the tokens that it generates.

    Args:
        model: the model.
        calls: arguments of a forward pass each.
        prompts: token ids, without padding, to continue greedily; None generates nothing.
    """
    found = {}
    with torch.no_grad():
        for number, arguments in enumerate(calls):
            result = model(**arguments)
            for name, value in result.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    found[f"{number}.{name}"] = value.contiguous().clone()
        if prompts is not None:
            tokens = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                num_beams=1,
            )
            found["tokens"] = tokens.contiguous()
    return found


def run_saved(folder: Path) -> None:
    """Load the model in a folder, run it, and write down what it gives."""
    config = json.loads((folder / "model/config.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "inputs.safetensors")
    calls = [{name: tensors[key] for name, key in call.items()} for call in about["calls"]]
    kind = getattr(transformers, config["architectures"][0])
    model = kind.from_pretrained(
        folder / "model", dtype=about["dtype"], attn_implementation=about["attention"]
    )
    assert "deadhead" not in sys.modules
    found = outputs_of(model.eval(), calls, tensors.get("prompts"))
    save_file(found, folder / "outputs.safetensors")


if __name__ == "__main__":
    run_saved(Path(sys.argv[1]))
