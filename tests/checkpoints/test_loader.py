"""Cut checkpoints load with plain transformers, bit for bit, also in a fresh process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from deadhead import HeadModel, PruningPlan, remove_
from deadhead.errors import CheckpointError
from masks import random_mask
from models import AUTO, DECODERS, MODEL_TYPES, batch, kinds_of, make, outputs

FRESH = """
import sys, pathlib, torch
import deadhead
sys.path.insert(0, {tests!r})
import transformers
from models import AUTO, batch, outputs
torch.set_num_threads(1)
worst = {{}}
for folder in sorted(pathlib.Path({root!r}).iterdir()):
    kind = folder.name.split("-", 1)[0]
    model = AUTO[kind].from_pretrained(folder, attn_implementation=folder.name.split("@")[1])
    expected = torch.load(folder / "expected.pt", weights_only=True)
    assert not model.training
    print(folder.name, (outputs(model, batch()) - expected).abs().max().item())
"""


def cut(model_type, kind="classification", *, seed=0, dtype=torch.float32):
    model = make(model_type, kind, dtype=dtype)
    remove_(model, PruningPlan(random_mask(HeadModel(model).mask, seed), gqa="ungroup"))
    return model


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_logits_bit_for_bit(tmp_path, request):
    expected = set()
    for model_type in MODEL_TYPES:
        for kind in kinds_of(model_type):
            model = cut(model_type, kind)
            name = f"{kind}-{model_type}@{model.config._attn_implementation}"
            model.save_pretrained(tmp_path / name)
            torch.save(outputs(model, batch()), tmp_path / name / "expected.pt")
            expected.add(name)
    tests = str(request.config.rootpath / "tests")
    code = FRESH.format(tests=tests, root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert set(found) == expected
    assert set(found.values()) == {"0.0"}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_saving_again_and_pruning_again(model_type, tmp_path):
    model = cut(model_type, seed=1)
    model.save_pretrained(tmp_path / "one")
    loaded = AUTO["classification"].from_pretrained(tmp_path / "one")
    assert HeadModel(loaded).mask == HeadModel(model).mask
    loaded.save_pretrained(tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    mask = random_mask(HeadModel(loaded).mask, 2, share=0.3)
    remove_(loaded, PruningPlan(mask, gqa="ungroup"))
    loaded.save_pretrained(tmp_path / "three")
    again = AUTO["classification"].from_pretrained(tmp_path / "three")
    assert HeadModel(again).mask == mask
    assert torch.equal(outputs(again, batch()), outputs(loaded, batch()))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_loaded_model_is_an_ordinary_model(model_type, tmp_path):
    cut(model_type).save_pretrained(tmp_path)
    model = AUTO["classification"].from_pretrained(tmp_path)
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        assert not getattr(model, attribute, None)
    assert not getattr(model.config, "_is_quantized", False)
    assert all(p.requires_grad for p in model.parameters())
    assert model.half().dtype == torch.float16  # quantized models refuse to be cast


def test_a_backbone_loads_from_a_checkpoint_with_a_head_and_the_other_way_round(tmp_path):
    model = cut("bert")
    model.save_pretrained(tmp_path / "head")
    base = AUTO["base"].from_pretrained(tmp_path / "head")
    assert torch.equal(outputs(base, batch()), outputs(model.base_model, batch()))
    base.save_pretrained(tmp_path / "base")
    headed = AUTO["classification"].from_pretrained(tmp_path / "base", num_labels=5)
    assert torch.equal(outputs(headed.base_model, batch()), outputs(base, batch()))


@pytest.mark.slow
def test_without_importing_deadhead_transformers_names_the_missing_loader(tmp_path):
    model = make("bert", dtype=torch.float32)
    mask = HeadModel(model).mask
    remove_(model, PruningPlan(mask.drop(*[h for h in mask.heads if h.block == 1])))
    model.save_pretrained(tmp_path)
    code = f"""
import transformers
transformers.AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0, "it must not load with made-up weights"
    assert "Unknown quantization type, got deadhead" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ("bert", "llama", "bloom", "gpt2"))
def test_the_trainer_goes_on_training(model_type, tmp_path):
    from transformers import Trainer, TrainingArguments

    cut(model_type).save_pretrained(tmp_path / "cut")
    model = AUTO["classification"].from_pretrained(tmp_path / "cut")
    mask, before = HeadModel(model).mask, outputs(model, batch())
    rows = batch((6,) * 8)
    data = [{k: v[i] for k, v in rows.items()} for i in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=3,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    trained = AUTO["classification"].from_pretrained(tmp_path / "trained")
    assert HeadModel(trained).mask == mask
    assert not torch.equal(outputs(trained, batch()), before)
    assert torch.equal(outputs(trained, batch()), outputs(model.eval(), batch()))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.parametrize("model_type", ("bert", "llama"))
def test_peft_trains_adapters_on_a_cut_model(model_type, tmp_path):
    from peft import LoraConfig, get_peft_model

    cut(model_type, seed=1).save_pretrained(tmp_path)
    model = AUTO["classification"].from_pretrained(tmp_path)
    targets = ["query", "value"] if model_type == "bert" else ["q_proj", "v_proj"]
    adapted = get_peft_model(model, LoraConfig(target_modules=targets, r=2, task_type="SEQ_CLS"))
    inputs = batch()
    adapted(**inputs).loss.backward()
    assert sum(p.grad is not None for n, p in adapted.named_parameters() if "lora_B" in n) > 0


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_loaded_decoder_generates_what_it_did_before(model_type, tmp_path):
    model = cut(model_type, "causal_lm")
    model.save_pretrained(tmp_path)
    loaded = AUTO["causal_lm"].from_pretrained(tmp_path)
    ids = batch((5,))["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(loaded.generate(ids, **options), model.generate(ids, **options))


def edited(folder, change):
    """Change the deadhead entry of a config."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


def drop_a_head(entry):
    block = entry["blocks"]["0"]
    block["heads"] = block["heads"][1:]
    block["key_value_heads"] = block["key_value_heads"][1:]
    block["num_attention_heads"] -= 1
    block["num_key_value_heads"] -= 1


DAMAGE = {
    "fewer heads than the weights": (drop_a_head, r"the weights hold .*query\.weight"),
    "counts that contradict": (
        lambda e: e["blocks"]["0"].update(num_attention_heads=99),
        "contradicts itself",
    ),
    "heads out of order": (
        lambda e: e["blocks"]["0"]["heads"].reverse(),
        "contradicts itself",
    ),
    "a block too many": (
        lambda e: e["blocks"].update({"7": e["blocks"]["0"]}),
        "lists block 7, the model has 3 blocks",
    ),
    "another original count": (
        lambda e: e["blocks"]["0"].update(original_num_attention_heads=8),
        "block 0 had 8 heads",
    ),
    "a missing key": (lambda e: e["blocks"]["0"].pop("heads"), "lacks 'heads'"),
    "a newer format": (lambda e: e.update(format=2), "format 2"),
    "no blocks": (lambda e: e.pop("blocks"), "'blocks'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    change, message = DAMAGE[damage]
    cut("bert", seed=1).save_pretrained(tmp_path)
    edited(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        AUTO["classification"].from_pretrained(tmp_path)


def test_weights_of_another_cut_are_refused(tmp_path):
    cut("bert", seed=1).save_pretrained(tmp_path / "one")
    cut("bert", seed=2).save_pretrained(tmp_path / "two")
    shutil.copy(tmp_path / "two" / "model.safetensors", tmp_path / "one" / "model.safetensors")
    with pytest.raises(CheckpointError, match="take both files from the same checkpoint"):
        AUTO["classification"].from_pretrained(tmp_path / "one")


def test_a_missing_tensor_is_not_made_up(tmp_path):
    cut("bert", seed=1).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("bert.encoder.layer.0.attention.self.query.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack .*query\.weight"):
        AUTO["classification"].from_pretrained(tmp_path)
