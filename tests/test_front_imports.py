"""`import deadhead` is cheap, registers the loader, and has every name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import deadhead
from deadhead.models.heads import HeadModel

AUTO = "from transformers import AutoModelForSequenceClassification as Model"
ORDERS = {
    "first": f"import deadhead; {AUTO}",
    "last": f"{AUTO}; import deadhead",
    "after the class": "from transformers import BertForSequenceClassification as Model\n"
    "import deadhead",
    "before the class": "import deadhead\n"
    "from transformers import BertForSequenceClassification as Model",
    "a part of it": f"import deadhead.types; {AUTO}",
    "before the quantizers": f"import deadhead, transformers.quantizers.auto; {AUTO}",
    "after the quantizers": f"import transformers.quantizers.auto, deadhead; {AUTO}",
}


def python(code, *args):
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model = deadhead.load_model("bundled:encoder").model
    deadhead.remove_(model, ["0.1", (1, 2)])
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_the_loader_is_registered_whatever_is_imported_first(order, small):
    load = "import sys, deadhead; model = Model.from_pretrained(sys.argv[1])"
    count = "print(deadhead.HeadModel(model).mask.n_kept)"
    done = python("\n".join([ORDERS[order], load, count]), small)
    assert done.stdout.strip() == "22", done.stderr


def test_importing_deadhead_imports_neither_torch_nor_transformers():
    code = "import sys, deadhead; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    assert python(code).stdout.strip() == "set()"


def test_every_name_is_there_and_listed():
    assert set(deadhead.__all__) <= set(dir(deadhead))
    for name in deadhead.__all__:
        assert getattr(deadhead, name) is not None
    assert deadhead.HeadModel is HeadModel
    with pytest.raises(AttributeError, match="has no attribute 'prun'"):
        _ = deadhead.prun


@pytest.mark.parametrize(
    ("listing", "one"),
    [
        ("criteria", "taylor"),
        ("strategies", "greedy"),
        ("repairs", "least_squares"),
        ("losses", "kl"),
        ("tasks", "perplexity"),
        ("architectures", "bert"),
        ("groupings", "balanced"),
        ("budgets", "latency"),
        ("actions", "fold"),
    ],
)
def test_names_are_listed_with_a_line_each(listing, one):
    names = getattr(deadhead, listing)()
    assert one in names
    if listing != "architectures":
        assert all(names.values())
        assert len(repr(names).splitlines()) == len(names)
    assert max(map(len, repr(names).splitlines())) <= 96
