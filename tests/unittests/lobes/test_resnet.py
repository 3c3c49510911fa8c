"""The ResNet against WeSpeaker's numbers, alone and in padded batches."""

import numpy as np
import pytest
import torch
from wespeaker_shapes import TINY, wespeaker_shapes

from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SphereFace2
from speechbrain_ext.nnet.schedulers import MarginSchedule, WarmupExponential
from speechbrain_ext.utils.conversion import convert_checkpoint

# wespeaker@dfa7419 wespeaker/models/resnet.py with one block a stage, 4 base
# channels, 40 filterbanks, 6-dim embedding and weights by `rule_weights`, on
# default_rng(5).standard_normal((2, 50, 40))
EMBEDDINGS = [
    [-3.2587851130136056, 1.7711132923770867, 1.7548520734573625, -4.735146447984742, -0.18698143463075712, -0.10788821952925982],
    [-3.5176388929108704, 0.7755868564841815, 1.8052584081646956, -6.0793197555533105, -1.4702258485504065, -0.05937590048717474],
]  # fmt: skip

# The same network and its SphereFace2, ExponentialDecrease (0.05 to 0.005, 4
# epochs of 2 iterations, 1 of warm-up, scale 0.5) and MarginScheduler (0 at
# epoch 2 to the end value at 4): eight steps of SGD in float64
LOSSES = {
    "C": [11.482280057463916, 13.168889007155382, 20.494594014228312, 18.040744932319825, 17.748549028968586, 13.8063296698265, 12.04365306838613, 10.742956144774906],
    "A": [11.482280057463916, 13.168889007155382, 20.494594014228312, 17.387240570070432, 16.336505112798392, 14.156402015968318, 12.493538397337653, 11.134304643234032],
}  # fmt: skip
FINAL_BIAS = {"C": 0.12031616149453388, "A": 0.12168150565587868}


@pytest.fixture
def tiny(rule_weights):
    """The tiny network, converted from WeSpeaker's keys, in float64."""
    state = rule_weights(wespeaker_shapes())
    return convert_checkpoint("wespeaker", TINY, state)["embedding_model"]


def test_embeddings_match_wespeaker(tiny):
    x = np.random.default_rng(5).standard_normal((2, 50, 40))
    found = tiny.eval()(torch.tensor(x)).squeeze(1)
    torch.testing.assert_close(
        found, torch.tensor(EMBEDDINGS, dtype=torch.float64), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("kind", ["C", "A"])
def test_training_matches_wespeaker(kind, tiny, rule_weights):
    tiny.train()
    head = CosineClassifier(6, 5).double()
    head.weight.data.copy_(rule_weights({"weight": [5, 6]})["weight"])
    loss = SphereFace2(kind, margin=0.0).double()
    parameters = [p for m in (tiny, head, loss) for p in m.parameters()]
    optimizer = torch.optim.SGD(
        parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    rate = WarmupExponential(0.05, 0.005, 4, 1, scale=0.5)
    margin = MarginSchedule(0.0, {"C": 0.2, "A": 0.15}[kind], 2, 4)
    rng = np.random.default_rng(7)
    found = []
    for step in range(8):
        optimizer.param_groups[0]["lr"] = rate(step / 2)
        loss.margin = margin(step / 2)
        x = torch.tensor(rng.standard_normal((4, 50, 40)))
        targets = torch.tensor(rng.integers(0, 5, 4)).unsqueeze(1)
        value = loss(head(tiny(x)), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    assert found == pytest.approx(LOSSES[kind], rel=1e-8)
    assert loss.bias.item() == pytest.approx(FINAL_BIAS[kind], rel=1e-6)


def test_published_size():
    model = ResNet(input_size=80, channels=32, lin_neurons=256)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 6_634_336  # 6.63 M


@pytest.mark.parametrize("n_mels", [40, 64, 80, 81])
@pytest.mark.parametrize("channels", [4, 8])
def test_any_filterbanks_and_every_gradient(n_mels, channels):
    model = ResNet(n_mels, (1, 1, 1, 1), channels, lin_neurons=5)
    embeddings = model(torch.randn(2, 30, n_mels))
    assert embeddings.shape == (2, 1, 5)
    embeddings.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padded_batch_equals_one_by_one(dtype):
    model = ResNet(40, (2, 1, 1, 2), 4, lin_neurons=8).to(dtype)
    for _ in range(3):  # batch statistics that are not the initial ones
        model.train()(torch.randn(4, 60, 40, dtype=dtype) * 3 + 1)
    model.eval()
    frames = [61, 60, 37, 8, 1]
    x = torch.randn(len(frames), 61, 40, dtype=dtype)
    batch = model(x, torch.tensor(frames, dtype=dtype) / 61)
    alone = torch.cat([model(x[i : i + 1, :n]) for i, n in enumerate(frames)])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    error = (batch - alone).norm(dim=-1) / alone.norm(dim=-1)
    assert error.max() < tolerance
    # the test of the test: without lengths the padding leaks
    leaked = (model(x) - alone).norm(dim=-1) / alone.norm(dim=-1)
    assert leaked[2:].min() > 100 * tolerance


def test_padded_waveforms_get_the_embeddings_that_each_gets_alone():
    fbank, norm = KaldiFbank(40), SentenceMeanNorm()
    model = ResNet(40, (1, 1, 1, 1), 4, lin_neurons=8).eval()
    samples = [32000, 31841, 16000, 15999, 400]
    wavs = torch.randn(len(samples), 32000) * 0.1
    for row, count in zip(wavs, samples, strict=True):
        row[count:] = 0
    lengths = torch.tensor(samples) / 32000
    batch = model(norm(fbank(wavs), lengths), lengths)
    for row, count in enumerate(samples):
        alone = model(norm(fbank(wavs[row : row + 1, :count])))
        error = (batch[row] - alone[0]).norm() / alone.norm()
        assert error < 1e-4, count


def test_bf16_is_close_to_float32():
    model = ResNet(40, (1, 1, 1, 1), 8, lin_neurons=16).eval()
    x = torch.randn(3, 50, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, model(x), dim=-1).min() > 0.999


def test_wrong_features_are_rejected():
    with pytest.raises(ValueError, match=r"80\].*got \[2, 30, 40\]"):
        ResNet(80, (1, 1, 1, 1), 4)(torch.rand(2, 30, 40))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_weights_start_as_those_of_mmclassification(block):
    # mmcls/models/backbones/resnet.py: kaiming_init of every Conv2d (normal,
    # fan_out), zero_init_residual; there, squeeze-excitation has convolutions
    model = ResNet(
        41, (2, 1, 1, 1), 32, 8, block, reduction=4, weight_init="mmcls"
    )
    blocks = [block for stage in model.stages for block in stage]
    for one in blocks:
        last = one.bn2 if block == "basic" else one.bn3
        assert not last.weight.any() and one.bn1.weight.eq(1).all()
        assert not one.se.fc[0].bias.any() and not one.se.fc[2].bias.any()
    kernels = [model.conv1.weight, blocks[2].conv2.weight]
    kernels += [blocks[2].se.fc[2].weight, blocks[2].shortcut[0].weight]
    for kernel in kernels:
        fan_out = kernel.shape[0] * kernel[0, 0].numel()
        wanted = (2 / fan_out) ** 0.5
        assert kernel.std().item() == pytest.approx(wanted, rel=0.15)
    x = torch.randn(2, 30, 41)
    assert model(x).isfinite().all()
    with pytest.raises(ValueError, match="'pytorch' or 'mmcls', got 'zero'"):
        ResNet(41, (1, 1, 1, 1), 4, weight_init="zero")
