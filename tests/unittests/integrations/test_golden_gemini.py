"""DF-ResNets: which network a name stands for."""

import pytest
import torch

from speechbrain_ext.integrations.published_checkpoints import (
    describe_checkpoint,
)
from speechbrain_ext.lobes.models.DFResNet import DFResNet


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
    found, tensors = describe_checkpoint(family, name, state)
    maker, arguments = found["embedding_model"]
    assert maker is DFResNet
    assert arguments["input_size"] == 80
    tiny = {"block_sizes": (1, 1, 1, 1), "channels": (4, 4, 4, 4, 4)}
    assert maker(**{**arguments, **tiny}).pooling.epsilon == epsilon
    assert "downsampling.0.0.weight" in tensors
