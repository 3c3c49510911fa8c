"""WeSpeaker's names: which network each stands for."""

import functools

import pytest
import torch

from speechbrain_ext.integrations.published_checkpoints import (
    describe_checkpoint,
)
from speechbrain_ext.integrations.wespeaker import describe
from speechbrain_ext.lobes.models.ResNet import GOLDEN_GEMINI, ResNet
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling


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
    found, _ = describe_checkpoint("wespeaker", name, resnet_state(width=width))
    maker, arguments = found["embedding_model"]
    assert maker is ResNet
    assert arguments["block_sizes"] == blocks
    assert arguments["block"] == kind
    assert arguments["input_size"] == 80
    assert found["compute_features"][1] == {"n_mels": 80}


def test_pooling_of_the_name_tells_the_sizes():
    state = resnet_state(widening=1)
    found, _ = describe_checkpoint("wespeaker", "ResNet34_TAP", state)
    assert found["embedding_model"][1]["input_size"] == 80
    given, _ = describe_checkpoint(
        "wespeaker", "ResNet34_TAP", state, input_size=77
    )
    assert given["embedding_model"][1]["input_size"] == 77
    with pytest.raises(ValueError, match="got 'MEAN'"):
        describe_checkpoint("wespeaker", "ResNet34_MEAN", state)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": functools.partial(TemporalStatisticsPooling, epsilon=1e-9)},
        {"strides": GOLDEN_GEMINI},
    ],
)
def test_arguments_of_a_resnet_tell_the_sizes(options):
    options = {"block_sizes": (1, 1, 1, 1), **options}
    state = ResNet(80, channels=4, lin_neurons=6, **options).state_dict()
    state["seg_1.weight"] = state["embedding.weight"]
    blocks, _ = describe(options, lambda key, _=2: state[key], None)
    assert blocks["embedding_model"][1]["input_size"] == 80
    with pytest.raises(
        ValueError, match="of a ResNet, has an unknown key 'depth'"
    ):
        describe(options | {"depth": 3}, state.__getitem__, None)
