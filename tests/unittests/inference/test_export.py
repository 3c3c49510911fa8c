"""Pretrained folders, written and loaded by SpeechBrain's own interface."""

import errno
import json
import logging
import os

import numpy as np
import pytest
import soundfile
import torch
from hostile import snapshot
from hostile_folders import HOSTILE
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition

from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.export import (
    export_pretrained,
    require_exportable,
)
from speechbrain_ext.inference.safe_loading import load_folder
from speechbrain_ext.inference.safe_weights import has_safetensors
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.inference.start_from import load_pretrained
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SoftmaxAngularPrototypical, SphereFace2
from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.calibration import (
    Calibration,
    load_calibrations,
    save_calibrations,
)
from speechbrain_ext.processing.cohort_file import load_cohort, save_cohort
from speechbrain_ext.utils import folders

RECIPE = """\
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 40
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
    input_size: 40
    block_sizes: [1, 1, 1, 1]
    channels: 4
    lin_neurons: 8
classifier: !name:speechbrain_ext.nnet.classifiers.CosineClassifier
    input_size: 8
data_folder: /somewhere
"""


@pytest.fixture
def parts():
    """An encoder, a head and a label map of three speakers."""
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["a", "b", "c"])
    modules = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
        "loss": SphereFace2(),
    }
    return modules, encoder


def test_interface_loads_what_was_exported(tmp_path, parts):
    folder = export_pretrained(tmp_path / "pretrained", RECIPE, *parts, 8)
    loaded = EncoderClassifier.from_hparams(source=str(folder))
    wavs = torch.randn(2, 8000) * 0.1
    for key, value in parts[0]["embedding_model"].state_dict().items():
        assert torch.equal(loaded.mods.embedding_model.state_dict()[key], value)
    scores, _, index, names = loaded.classify_batch(wavs)
    assert scores.shape == (2, 3)
    loss = torch.load(folder / "loss.ckpt")  # what fine-tuning goes on with
    assert loss.keys() == {"bias"}
    assert names == [["a", "b", "c"][i] for i in index]
    assert "/somewhere" not in (folder / "hyperparams.yaml").read_text()


def test_a_folder_has_recipe_checksums_and_card(tmp_path, parts):
    recipe = RECIPE + "augment:\n    noise_folder: /noise\n"
    folder = export_pretrained(
        tmp_path / "p", recipe, *parts, 8, data="Ten hours."
    )
    for path in folder.iterdir():
        assert b"/somewhere" not in path.read_bytes()
        assert b"/noise" not in path.read_bytes()
    assert "data_folder:\n" in (folder / "recipe.yaml").read_text()
    assert "Ten hours." in (folder / "README.md").read_text()
    sums = json.loads((folder / "sums.json").read_text())
    for name in ("hyperparams.yaml", "loss.ckpt", "label_encoder.ckpt"):
        assert sums[name][0] == (folder / name).stat().st_size
    assert load_folder(folder).label_names == ["a", "b", "c"]


def test_safetensors_have_the_weights_of_the_ckpt(tmp_path, parts, caplog):
    with caplog.at_level(logging.INFO):
        folder = export_pretrained(tmp_path / "p", RECIPE, *parts, 8)
    if not has_safetensors():
        assert not list(folder.glob("*.safetensors"))
        pytest.skip("safetensors is not installed")
    from safetensors.torch import load_file

    sums = json.loads((folder / "sums.json").read_text())
    for name, module in parts[0].items():
        found = load_file(folder / f"{name}.safetensors")
        state = module.state_dict()
        torch.testing.assert_close(found, dict(state), rtol=0, atol=0)
        assert f"{name}.safetensors" in sums
    for path in folder.glob("*.ckpt"):
        if path.name != "label_encoder.ckpt":
            path.unlink()  # the safetensors are enough
    wavs = torch.randn(1, 8000)
    loaded = load_folder(folder)
    own = SpeakerRecognition(modules=loaded.modules, hparams=loaded.hparams)
    features = parts[0]["embedding_model"].eval()
    made = loaded.modules["mean_var_norm"](
        loaded.modules["compute_features"](wavs), torch.ones(1)
    )
    torch.testing.assert_close(own.encode_batch(wavs), features(made))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_files_are_heard_at_the_rate_of_the_recipe(tmp_path, parts, rate):
    recipe = RECIPE if rate == 16000 else RECIPE + f"sample_rate: {rate}\n"
    folder = export_pretrained(tmp_path / "pretrained", recipe, *parts, 8)
    loaded = SpeakerRecognition.from_hparams(source=str(folder))
    assert loaded.audio_normalizer.sample_rate == rate
    time = np.arange(2 * 48000) / 48000
    soundfile.write(tmp_path / "a.wav", np.sin(440 * time), 48000)
    assert loaded.load_audio(str(tmp_path / "a.wav")).shape == (2 * rate,)


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (np.zeros(16000), "digital silence"),
        (np.full(16000, 0.25), "digital silence"),
        (np.sin(np.arange(400)), "0.025 s of sound"),
    ],
)
def test_silence_is_not_the_same_speaker(tmp_path, parts, signal, reason):
    folder = export_pretrained(tmp_path / "pretrained", RECIPE, *parts, 8)
    loaded = SpeakerRecognition.from_hparams(source=str(folder))
    path = str(tmp_path / "a.wav")
    soundfile.write(path, signal, 16000)
    with pytest.raises(NoSpeechError, match=reason):
        loaded.verify_files(path, path)
    signal = torch.from_numpy(signal).float()
    with pytest.raises(NoSpeechError, match=reason):
        loaded.encode_batch(signal)
    speech = torch.randn(2, 16000)
    speech[1, : len(signal)] = signal
    speech[1, len(signal) :] = signal[-1]
    with pytest.raises(NoSpeechError, match=f"signal 2 of 2 .{reason}"):
        loaded.encode_batch(speech, torch.ones(2))


@pytest.mark.parametrize("tag", ["!name", "!new"])
def test_head_without_arguments_is_exported(tag, tmp_path, parts):
    recipe = RECIPE.split("classifier:")[0]
    recipe += f"classifier: {tag}:torch.nn.Identity\n"
    modules, encoder = parts
    modules["classifier"] = torch.nn.Identity()
    folder = export_pretrained(tmp_path / "p", recipe, modules, encoder, 8)
    loaded = EncoderClassifier.from_hparams(source=str(folder))
    assert loaded.encode_batch(torch.randn(8000)).shape == (1, 1, 8)


def test_folder_is_replaced_whole_or_not_at_all(tmp_path, parts, monkeypatch):
    folder = export_pretrained(tmp_path / "pretrained", RECIPE, *parts, 8)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with torch.no_grad():
        parts[0]["embedding_model"].embedding.bias += 1
    monkeypatch.setattr(torch, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_pretrained(folder, RECIPE, *parts, 8)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    monkeypatch.undo()
    export_pretrained(folder, RECIPE, *parts, 8)
    assert (folder / "embedding_model.ckpt").read_bytes() != before[
        "embedding_model.ckpt"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["pretrained"]


def test_what_was_exported_is_gone_on_from(tmp_path, parts):
    folder = export_pretrained(tmp_path / "p", RECIPE, *parts, 8)
    other = {
        "embedding_model": ResNet(40, (1, 1, 1, 1), 4, 8),
        "classifier": CosineClassifier(8, 3),
        "loss": SphereFace2(),
    }
    assert load_pretrained(folder, other, parts[1]) == 3
    for name, module in other.items():
        for key, value in module.state_dict().items():
            assert torch.equal(parts[0][name].state_dict()[key], value)
    with pytest.raises(ValueError, match="not fit the recipe's classifier"):
        load_pretrained(
            folder, {"classifier": CosineClassifier(8, 4)}, parts[1]
        )


def test_rows_of_a_head_are_matched_by_name(tmp_path, parts):
    torch.manual_seed(1)
    parts[0]["classifier"] = CosineClassifier(8, 3, sub_centers=2)
    parts[0]["loss"] = SoftmaxAngularPrototypical(8, 3)
    folder = export_pretrained(tmp_path / "p", RECIPE, *parts, 8)
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(["x", "c", "a", "y", "b"])
    head = CosineClassifier(8, 5, sub_centers=2)
    drawn = head.weight.detach().clone()
    loss = SoftmaxAngularPrototypical(8, 5)
    other = {"classifier": head, "loss": loss}
    assert load_pretrained(folder, other, encoder) == 3
    rows = head.weight.view(5, 2, 8)
    known = parts[0]["classifier"].weight.view(3, 2, 8)
    assert torch.equal(rows[[2, 4, 1]], known)
    assert torch.equal(rows[[0, 3]], drawn.view(5, 2, 8)[[0, 3]])
    known = parts[0]["loss"].classifier
    assert torch.equal(loss.classifier.bias[[2, 4, 1]], known.bias)
    with pytest.raises(ValueError, match="not fit the recipe's classifier"):
        load_pretrained(folder, {"classifier": CosineClassifier(7, 5)}, encoder)


@pytest.fixture
def exported(tmp_path, parts):
    """A folder that was exported, verified with and described."""
    folder = tmp_path / "pretrained"
    export_pretrained(folder, RECIPE, *parts, 8, card="what it is")
    save_calibrations(folder / "calibration.json", CALIBRATION)
    back_end = BackEnd(torch.eye(8), list("abcdefgh"))
    path = folder / "normalization.npz"
    save_cohort(path, back_end, model_fingerprint(folder))
    return folder


CALIBRATION = {"cosine": Calibration([2.0], 0.5, ["score"])}


def changed(parts):
    """Other weights."""
    with torch.no_grad():
        parts[0]["embedding_model"].embedding.bias += 1
    return parts


USERS = ["thesis.txt", "avg_model.pt", "calibration_notes.json", ".hidden"]


@pytest.mark.parametrize("name", USERS)
def test_a_users_file_stays_in_the_folder(name, exported, parts):
    (exported / name).write_text("mine")
    inode = (exported / name).stat().st_ino
    export_pretrained(exported, RECIPE, *changed(parts), 8)
    assert (exported / name).read_text() == "mine"
    assert (exported / name).stat().st_ino == inode
    assert not (exported / "calibration.json").exists()


@pytest.mark.parametrize(
    "name", ["embedding_model.ckpt", "hyperparams.yaml", "calibration.json"]
)
@pytest.mark.parametrize("whose", ["never ours", "changed by the user"])
def test_a_users_file_of_our_name_is_refused(
    name, whose, exported, parts, tmp_path
):
    folder = exported if whose != "never ours" else tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    before = snapshot(folder)
    for call in (
        lambda: require_exportable(folder),
        lambda: export_pretrained(folder, RECIPE, *changed(parts), 8),
    ):
        with pytest.raises(FileExistsError, match=f"{name} was not written"):
            call()
    assert snapshot(folder) == before


def test_a_readme_of_the_users_stays_unless_one_is_to_be_written(
    exported, parts
):
    (exported / "README.md").write_text("mine")
    export_pretrained(exported, RECIPE, *changed(parts), 8)
    assert (exported / "README.md").read_text() == "mine"
    with pytest.raises(FileExistsError, match="README.md was not written"):
        export_pretrained(exported, RECIPE, *parts, 8, card="another")
    assert (exported / "README.md").read_text() == "mine"


def test_a_folder_in_it_is_refused(exported, parts):
    (exported / "work").mkdir()
    (exported / "work" / "thesis.tex").write_text("mine")
    before = snapshot(exported)
    with pytest.raises(FileExistsError, match="work is not a regular file"):
        export_pretrained(exported, RECIPE, *changed(parts), 8)
    assert snapshot(exported) == before


def test_what_belongs_to_the_same_weights_is_kept(exported, parts, caplog):
    before = snapshot(exported)
    with caplog.at_level(logging.INFO):
        export_pretrained(exported, RECIPE, *parts, 8)
    assert snapshot(exported) == before and "left out" not in caplog.text
    # another head, loss and label map are the same embeddings
    with torch.no_grad():
        parts[0]["classifier"].weight += 1
    export_pretrained(exported, RECIPE, *parts, 8)
    assert (exported / "README.md").read_text() == "what it is"
    found = load_calibrations(exported / "calibration.json")
    assert found["cosine"].bias == 0.5
    fingerprint = model_fingerprint(exported)
    load_cohort(exported / "normalization.npz", fingerprint)
    # and they can be written again
    save_calibrations(exported / "calibration.json", CALIBRATION)
    export_pretrained(exported, RECIPE, *parts, 8, card="other words")
    assert (exported / "README.md").read_text() == "other words"
    with caplog.at_level(logging.INFO):
        export_pretrained(exported, RECIPE, *changed(parts), 8)
    assert (
        "Its old calibration.json and normalization.npz did not" in caplog.text
    )
    assert not (exported / "calibration.json").exists()
    assert not (exported / "normalization.npz").exists()
    card = (exported / "README.md").read_text()  # a new one
    assert "other words" not in card and "# ResNet" in card


def test_the_fingerprint_of_the_weights_is_that_of_every_export(
    exported, parts, tmp_path
):
    other = export_pretrained(tmp_path / "other", RECIPE, *parts, 8)
    assert model_fingerprint(other) == model_fingerprint(exported)


@pytest.mark.parametrize("way", ["exchange", "two renames"])
@pytest.mark.parametrize("call", range(12))
def test_a_full_disk_leaves_the_old_folder(
    way, call, exported, parts, monkeypatch
):
    if way == "two renames":
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    before, calls = snapshot(exported.parent), []
    real = os.fsync  # once a file

    def full(descriptor):
        calls.append(1)
        if len(calls) > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    export = changed(parts)
    try:
        export_pretrained(exported, RECIPE, *export, 8, card="other")
    except OSError as error:
        assert "No space left while writing to" in str(error)
        assert snapshot(exported.parent) == before
    else:
        assert call >= 7  # files
    monkeypatch.undo()
    export_pretrained(exported, RECIPE, *export, 8, card="other")
    found = torch.load(exported / "embedding_model.ckpt")
    wanted = export[0]["embedding_model"].embedding.bias
    assert torch.equal(found["embedding.bias"], wanted)
    assert os.listdir(exported.parent) == ["pretrained"]


def test_a_journal_goes_with_a_copied_folder(exported, parts, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    export_pretrained(copy, RECIPE, *changed(parts), 8)
    assert json.loads((exported / "calibration.json").read_text())


@pytest.mark.parametrize(
    "name", ["bytearray bomb", "pickle that calls", "link outside", "pipe"]
)
def test_training_does_not_start_from_a_hostile_folder(
    name, exported, parts, tmp_path
):
    (tmp_path / "outside").mkdir()
    for safe in exported.glob("*.safetensors"):  # read instead of a .ckpt
        safe.unlink()
    change, match = HOSTILE[name]
    change(exported, tmp_path / "outside")
    with pytest.raises(ValueError, match=match):
        load_pretrained(exported, parts[0], parts[1])
    assert not list((tmp_path / "outside").iterdir())
