"""Commands on a model whose type has no record: the code is its own, the record is derived."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import dynamic_module_utils

from deadhead import HeadModel, load_model
from deadhead.errors import CheckpointError
from deadhead.models.architectures import has_records

CODE = Path(__file__).parents[1] / "remote_code"
PLACES = {
    "AutoConfig": "configuration_mine.MineConfig",
    "AutoModel": "modeling_mine.MineModel",
    "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
}
ASKED = ("--trust-remote-code", "--derive")
SMALL = ("--calibration", "texts.txt", "--calibration-size", "16")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("own_architectures")]


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Where transformers copies remote code to, also in processes that a test starts."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", folder)
        patch.setenv("HF_MODULES_CACHE", folder)
        yield


@pytest.fixture(scope="module")
def made(modules, tmp_path_factory):
    """A folder with a model that brings its own code, and its tokenizer."""
    folder = tmp_path_factory.mktemp("made") / "mine"
    shutil.copytree(CODE, folder, ignore=shutil.ignore_patterns("__*"))
    values = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": PLACES}
    (folder / "config.json").write_text(json.dumps(values))
    config = hf.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(folder)
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *map(str, range(90))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def mine(made, tmp_path):
    """The model's folder, and `texts.txt` in the working folder."""
    lines = (" ".join(str((7 * row + word) % 90) for word in range(8)) for row in range(40))
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    return made


@pytest.mark.parametrize("command", ["check", "score", "plan", "prune"])
def test_code_that_is_not_trusted_does_not_run(command, deadhead, mine):
    more = () if command == "check" else SMALL
    line = deadhead(command, mine, "--derive", *more).refused()
    assert "would run on your machine with all your rights" in line
    assert "--trust-remote-code" in line


def test_loading_in_python_names_the_risk(mine):
    with pytest.raises(CheckpointError, match=r"would run on your machine.*trust_remote_code=True"):
        load_model(mine)


def test_trusted_code_without_a_record_gets_the_flag_that_derives_one(deadhead, mine):
    assert not has_records("mine")
    assert "--derive" in deadhead("score", mine, "--trust-remote-code", *SMALL).refused()


def test_check_derives_from_a_tiny_model_of_the_same_code(deadhead, mine):
    result = deadhead("check", mine, *ASKED, "--json")
    assert (result.code, result.json["verdict"]) == (0, "exact")
    assert result.json["records"][0]["blocks"] == "steps.*"
    laws = {law["law"]: law for law in result.json["laws"]}
    assert laws["saved and loaded"]["detail"] == "equal bit for bit, in a new process"
    assert "left padding" in laws["cached == uncached"]["detail"]


def test_every_file_and_page_names_the_derived_record(deadhead, mine, tmp_path, no_figures):
    said = "heads found by a derived record, proven on a tiny random model"
    assert said in deadhead("score", mine, *ASKED, *SMALL, "-c", "taylor", "-o", "s.json").out
    assert said in json.loads((tmp_path / "s.json").read_text())["taylor"]["provenance"]["record"]
    assert said in deadhead("plan", mine, *ASKED, *SMALL, "--heads", "50%").out
    assert said in json.loads((tmp_path / "plan.json").read_text())["provenance"]["record"]
    applied = deadhead(
        "apply", mine, *ASKED, "-p", "plan.json", "-o", "applied", "--repair", "none"
    )
    assert said in applied.out
    assert said in (tmp_path / "applied" / "README.md").read_text()

    run = ("--heads", "50%", "--no-speed", "-o", "run")
    result = deadhead("prune", mine, *ASKED, *SMALL, *run)
    assert said in result.out
    assert said in result.err
    assert said in json.loads((tmp_path / "run" / "run.json").read_text())["run"]["record"]
    assert said in json.loads((tmp_path / "run" / "plan.json").read_text())["provenance"]["record"]
    assert said in (tmp_path / "run" / "model" / "README.md").read_text()
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["quantization_config"]["architecture"][0]["output"] == "look.back"


READ = """
import sys, torch, deadhead
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = torch.arange(2, 9)[None]
torch.save(model(ids).logits, sys.argv[2])
print(model.generate(ids, max_new_tokens=2).shape[1])
"""


@pytest.mark.slow
def test_a_cut_checkpoint_loads_in_a_new_process_that_has_no_record(deadhead, mine, tmp_path):
    run = ("--heads", "50%", "--strategy", "one_shot", "-c", "magnitude", "-o", "plan.json")
    assert deadhead("plan", mine, *ASKED, *run).code == 0
    assert deadhead("apply", mine, *ASKED, "-o", "cut").code == 0
    arguments = [sys.executable, "-c", READ, str(tmp_path / "cut"), str(tmp_path / "logits")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout.strip() == "9", done.stderr
    model = load_model(tmp_path / "cut", trust_remote_code=True).model
    assert HeadModel(model).mask.n_kept == 6
    with torch.no_grad():
        logits = model(torch.arange(2, 9)[None]).logits
    assert torch.allclose(torch.load(tmp_path / "logits"), logits)
