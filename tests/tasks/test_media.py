"""Images and recordings: what is read, judged and refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import media
from deadhead.data.encoding import LazyBatches, sound_runs
from deadhead.data.media import Media, wave_of
from deadhead.errors import DataError, DeadheadError
from deadhead.tasks import open_calibration, open_task

pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")
KINDS = ("vit", "clip", "wav2vec2", "wav2vec2-group", "whisper")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("media")
    media.images(place / "colors", 5)
    media.sounds(place / "said", 10)
    return place


def made(kind, place):
    name, _, norm = kind.partition("-")
    more = {"norm": norm} if norm else {}
    model, reader = getattr(media, name)(*([place] if name == "wav2vec2" else []), **more)
    model.config.architectures = [type(model).__name__]
    return model.eval().double(), reader


def source(kind, data):
    return str(data / ("colors" if kind in ("vit", "clip") else "said"))


def doubled(batches):
    return [{k: v.double() if v.is_floating_point() else v for k, v in b.items()} for b in batches]


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_do_not_depend_on_the_batches(kind, data, tmp_path):
    model, reader = made(kind, tmp_path)
    model = model.float()
    found = []
    for size in (1, 4, None):
        tasks = open_task(source(kind, data), reader, config=model.config, batch_size=size)
        assert max(len(run) for run in tasks.test.runs) <= (size or 100)
        found.append((tasks.test, tasks.test.predictions(model)))
    for task, predictions in found[1:]:
        assert task.evaluate(model).value == found[0][0].evaluate(model).value
        for one, other in zip(found[0][1], predictions, strict=True):
            size = min(len(one), len(other))
            np.testing.assert_allclose(one[:size], other[:size], atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_models_own(kind, data, tmp_path):
    model, reader = made(kind, tmp_path)
    if kind == "clip":
        pytest.skip("the loss of CLIP is not one per sample")
    from deadhead.losses.losses import task

    tasks = open_task(source(kind, data), reader, config=model.config, batch_size=1)
    for batch in doubled(tasks.test.batches()):
        with torch.no_grad():
            outputs = model(**batch)
            found = task(model, outputs, batch)
        assert float(found[0]) == pytest.approx(float(outputs.loss), rel=1e-6)


def test_images_are_read_from_every_layout(data, tmp_path):
    _, reader = made("vit", tmp_path)
    config = made("vit", tmp_path)[0].config
    folder = open_task(str(data / "colors"), reader, config=config)
    for split in ("train", "test"):
        shutil.copytree(data / "colors", tmp_path / "split" / split)
    for name in media.COLORS:
        (tmp_path / "split" / "test" / name / "0.png").unlink()
        for number in range(1, 5):
            (tmp_path / "split" / "train" / name / f"{number}.png").unlink()
    split = open_task(str(tmp_path / "split"), reader, config=config)
    assert (split.calibration.size, split.test.size) == (3, 12)
    lines = ["image,class"]
    for name in media.COLORS:
        shutil.copy(data / "colors" / name / "0.png", tmp_path / f"{name}.png")
        lines += [f"{name}.png,{name}"]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    table = open_task(str(tmp_path / "table.csv"), reader, config=config)
    assert table.calibration.kind == "image_classification"
    keys = [sets.calibration.examples.keys[0] for sets in (folder, split, table)]
    assert keys[0] == keys[1] == keys[2]


def test_a_saved_set_of_images_is_read(data, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(str(file) for file in (data / "colors").rglob("*.png"))
    names = list(media.COLORS)
    labels = [names.index(file.split("/")[-2]) for file in files]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    saved = datasets.Dataset.from_dict({"image": files, "label": labels}, features=features)
    saved.shuffle(seed=0).save_to_disk(tmp_path / "saved")
    model, reader = made("vit", tmp_path)
    tasks = open_task(str(tmp_path / "saved"), reader, config=model.config)
    assert (tasks.test.kind, tasks.calibration.size) == ("image_classification", 12)
    known = open_task(str(data / "colors"), reader, config=model.config)
    both = {*known.calibration.examples.keys, *known.test.examples.keys}
    assert set(tasks.calibration.examples.keys) <= both


def test_copies_of_a_file_are_one_example(data, tmp_path):
    model, reader = made("vit", tmp_path)
    for split in ("train", "test"):
        shutil.copytree(data / "colors", tmp_path / "both" / split)
    with pytest.raises(DataError, match="15 examples are in both calibration and test"):
        open_task(str(tmp_path / "both"), reader, config=model.config)


@pytest.mark.parametrize("kind", ["vit", "wav2vec2", "whisper"])
def test_files_without_labels_calibrate(kind, data, tmp_path):
    model, reader = made(kind, tmp_path)
    flat = tmp_path / "flat"
    flat.mkdir()
    files = [f for f in (data / source(kind, data)).rglob("*.*") if f.suffix != ".csv"]
    for number, file in enumerate(files):
        shutil.copy(file, flat / f"{number}{file.suffix}")
    found = open_calibration(str(flat), reader, config=model.config)
    assert found.size == len(files)
    assert all("labels" not in batch for batch in found.batches())
    sets = open_task(None, reader, config=model.config, calibration=str(flat), judged=False)
    assert sets.test is None
    assert sets.held_out.size == round(len(files) * 0.2)
    with pytest.raises(DataError, match="can calibrate, not judge"):
        sets.held_out.evaluate(model)


def test_sound_of_another_rate_is_resampled(tmp_path):
    import soundfile

    state = np.random.default_rng(0)
    for rate in (media.RATE, 2 * media.RATE):
        soundfile.write(tmp_path / f"{rate}.wav", media.wave("ab", state, rate=rate), rate)
    own, other = (wave_of(Media(str(tmp_path / f"{r}.wav")), media.RATE) for r in (8000, 16000))
    assert len(own) == len(other)
    assert np.abs(own - other).max() < 0.1


def test_recordings_without_a_mask_are_batched_by_length(data, tmp_path):
    _, reader = made("wav2vec2-group", tmp_path)
    files = [Media(str(f)) for f in sorted((data / "said").glob("*.wav"))]
    runs = sound_runs(files, reader, batch_size=None, max_tokens=2048)
    for run in runs:
        assert len({len(wave_of(files[row], media.RATE)) for row in run}) == 1
    assert sorted(np.concatenate(runs)) == list(range(len(files)))


def test_rates_are_ratios_of_sums(data, tmp_path):
    model, reader = made("wav2vec2", tmp_path)
    test = open_task(str(data / "said"), reader, config=model.config).test
    test.transcripts = ["a b c a", "b"]
    said = [np.array([0.0, 3, 2, 4, 2, 5, 2, 3]), np.array([0.5, 3, 3])]  # "a b c a" and "a"
    found = test.judge(said, np.arange(2))
    assert found.metrics == {"wer": 1 / 5, "cer": 1 / 8, "loss": 0.25}
    assert found.per_example.tolist() == [0, 1]
    assert found.weights.tolist() == [4, 1]


def test_transcripts_are_written_in_the_letters_that_are_known(data, tmp_path):
    model, reader = made("wav2vec2", tmp_path)
    shutil.copytree(data / "said", tmp_path / "loud")
    table = tmp_path / "loud" / "metadata.csv"
    head, *lines = table.read_text().splitlines()
    lines = [f"{name},{text.upper()}" for name, text in (line.split(",") for line in lines)]
    table.write_text("\n".join([head, *lines]))
    loud, known = (
        open_task(str(place), reader, config=model.config).test.transcripts
        for place in (tmp_path / "loud", data / "said")
    )
    assert loud == known


def test_batches_are_kept_while_there_is_room():
    loaded = []

    def load(number):
        loaded.append(number)
        return {"pixel_values": torch.full((1, 10), float(number))}

    lazy = LazyBatches([np.array([n]) for n in range(3)], load, room=80)
    for _ in range(2):
        assert [float(packed.batch["pixel_values"][0, 0]) for packed in lazy] == [0, 1, 2]
    assert loaded == [0, 1, 2, 2]
    assert lazy[-1].rows.tolist() == [2]
    with pytest.raises(IndexError):
        lazy[3]


def spoil(place, kind):
    """Return a source that is wrong, and what is said."""
    if kind == "missing":
        (place / "colors.csv").write_text("image,label\nnone.png,red\nnone2.png,blue\nx.png,red\n")
        return place / "colors.csv", "names 'none.png', and there is no file"
    if kind == "broken":
        for file in (place / "colors" / "red").iterdir():
            file.write_bytes(file.read_bytes()[:60])
        return place / "colors", r"\.png' is no image that Pillow can read"
    if kind == "empty":
        (place / "nothing").mkdir()
        return place / "nothing", "has no files to read"
    if kind == "mixed":
        shutil.copy(place / "said" / "0.wav", place / "colors" / "red")
        return place / "colors", "has both images and recordings"
    if kind == "beside":
        shutil.copy(place / "colors" / "red" / "0.png", place / "colors")
        return place / "colors", "has files in the folders blue, green, red and beside them"
    if kind == "unlabeled":
        return place / "colors" / "red", "no label among its columns image"
    (place / "colors" / "red").rename(place / "colors" / "purple")
    return place / "colors", "label 'purple' is not known to the model, which has blue, green, red"


@pytest.mark.parametrize(
    "kind", ["missing", "broken", "empty", "mixed", "beside", "unlabeled", "unknown class"]
)
def test_bad_images_are_refused_in_one_line(kind, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    model, reader = made("vit", tmp_path)
    place, said = spoil(tmp_path / "data", kind)
    with pytest.raises(DeadheadError, match=said) as error:
        open_task(str(place), reader, config=model.config).calibration.batches()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not sound", r"0\.wav' is no recording that soundfile can read"),
        (None, r"0\.wav' has no samples"),
    ],
)
def test_bad_recordings_are_refused_in_one_line(content, said, data, tmp_path):
    import soundfile

    shutil.copytree(data / "said", tmp_path / "said")
    file = tmp_path / "said" / "0.wav"
    if content is None:
        soundfile.write(file, np.zeros(0), media.RATE)
    else:
        file.write_bytes(content)
    model, reader = made("wav2vec2", tmp_path)
    with pytest.raises(DataError, match=said) as error:
        open_task(str(tmp_path / "said"), reader, config=model.config).calibration.batches()
    assert "\n" not in str(error.value)


def test_a_recording_beyond_what_the_model_hears_is_refused(data, tmp_path):
    import soundfile

    state = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", state.normal(size=12000), 8000)
    lines = [f"{number}.wav,ab c" for number in range(3)]
    (tmp_path / "long.csv").write_text("\n".join(["audio,text", *lines]))
    model, reader = made("whisper", tmp_path)
    with pytest.raises(DataError, match=r"has 1\.5 seconds, and the model takes 1\.0"):
        open_task(str(tmp_path / "long.csv"), reader, config=model.config).calibration.batches()


@pytest.mark.parametrize(
    ("kind", "of", "said"),
    [
        ("wav2vec2", "vit", "has no feature extractor to read sound with"),
        ("vit", "wav2vec2", "has no image processor to read images with"),
    ],
)
def test_a_processor_of_something_else_is_refused(kind, of, said, data, tmp_path):
    model, _ = made(kind, tmp_path)
    _, reader = made(of, tmp_path)
    with pytest.raises(DataError, match=said):
        open_task(source(kind, data), reader, config=model.config)


def test_clip_wants_names_of_classes_and_texts_beside_images(data, tmp_path):
    model, reader = made("clip", tmp_path)
    (tmp_path / "numbers.csv").write_text(
        "image,label\n" + "".join(f"{data}/colors/red/{n}.png,{n % 2}\n" for n in range(5))
    )
    with pytest.raises(DataError, match="classes need names"):
        open_task(str(tmp_path / "numbers.csv"), reader, config=model.config)
    with pytest.raises(DataError, match="reads a text beside each"):
        open_calibration(str(data / "colors" / "red"), reader, config=model.config)
    (tmp_path / "texts.csv").write_text(
        "image,caption\n" + "".join(f"{data}/colors/red/{n}.png,a photo of red\n" for n in range(5))
    )
    found = open_calibration(str(tmp_path / "texts.csv"), reader, config=model.config)
    assert {"pixel_values", "input_ids"} <= found.batches()[0].keys()


@pytest.mark.parametrize("name", ["PIL", "soundfile", "jiwer"])
def test_a_missing_package_is_named_with_its_command(name, data, tmp_path, monkeypatch):
    import sys

    kind = "vit" if name == "PIL" else "wav2vec2"
    model, reader = made(kind, tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    extra = "vision" if name == "PIL" else "speech"
    with pytest.raises(DeadheadError, match=rf"pip install 'deadhead\[{extra}\]'") as error:
        open_task(source(kind, data), reader, config=model.config).calibration.batches()
    assert "\n" not in str(error.value)
