"""load_model refuses a folder that is not a whole model in one line, before it takes memory."""

from __future__ import annotations

import json
import os
import pickle
import resource
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from deadhead import Head, HeadModel, PruningPlan, load_model, remove_
from deadhead.errors import CheckpointError, DeadheadError
from models import MODEL_TYPES, batch, make, outputs

LAYERS = {"distilbert": "n_layers", "gpt2": "n_layer", "bloom": "n_layer"}


def checkpoint(folder, model_type="bert", kind="classification", *, cut=False):
    model = make(model_type, kind, dtype=torch.float32)
    if cut:
        view = HeadModel(model)
        remove_(model, PruningPlan(view.mask.drop(Head(0, 1)), gqa="ungroup"))
    model.save_pretrained(folder)
    return folder


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(folder, match="."):
    """Whatever is wrong is said in one line, soon, with little memory."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DeadheadError, match=match) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB
    return caught.value


COUNTS = (2, 1, 0, -1, 4, 99, 10**9, -(10**9))  # the weights have 3
LAYERED = [t for t in MODEL_TYPES if t != "albert"]


@pytest.mark.parametrize("cut", (False, True))
@pytest.mark.parametrize(
    ("model_type", "count"), [*(("gpt2", c) for c in COUNTS), *((t, 2) for t in LAYERED)]
)
@pytest.mark.slow
def test_layers_that_the_weights_lack_or_the_model_does_not_use(model_type, count, cut, tmp_path):
    checkpoint(tmp_path, model_type, cut=cut)
    changes = {LAYERS.get(model_type, "num_hidden_layers"): count}
    if "layer_types" in json.loads((tmp_path / "config.json").read_text()):
        changes["layer_types"] = ["full_attention"] * min(max(count, 0), 99)
    edit(tmp_path, **changes)
    refused(tmp_path)


@pytest.mark.parametrize("count", (0, -1, 10**9))
@pytest.mark.parametrize("key", ("num_hidden_layers", "num_hidden_groups", "inner_group_num"))
def test_shared_layers(key, count, tmp_path):
    edit(checkpoint(tmp_path, "albert"), **{key: count})
    refused(tmp_path, f"gives {key} as {count}, and the weights allow 1 to 100")


def test_shared_layers_are_applied_as_often_as_the_config_says(tmp_path):
    edit(checkpoint(tmp_path, "albert"), num_hidden_layers=9)
    assert load_model(str(tmp_path)).model.config.num_hidden_layers == 9


HUGE = 10**12
ABSURD = {
    "hidden_size": HUGE,
    "vocab_size": HUGE,
    "intermediate_size": HUGE,
    "max_position_embeddings": HUGE,
    "type_vocab_size": HUGE,
    "num_attention_heads": HUGE,
    "num_labels": 10**9,
    "hidden_act": "nope",
    "id2label": 7,
    "architectures": 3,
    "layer_norm_eps": "x",
    "dtype": "float99",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}


@pytest.mark.parametrize("key", ABSURD)
@pytest.mark.parametrize("cut", (False, True))
def test_absurd_configs(key, cut, tmp_path):
    edit(checkpoint(tmp_path, cut=cut), **{key: ABSURD[key]})
    refused(tmp_path)


@pytest.mark.parametrize("method", ("bitsandbytes", "gptq", "awq"))
def test_weights_that_something_else_has_quantized(method, tmp_path):
    entry = {"quant_method": method, "bits": 4, "load_in_8bit": True}
    edit(checkpoint(tmp_path), quantization_config=entry)
    refused(tmp_path, rf"quantized \({method}\); prune the full-precision model, then quantize")


def test_an_adapter_alone(tmp_path):
    checkpoint(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "adapter_config.json")
    refused(tmp_path, r"is an adapter of peft, not a model; merge it .*merge_and_unload\(\)")


@pytest.mark.parametrize("value", (0, -1, HUGE, "x", None, [], {}, True, 1.5))
@pytest.mark.parametrize("key", ("hidden_size", "num_attention_heads", "vocab_size"))
def test_sizes_that_are_none(key, value, tmp_path):
    edit(checkpoint(tmp_path), **{key: value})
    refused(tmp_path)


@pytest.mark.parametrize("model_type", ("llama", "gpt_neox"))
def test_biases_that_the_model_does_not_use(model_type, tmp_path):
    edit(checkpoint(tmp_path, model_type), attention_bias=False)
    refused(tmp_path, "the weights hold .*bias', which the model that config.json describes does")


def test_buffers_of_older_versions_are_no_weights(tmp_path):
    checkpoint(tmp_path, "gpt_neox")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    inside = "gpt_neox.layers.0.attention."
    tensors[f"{inside}bias"] = torch.ones(1, 1, 4, 4)
    tensors[f"{inside}masked_bias"] = torch.tensor(-1e9)
    tensors[f"{inside}rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, file, metadata={"format": "pt"})
    model = load_model(str(tmp_path)).model
    expected = outputs(make("gpt_neox", dtype=torch.float32), batch())
    assert torch.equal(outputs(model, batch()), expected)


def test_a_head_of_another_task_is_left_out(tmp_path):
    edit(checkpoint(tmp_path), architectures=["BertModel"])
    assert type(load_model(str(tmp_path)).model).__name__ == "BertModel"


def nested(depth):
    return "[" * depth + "]" * depth


def fifo(file):
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def index(folder, name):
    weights = dict.fromkeys(load_file(folder / "model.safetensors"), name)
    (folder / "model.safetensors").unlink()
    index_of(folder, weights)


def index_of(folder, weights):
    content = json.dumps({"weight_map": weights})
    (folder / "model.safetensors.index.json").write_text(content)


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    recursive: list = []
    recursive.append(recursive)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(recursive))


def truncate(file, share):
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


FILES = {
    "nested config": lambda f: (f / "config.json").write_text(nested(10**6)),
    "nested entry": lambda f: (f / "config.json").write_text(
        '{"model_type": "bert", "x": ' + nested(10**5) + "}"
    ),
    "long integer": lambda f: (f / "config.json").write_text(
        '{"model_type": "bert", "vocab_size": ' + "9" * 5000 + "}"
    ),
    "config of bytes": lambda f: (f / "config.json").write_bytes(bytes(range(256))),
    "config a pipe": lambda f: fifo(f / "config.json"),
    "config a folder": lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
    "config a dangling link": lambda f: (
        (f / "config.json").unlink(),
        (f / "config.json").symlink_to(f / "nowhere"),
    ),
    "config a link to itself": lambda f: (
        (f / "config.json").unlink(),
        (f / "config.json").symlink_to(f / "config.json"),
    ),
    "weights a pipe": lambda f: fifo(f / "model.safetensors"),
    "weights a folder": lambda f: (
        (f / "model.safetensors").unlink(),
        (f / "model.safetensors").mkdir(),
    ),
    "no bytes": lambda f: (f / "model.safetensors").write_bytes(b""),
    "half a header": lambda f: truncate(f / "model.safetensors", 0.01),
    "half the weights": lambda f: truncate(f / "model.safetensors", 0.6),
    "a pickle only": only_a_pickle,
    "index of nothing": lambda f: ((f / "model.safetensors").unlink(), index_of(f, {})),
    "index of a pickle": lambda f: index(f, "pytorch_model.bin"),
    "index out of the folder": lambda f: index(f, "../model.safetensors"),
    "index of an absolute path": lambda f: index(f, "/etc/hostname"),
    "nested index": lambda f: (f / "model.safetensors.index.json").write_text(nested(10**6)),
    "index a pipe": lambda f: fifo(f / "model.safetensors.index.json"),
    "generation config nested": lambda f: (f / "generation_config.json").write_text(nested(10**6)),
    "tokenizer nested": lambda f: (f / "tokenizer.json").write_text(nested(10**6)),
    "tokenizer a pipe": lambda f: fifo(f / "tokenizer.json"),
    "tokenizer config nested": lambda f: (
        (f / "tokenizer.json").write_text("{}"),
        (f / "tokenizer_config.json").write_text(nested(10**6)),
    ),
    "adapter": lambda f: (f / "adapter_config.json").write_text(nested(10**6)),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_damaged_or_no_files(what, tmp_path):
    folder = tmp_path / "model"
    checkpoint(folder, *(("gpt2", "causal_lm") if "generation" in what else ()))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    FILES[what](folder)
    refused(folder)


def test_a_link_to_a_checkpoint_is_a_checkpoint(tmp_path):
    checkpoint(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "b" / file.name).symlink_to(file)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    assert load_model(str(tmp_path / "c")).model is not None


def test_other_weights_in_the_folder_are_not_read(tmp_path):
    checkpoint(tmp_path, "llama")
    other = {"layers.9.attention.wq.weight": torch.ones(2, 2)}
    save_file(other, tmp_path / "consolidated.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}')
    assert load_model(str(tmp_path)).model is not None


@pytest.mark.parametrize("source", (None, 5, "", "\0", "x" * 5000, "a/b", "bundled:x", "~nobody/x"))
def test_sources_that_are_no_models(source):
    with pytest.raises(DeadheadError) as caught:
        load_model(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ("device", "dtype"))
@pytest.mark.parametrize("value", (5, [], "zz", "meta", object()))
def test_options_that_do_not_exist(option, value, tmp_path):
    with pytest.raises(
        DeadheadError, match=f"{option} .*(cannot be|is not known|is not available)"
    ):
        load_model(str(checkpoint(tmp_path)), **{option: value})


@pytest.mark.parametrize("dtype", (torch.float16, "float16"))
def test_a_dtype_is_a_name_or_torch_s_own(dtype, tmp_path):
    assert load_model(checkpoint(tmp_path), dtype=dtype).model.dtype == torch.float16


def test_a_dense_model_that_says_it_is_cut_is_refused_by_name(tmp_path):
    checkpoint(tmp_path / "cut", cut=True)
    checkpoint(tmp_path / "dense")
    (tmp_path / "dense" / "model.safetensors").replace(tmp_path / "cut" / "model.safetensors")
    assert isinstance(refused(tmp_path / "cut", "take both files from the same"), CheckpointError)
