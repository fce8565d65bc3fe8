"""Models without a head: pairs of texts with scores judge them, any texts calibrate them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from deadhead.errors import DataError
from deadhead.losses.embeddings import embedder_of
from deadhead.tasks import open_calibration, open_task
from models import VOCAB, make
from tiny_words import tokenizer


@pytest.fixture
def pairs(tmp_path):
    state = np.random.default_rng(0)
    lines = ["sentence1\tsentence2\tscore"]
    for _ in range(30):
        one, two = (" ".join(f"w{n}" for n in state.integers(2, VOCAB, 5)) for _ in range(2))
        lines.append(f"{one}\t{two}\t{state.uniform(0, 5):.3f}")
    file = tmp_path / "sts.tsv"
    file.write_text("\n".join(lines))
    return file


def encoder():
    model = make("bert", "base", dtype=torch.float32)
    model.config.architectures = ["BertModel"]
    return model


def test_cosines_are_ranked_as_the_scores_are(pairs):
    model, words = encoder(), tokenizer()
    test = open_task(str(pairs), words, config=model.config).test
    assert (test.kind, test.metric, test.size) == ("embeddings", "spearman", 6)
    found = test.evaluate(model)
    cosines = []
    for texts in test.examples.texts:
        each = []
        for text in texts:
            inputs = words(text, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                each.append(model(**inputs).last_hidden_state[0].mean(0))
        cosines.append(float(torch.nn.functional.cosine_similarity(*each, dim=0)))
    assert found.value == pytest.approx(spearmanr(cosines, test.targets).statistic, abs=1e-6)
    assert found.interval()[0] <= found.value <= found.interval()[1]
    for size in (1, 3):
        alone = open_task(str(pairs), words, config=model.config, batch_size=size).test
        assert alone.evaluate(model).value == pytest.approx(found.value, abs=1e-6)


def test_texts_calibrate_one_by_one_with_the_prompt_and_length_of_the_folder(pairs, tmp_path):
    place = tmp_path / "embedder"
    place.mkdir()
    prompt = {"prompts": {"query": "w2 w3 "}, "default_prompt_name": "query"}
    (place / "config_sentence_transformers.json").write_text(json.dumps(prompt))
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    model, words = encoder(), tokenizer()
    model.config.name_or_path = str(place)
    found = open_calibration(str(pairs), words, config=model.config, calibration_size=10)
    ids = torch.cat([batch["input_ids"] for batch in found.batches()])
    assert ids.shape == (20, 4)
    assert (ids[:, :2] == torch.tensor([2, 3])).all()
    assert all("labels" not in batch for batch in found.batches())


def test_a_prompt_that_is_to_be_left_out_of_the_mean_is_refused(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    module = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    config = encoder().config
    config.name_or_path = str(tmp_path)
    assert embedder_of(config).pools == ("mean",), "without a prompt there is nothing to leave out"
    prompt = {"prompts": {"query": "w2 w3 "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompt))
    with pytest.raises(DataError, match="leaves the prompt 'w2 w3 ' out of its mean"):
        embedder_of(config)


def test_texts_without_scores_are_held_out(pairs, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(f"w{n} w{n + 1}" for n in range(2, 22)))
    model = encoder()
    given = {"calibration": str(tmp_path / "texts.txt"), "judged": False}
    sets = open_task(None, tokenizer(), config=model.config, **given)
    assert (sets.test, sets.held_out.size) == (None, 4)
    with pytest.raises(DataError, match="can calibrate, not judge"):
        sets.held_out.evaluate(model)
    with pytest.raises(DataError, match="no two texts and a score among its columns text"):
        open_task(str(tmp_path / "texts.txt"), tokenizer(), config=model.config)


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_score_that_is_no_number_is_refused(score, pairs):
    text = pairs.read_text().splitlines()
    text[3] = text[3].rsplit("\t", 1)[0] + f"\t{score}"
    pairs.write_text("\n".join(text))
    with pytest.raises(DataError, match=f"score '{score}' of example") as error:
        open_task(str(pairs), tokenizer(), config=encoder().config)
    assert "\n" not in str(error.value)


def test_a_model_with_a_head_is_refused(pairs):
    model = make("bert", "masked_lm")
    model.config.architectures = ["BertForMaskedLM"]
    with pytest.raises(DataError, match="BertForMaskedLM is made for something else"):
        open_task(str(pairs), tokenizer(), config=model.config, kind="embeddings")
