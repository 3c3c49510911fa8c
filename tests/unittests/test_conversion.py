"""Published checkpoints: what fits is loaded, what does not is named."""

import pytest
import torch
from test_resnet import TINY, wespeaker_shapes

from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.utils.conversion import convert_checkpoint


@pytest.fixture
def state(rule_weights):
    """A published state dict of the tiny network."""
    return rule_weights(wespeaker_shapes())


def test_modules_are_the_interfaces(state):
    modules = convert_checkpoint("wespeaker", TINY, state)
    assert sorted(modules) == [
        "compute_features",
        "embedding_model",
        "mean_var_norm",
    ]
    modules = modules.float().eval()
    features = modules["compute_features"](torch.rand(2, 16000) - 0.5)
    features = modules["mean_var_norm"](features, torch.ones(2))
    assert modules["embedding_model"](features, torch.ones(2)).shape == (
        2,
        1,
        6,
    )


def test_training_head_is_left_out(state):
    state["projection.weight"] = torch.zeros(5, 6)
    convert_checkpoint("wespeaker", TINY, state)


def test_published_names_give_the_published_networks():
    full = ResNet(80, (2, 2, 2, 2), 4, 16).state_dict()
    state = {
        key.replace("embedding.", "seg_1.")
        .replace("stages.0", "layer1")
        .replace("stages.1", "layer2")
        .replace("stages.2", "layer3")
        .replace("stages.3", "layer4"): value
        for key, value in full.items()
    }
    model = convert_checkpoint("wespeaker", "ResNet18", state)
    for key, value in model["embedding_model"].state_dict().items():
        assert torch.equal(value, full[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bn1.bias"), "1 places: missing bn1.bias"),
        (
            lambda s: s.update({"layer5.0.x": torch.zeros(1)}),
            "left over layer5.0.x",
        ),
        (
            lambda s: s.update({"seg_1.bias": torch.zeros(7)}),
            r"seg_1.bias of shape \[7\] instead of \[6\]",
        ),
        (lambda s: s.pop("seg_1.weight"), "no 'seg_1.weight'"),
    ],
)
def test_every_misfit_is_named(state, change, message):
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint("wespeaker", TINY, state)


def test_unknown_names_are_rejected(state):
    with pytest.raises(ValueError, match="got 'kaldi'"):
        convert_checkpoint("kaldi", TINY, state)
    with pytest.raises(ValueError, match="got 'ResNet9'"):
        convert_checkpoint("wespeaker", "ResNet9", state)
