"""Shared set-up: no network, one thread (tiny models are slower on two), quiet libraries."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import torch
import transformers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """Real models and data, which are not part of the project."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs the folder shared/ with real models and data, next to the checkout")
    return SHARED


@pytest.fixture
def own_architectures():
    """Forget, after the test, the architecture records that it registers."""
    from deadhead.models.architectures import ARCHITECTURES

    with ARCHITECTURES.restored():
        yield


@pytest.fixture
def exact():
    """Let models compute in float64 what they cast to float32, such as attention weights.

    Sums of float32 depend on padding, unless a row fits into one register of the CPU.
    """
    from deadhead.derivation import promotion

    with promotion.exact(torch.nn.Linear(1, 1, dtype=torch.float64)):
        yield


# `make test-fast` runs the laws on these only; the other model types are marked slow
QUICK_TYPES = {"bert", "albert", "gpt2", "bloom", "llama"}


def pytest_collection_modifyitems(items):
    for item in items:
        parameters = getattr(item, "callspec", None)
        model_type = parameters.params.get("model_type") if parameters else None
        if model_type is not None and model_type not in QUICK_TYPES:
            item.add_marker(pytest.mark.slow)
