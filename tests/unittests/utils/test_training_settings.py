"""What a report says of the training."""

import shutil

import pytest

from speechbrain_ext.utils.training_settings import training_settings

ENCODER = """
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
  n_mels: 80
  sample_rate: 16000
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
  block_sizes: [3, 4, 6, 3]   # ResNet34
  channels: 32
"""
HEAD = """
classifier: !new:speechbrain_ext.nnet.classifiers.CosineClassifier
  out_neurons: 5994
"""
TRAINING = """
seed: 42
data_folder: /home/someone/VoxCeleb1, /data/VoxCeleb2
number_of_epochs: 150
batch_size: 256
sentence_len: 2.0
speeds: [1.0, 0.9, 1.1]
noise_folder: /home/someone/musan
rir_folder:
label_noise: {kind: symmetric, rate: 0.3}
dev_label_noise: {kind: session, rate: 0.2}
precision: fp32
final_margin: 0.2
classifier: !name:speechbrain_ext.nnet.classifiers.CosineClassifier
  input_size: 256
loss: &id1 !new:speechbrain_ext.nnet.losses.SphereFace2
  margin_type: C
  margin: 0.0
modules:
  loss: *id1
"""


@pytest.fixture
def folder(tmp_path):
    """A run's folder with the encoder in it."""
    encoder = tmp_path / "run" / "pretrained"
    encoder.mkdir(parents=True)
    (encoder / "hyperparams.yaml").write_text(ENCODER + HEAD)
    (tmp_path / "run" / "hyperparams.yaml").write_text(ENCODER + TRAINING)
    return encoder


def test_settings_come_from_both_files(folder):
    assert training_settings(folder) == {
        "encoder": "run/pretrained",
        "network": "ResNet (block_sizes [3, 4, 6, 3], channels 32)",
        "front end": "KaldiFbank (n_mels 80, sample_rate 16000)",
        "classes": "5994",
        "loss": "SphereFace2 (margin_type C, margin 0.0)",
        "final margin": "0.2",
        "epochs": "150",
        "batch size (global)": "256",
        "crop": "2.0 s",
        "speeds": "[1.0, 0.9, 1.1]",
        "seed": "42",
        "noise": "musan",
        "reverberation": "none",
        "corpus": "VoxCeleb1, VoxCeleb2",
        "label noise": "kind symmetric, rate 0.3",
        "dev label noise": "kind session, rate 0.2",
    }


def test_encoder_that_was_moved_tells_its_network(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "pretrained"
    shutil.copytree(folder, moved)
    found = training_settings(moved)
    assert found["network"].startswith("ResNet (")
    assert found["training"] == (
        "not known: elsewhere/hyperparams.yaml does not exist"
    )
    # the YAML of another training is not taken for this one's
    (moved.parent / "hyperparams.yaml").write_text(
        (ENCODER + TRAINING).replace("channels: 32", "channels: 64")
    )
    found = training_settings(moved)
    assert "loss" not in found
    assert "another network" in found["training"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "[1, 2",
        "a: &a [*a]\nembedding_model: *a",
        "embedding_model: &a {b: *a}",
        "\x00",
        "seed: !!python/object/apply:os.system [exit 1]",
        "embedding_model: " + "[\n " * 3000,  # on a line it takes seconds
        b"embedding_model: \xff\xfe",
    ],
    ids=repr,
)
def test_broken_files_are_told_and_raise_nothing(folder, text):
    data = text if isinstance(text, bytes) else text.encode()
    (folder.parent / "hyperparams.yaml").write_bytes(data)
    found = training_settings(folder)
    assert found["training"].startswith("not known: ")
    assert len(found["training"]) < 500
    (folder / "hyperparams.yaml").write_bytes(data)
    assert training_settings(folder)["encoder"] == "run/pretrained"
