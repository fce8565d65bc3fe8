"""Run an ONNX export as people do who have neither deadhead nor torch: numpy and ONNX Runtime only.

Also a script: `python run_onnx.py FOLDER` opens FOLDER/model/model.onnx, runs what is in
FOLDER/inputs.json and inputs.safetensors, and writes FOLDER/outputs.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PAST, PRESENT = "past_key_values.", "present."
Arrays = dict[str, np.ndarray]


class Graph:
    """An ONNX file that takes arguments by name; a past that is not given is empty."""

    def __init__(self, file: Path, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        self.session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {each.name: each.shape for each in self.session.get_inputs()}

    def __call__(self, arguments: Arrays) -> Arrays:
        """Run the graph; arguments that it does not take are left out."""
        given = {name: value for name, value in arguments.items() if name in self.inputs}
        batch = len(next(iter(arguments.values())))
        for name in self.inputs.keys() - given.keys():
            if name.startswith(PAST):
                _, heads, _, features = self.inputs[name]
                given[name] = np.zeros((batch, heads, 0, features), np.float32)
        names = [each.name for each in self.session.get_outputs()]
        found: Any = self.session.run(None, given)
        return dict(zip(names, found, strict=True))


def continued(graph: Graph, tokens: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """Continue prompts greedily with the past: the whole prompt once, then token by token.

    Shape: tokens and mask are (batch, tokens), padded on the left.
    """
    past: Arrays = {}
    new = tokens
    for _ in range(count):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -new.shape[1] :]
        told = {"input_ids": new, "attention_mask": mask, "position_ids": positions}
        found = graph({**told, **past})
        new = found["logits"][:, -1:].argmax(-1)
        past = {PAST + n.removeprefix(PRESENT): v for n, v in found.items() if PRESENT in n}
        tokens = np.concatenate([tokens, new], 1)
        mask = np.concatenate([mask, np.ones_like(new)], 1)
    return tokens


def translated(graph: Graph, tokens: np.ndarray, start: int, count: int) -> np.ndarray:
    """Write greedily with a decoder that reads what an encoder made of some tokens; no past."""
    told = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    written = np.full((len(tokens), 1), start, np.int64)
    for _ in range(count):
        found = graph({**told, "decoder_input_ids": written})
        written = np.concatenate([written, found["logits"][:, -1:].argmax(-1)], 1)
    return written


def run_graph(folder: Path) -> None:
    """Open the graph in a folder, run it, and write down what it gives."""
    about = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "inputs.safetensors")
    graph = Graph(folder / "model/model.onnx", threads=1)
    outputs = {}
    for number, call in enumerate(about["calls"]):
        found = graph({name: tensors[key] for name, key in call.items()})
        outputs |= {f"{number}.{name}": value for name, value in found.items()}
    prompts, count = tensors.get("prompts"), about.get("new_tokens", 0)
    if prompts is not None and "decoder_input_ids" in graph.inputs:
        outputs["tokens"] = translated(graph, prompts, about["start"], count)
    elif prompts is not None:
        outputs["tokens"] = continued(graph, prompts, np.ones_like(prompts), count)
    assert "torch" not in sys.modules
    assert "deadhead" not in sys.modules
    save_file({name: np.ascontiguousarray(v) for name, v in outputs.items()}, folder / "out")
    (folder / "out").rename(folder / "outputs.safetensors")


if __name__ == "__main__":
    run_graph(Path(sys.argv[1]))
