"""What a run says of the cut model on test data and on text of the model's own making."""

from __future__ import annotations

import torch

import deadhead
from deadhead import HeadModel
from deadhead.losses.losses import Probe
from deadhead.pruning.judges import OWN_TEXTS, divergences_by_text, divergences_of
from deadhead.scoring.own_text import OwnText
from deadhead.scoring.passes import PassSettings
from deadhead.surgery import masked

SIZES = {"calibration_size": 16, "test_size": 24}


def test_divergences_are_of_the_test_data_and_of_text_that_no_repair_saw():
    loaded = deadhead.load_model("bundled:decoder")
    model, view = loaded.model, HeadModel(loaded.model)
    tasks = deadhead.open_task("bundled:agreement", loaded.tokenizer, config=model.config, **SIZES)
    mask = view.mask.drop("0.1", "1.2")
    found = divergences_by_text(view, tasks.test, lambda: masked(view, mask), seed=3)
    assert [len(each.per_example) for each in found.values()] == [SIZES["test_size"] // 4, 16]
    (test,) = divergences_of(view, tasks.test.probes(), [lambda: masked(view, mask)])
    assert torch.equal(torch.from_numpy(found["test"].per_example), test)
    # by hand: texts that the model writes with another seed, next tokens of each
    texts = OwnText(view, tasks.test.batches(), PassSettings(4), rows=OWN_TEXTS).batches
    seen = OwnText(view, tasks.test.batches(), PassSettings(3), rows=OWN_TEXTS).batches
    assert not torch.equal(texts[0]["input_ids"], seen[0]["input_ids"])
    with torch.no_grad():
        dense = model(**texts[0]).logits.double().log_softmax(-1)
        with masked(view, mask):
            cut = model(**texts[0]).logits.double().log_softmax(-1)
    wanted = (dense.exp() * (dense - cut)).sum(-1).mean(1)
    own = torch.from_numpy(found["own"].per_example)
    torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-6)


def test_a_model_without_text_of_its_own_is_compared_on_the_test_data_alone():
    loaded = deadhead.load_model("bundled:encoder")
    view = HeadModel(loaded.model)
    task = deadhead.open_task(
        "bundled:sentiment", loaded.tokenizer, config=loaded.model.config, **SIZES
    ).test

    class Extended:
        """The task, with an input that text does not have."""

        def batches(self):
            return [{**batch, "position_ids": batch["input_ids"] * 0} for batch in task.batches()]

        def probes(self):
            return [Probe(batch) for batch in self.batches()]

    change = lambda: masked(view, view.mask.drop("0.1"))  # noqa: E731
    assert list(divergences_by_text(view, Extended(), change)) == ["test"]
    assert list(divergences_by_text(view, task, change)) == ["test", "own"]
