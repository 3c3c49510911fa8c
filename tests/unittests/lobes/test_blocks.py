"""What the networks share, against Open Speaker Verification's numbers."""

import functools

import numpy as np
import pytest
import torch

from speechbrain_ext.lobes.models.blocks import (
    Embedding,
    SqueezeExcitation,
    set_norm_momentum,
)
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling

# open-speaker-verification@0d415d5 mmcls SEResNet_SV (blocks 1, 2, 1, 1, 4
# channels, se_ratio 2, all stages out) and StatsPoolingMSEA (6), weights by
# `rule_weights`, in float64 on default_rng(5).standard_normal((2, 50, 41))
EMBEDDINGS = [[0.01575614173499093, 0.12021569955694988, 0.1294362542190134, -0.1413443370017392, -0.09948923870794465, 0.32630967194547494], [0.01575614173499093, 0.12021569955694988, 0.1294362542190134, -0.19202476305733068, -0.09948923870794465, 0.441409219225449]]  # fmt: skip


def published(key):
    """The published key of one of ours."""
    if key.startswith("embedding.norm"):
        return key.replace("embedding.norm", "neck.embedding.2")
    if key.startswith("embedding"):
        return key.replace("embedding", "neck.embedding.0")
    if key.startswith("stages."):
        _, stage, rest = key.split(".", 2)
        key = f"layer{int(stage) + 1}.{rest}"
    key = key.replace("shortcut", "downsample")
    key = key.replace("se.fc.0", "se_layer.conv1.conv")
    return "backbone." + key.replace("se.fc.2", "se_layer.conv2.conv")


def test_embeddings_match_open_speaker_verification(rule_weights):
    model = ResNet(
        *(41, (1, 2, 1, 1), 4, 6),
        reduction=2,
        all_stages=True,
        activated=True,
        pooling=functools.partial(
            TemporalStatisticsPooling, epsilon=1e-8, unbiased=False
        ),
    ).double()
    own = model.state_dict()
    # squeeze-excitation is a convolution there
    shapes = {
        published(key): [
            *value.shape,
            *[1, 1] * (".fc." in key and value.dim() > 1),
        ]
        for key, value in own.items()
    }
    drawn = rule_weights(shapes).values()
    model.load_state_dict(
        {k: d.view(own[k].shape) for k, d in zip(own, drawn, strict=True)}
    )
    x = np.random.default_rng(5).standard_normal((2, 50, 41))
    torch.testing.assert_close(
        model.eval()(torch.tensor(x)).squeeze(1),
        torch.tensor(EMBEDDINGS, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-9,
    )


def test_squeeze_excitation_leaves_padding_out():
    layer = SqueezeExcitation(8)
    x = torch.randn(1, 8, 5, 9)
    padded = torch.nn.functional.pad(x, (0, 4))
    found = layer(padded, torch.tensor([9]))
    torch.testing.assert_close(found[..., :9], layer(x))


def test_activated_embedding_is_normalised():
    found = Embedding(6, 4, activated=True)(torch.randn(50, 1, 6))
    assert found.shape == (50, 1, 4)
    torch.testing.assert_close(
        found.mean(dim=0), torch.zeros(1, 4), atol=1e-5, rtol=0
    )


def test_bad_momentum_is_rejected():
    with pytest.raises(ValueError, match=r"\(0, 1\], got 0"):
        set_norm_momentum(torch.nn.BatchNorm1d(3), 0)
