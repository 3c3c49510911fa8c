"""Clova's names: which network and front end each stands for."""

import pytest
import torch

from speechbrain_ext.integrations.published_checkpoints import (
    describe_checkpoint,
)
from speechbrain_ext.lobes.features import (
    LogMelSpectrogram,
    MagnitudeSpectrogram,
)


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
    found, _ = describe_checkpoint("clova", name, state)
    maker, arguments = found["embedding_model"]
    model = maker(**arguments)
    assert model.form == form
    assert model.embedding.out_features == 512
    assert found["compute_features"][0] is front
    features = front(**found["compute_features"][1])(torch.rand(1, 16000))
    assert features.shape[2] == model.input_size
