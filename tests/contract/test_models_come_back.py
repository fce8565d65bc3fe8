"""Models are left exactly as they were found, also after an exception."""

from __future__ import annotations

import copy

import pytest
import torch

from deadhead import HeadModel, masked, score_all
from deadhead.criteria import CRITERIA
from deadhead.errors import ScoreError
from deadhead.models.maps import hook_maps
from models import MODEL_TYPES, batch, make, outputs

SHORT = {"shapley": "shapley:permutations=2"}
EVERYTHING = [SHORT.get(name, name) for name in CRITERIA if name != "file"]


def state(model):
    """Everything that could have been disturbed."""
    hooks = {
        name: [len(getattr(m, kind)) for kind in ("_forward_hooks", "_forward_pre_hooks")]
        for name, m in model.named_modules()
    }
    flags = {n: (p.requires_grad, p.dtype, p.device, p.grad) for n, p in model.named_parameters()}
    training = {n: m.training for n, m in model.named_modules()}
    extra = {n: set(m.__dict__) for n, m in model.named_modules()}
    return hooks, flags, training, extra, model.config.to_json_string()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_scoring_leaves_the_model_as_it_was(model_type):
    model = make(model_type)
    model.train()
    next(model.modules()).training = False  # a mix of flags has to survive
    frozen = next(model.parameters()).requires_grad_(False)
    weights, before = copy.deepcopy(model.state_dict()), state(model)
    backend = model.config._attn_implementation
    torch.manual_seed(7)
    rng = torch.get_rng_state()
    score_all(model, [batch()], EVERYTHING)
    assert torch.equal(torch.get_rng_state(), rng)
    assert state(model) == before
    assert model.config._attn_implementation == backend
    assert not frozen.requires_grad
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("model_type", ("bert", "bloom", "llama"))
def test_hooks_are_gone_after_an_exception(model_type):
    model = make(model_type)
    view, before = HeadModel(model), state(model)

    def fail(*args):
        raise RuntimeError("on purpose")

    mask = view.mask.drop(view.mask.heads[0])
    for context in (
        lambda: view.hook_heads(fail),
        lambda: hook_maps(view, fail),
    ):
        with pytest.raises(RuntimeError, match="on purpose"), context():
            outputs(model, batch())
    with pytest.raises(KeyError), masked(model, mask):
        raise KeyError
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    for name in ("taylor", "reconstruction", "confidence", "output_norm"):
        with pytest.raises(ScoreError, match="batch 0"):
            score_all(model, [batch()], [name])
    assert state(model) == before


@pytest.mark.slow
def test_importing_deadhead_patches_nothing(tmp_path):
    import subprocess
    import sys

    code = """
import transformers, importlib, sys
from transformers.quantizers import auto
import transformers.modeling_utils as m, transformers.masking_utils as k
names = ["AutoModel", "PreTrainedModel", "BertModel", "Trainer"]
before = {n: dict(vars(getattr(transformers, n))) for n in names}
attention = dict(m.ALL_ATTENTION_FUNCTIONS._global_mapping)
quantizers = set(auto.AUTO_QUANTIZER_MAPPING)
import deadhead
assert all(dict(vars(getattr(transformers, n))) == before[n] for n in names)
assert dict(m.ALL_ATTENTION_FUNCTIONS._global_mapping) == attention
assert set(auto.AUTO_QUANTIZER_MAPPING) - quantizers == {"deadhead"}
print("clean")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "clean", done.stderr
