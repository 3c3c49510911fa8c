"""Published names: which network each stands for."""

import pytest
import torch

from speechbrain_ext.lobes.features import (
    LogMelSpectrogram,
    MagnitudeSpectrogram,
)
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.utils.architectures import described


def resnet_state(channels=4, width=32, embedding=6, mels=80, widening=2):
    """What the sizes of a WeSpeaker ResNet are read off."""
    pooled = widening * width * mels // 8
    return {
        "conv1.weight": torch.zeros(channels, 1, 3, 3),
        "seg_1.weight": torch.zeros(embedding, pooled),
    }


@pytest.mark.parametrize(
    ("name", "blocks", "kind"),
    [
        ("ResNet18", (2, 2, 2, 2), "basic"),
        ("ResNet34", (3, 4, 6, 3), "basic"),
        ("ResNet50", (3, 4, 6, 3), "bottleneck"),
        ("ResNet101", (3, 4, 23, 3), "bottleneck"),
        ("ResNet152", (3, 8, 36, 3), "bottleneck"),
        ("ResNet221", (6, 16, 48, 3), "bottleneck"),
        ("ResNet293", (10, 20, 64, 3), "bottleneck"),
    ],
)
def test_wespeaker_names(name, blocks, kind):
    width = 32 if kind == "basic" else 128
    found, _ = described("wespeaker", name, resnet_state(width=width))
    maker, arguments = found["embedding_model"]
    assert maker is ResNet
    assert arguments["block_sizes"] == blocks
    assert arguments["block"] == kind
    assert arguments["input_size"] == 80
    assert found["compute_features"][1] == {"n_mels": 80}


def test_pooling_of_the_name_tells_the_sizes():
    state = resnet_state(widening=1)
    found, _ = described("wespeaker", "ResNet34_TAP", state)
    assert found["embedding_model"][1]["input_size"] == 80
    given, _ = described("wespeaker", "ResNet34_TAP", state, input_size=77)
    assert given["embedding_model"][1]["input_size"] == 77
    with pytest.raises(ValueError, match="got 'MEAN'"):
        described("wespeaker", "ResNet34_MEAN", state)


@pytest.mark.parametrize(
    ("family", "name", "embedding", "epsilon"),
    [
        ("wespeaker", "Gemini_DF_ResNet114", "seg_1", 1e-7),
        ("golden_gemini", "Gemini_df_resnet114", "embedding", 1e-10),
    ],
)
def test_df_resnets_differ_in_their_epsilon(family, name, embedding, epsilon):
    state = {
        f"downsample_layers.{i}.0.weight": torch.zeros(8, 8, 3, 3)
        for i in range(5)
    }
    state[f"{embedding}.weight"] = torch.zeros(6, 2 * 8 * 5)
    found, tensors = described(family, name, state)
    maker, arguments = found["embedding_model"]
    assert maker is DFResNet
    assert arguments["input_size"] == 80
    tiny = {"block_sizes": (1, 1, 1, 1), "channels": (4, 4, 4, 4, 4)}
    assert maker(**{**arguments, **tiny}).pooling.epsilon == epsilon
    assert "downsampling.0.0.weight" in tensors


@pytest.mark.parametrize(
    ("name", "front", "form"),
    [
        ("ResNetSE34", MagnitudeSpectrogram, "thin"),
        ("ResNetSE34L", LogMelSpectrogram, "fast"),
        ("ResNetSE34V2", LogMelSpectrogram, "v2"),
    ],
)
def test_clovas_networks_and_their_front_ends(name, front, form):
    state = {
        "fc.weight": torch.zeros(512, 128),
        "conv1.weight": torch.zeros(16, 1, 7, 7),
    }
    found, _ = described("clova", name, state)
    maker, arguments = found["embedding_model"]
    model = maker(**arguments)
    assert model.form == form
    assert model.embedding.out_features == 512
    assert found["compute_features"][0] is front
    features = front(**found["compute_features"][1])(torch.rand(1, 16000))
    assert features.shape[2] == model.input_size


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("kaldi", "ResNet34", "got 'kaldi'"),
        ("wespeaker", "ResNet9", "got 'ResNet9'"),
        ("wespeaker", "Gemini_DF_ResNet61", "got 'Gemini_DF_ResNet61'"),
        ("golden_gemini", "114", "got '114'"),
        ("golden_gemini", "ResNet34", "got 'ResNet34'"),
        ("clova", "RawNet3", "no 'fc.weight'"),
    ],
)
def test_unknown_names_are_rejected(family, name, message):
    with pytest.raises(ValueError, match=message):
        described(family, name, resnet_state())


def test_more_than_tensors_is_rejected():
    with pytest.raises(ValueError, match="tensors alone"):
        described("wespeaker", "ResNet34", {"epoch": 3})
