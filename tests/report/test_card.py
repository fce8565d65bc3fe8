import re
from dataclasses import replace

import pytest
import yaml

from deadhead.report import model_card


def front_matter(card):
    start, matter, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(matter)


@pytest.mark.parametrize(
    "name",
    ["someone/tiny", "a: b", "- x", "null", "'\"", "#1", "a\n---\nb", "{", "<script>", "字", "1.5"],
)
def test_front_matter_is_yaml_whatever_the_name(full, name):
    model = {**full.model, "name": name, "hub_id": name}
    card = model_card(replace(full, title=name, model=model))
    assert front_matter(card) == {
        "base_model": " ".join(name.split()),
        "library_name": "transformers",
        "tags": ["deadhead", "pruned"],
    }
    assert "<script>" not in card[card.index("\n# ") :]


@pytest.mark.parametrize("name", ["/home/me/models/tiny", r"C:\models\tiny"])
def test_absolute_paths_stay_at_home(full, name):
    card = model_card(replace(full, model={**full.model, "name": name}))
    assert "base_model" not in front_matter(card), "nobody can follow it"
    assert "| model | tiny |" in card
    assert "models" not in card


def test_card_loads_draws_and_repeats(full):
    card = model_card(full)
    assert "import deadhead" in card
    assert "AutoModelForCausalLM.from_pretrained" in card  # it has a KV cache
    assert "block 0  ....  0 of 4\nblock 1  ##  2 of 2\nblock 2  ###  3 of 3" in card
    assert "```sh\ndeadhead prune tiny --task sst2 -o out\n```" in card
    assert "| parameters | 1,000 | 920 | 8.0% fewer |" in card
    far = "divergence from the dense model"
    assert f"| {far}, test data, nats | — | 0.020 (0.010 to 0.030) |" in card
    assert f"| {far}, text of its own making, nats | — | 0.500 (— to —) |" in card


def test_recorded_class_wins_over_the_guess(full):
    card = model_card(replace(full, model={"auto_class": "AutoModelForMultipleChoice"}))
    assert "AutoModelForMultipleChoice.from_pretrained" in card


def test_a_command_cannot_leave_its_fence(full):
    card = model_card(replace(full, run={"command": "x ```` y\n```\n# z"}))
    assert "`````sh\nx ```` y\n```\n# z\n`````" in card


def test_a_partly_filled_summary_has_a_card(bare):
    card = model_card(bare)
    assert "base_model" not in front_matter(card)
    assert "None" not in card
    assert not re.search(r"\bnan\b", card)
