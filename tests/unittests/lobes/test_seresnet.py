"""SE-ResNets against Clova's numbers, from the waveform on."""

import numpy as np
import pytest
import torch

from speechbrain_ext.lobes.features import (
    LogMelSpectrogram,
    SentenceMeanVarNorm,
)
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.nnet.pooling import AttentiveStatisticsPooling

# clovaai/voxceleb_trainer@f51bab8 models/ResNetSE34L.py (SAP, 40 filterbanks)
# and ResNetSE34V2.py (ASP, 64) with blocks 1, 2, 1, 1, filters 8, 16, 32, 64,
# 6-dim embeddings and weights by `rule_weights`, in float32 on
# 0.1 * default_rng(5).standard_normal((2, 16000))
FAST = [[-0.04213930666446686, -2.7114598751068115, 0.28431829810142517, 0.20017312467098236, 0.1967027187347412, -2.290252685546875], [-0.20194567739963531, -3.9276235103607178, 0.8342334032058716, 0.6293739080429077, 0.2274574637413025, -2.52683162689209]]  # fmt: skip
V2 = [[-1.61820387840271, -2.0357773303985596, -6.931142330169678, -4.4565229415893555, 0.6532554030418396, 1.1843708753585815], [-1.098934292793274, -2.6432409286499023, -7.887418270111084, -5.038426399230957, 2.491992235183716, 0.6810091733932495]]  # fmt: skip


def published(key):
    """The published key of one of ours."""
    if key.startswith("stages."):
        _, stage, rest = key.split(".", 2)
        key = f"layer{int(stage) + 1}.{rest}"
    return (
        key.replace("shortcut", "downsample")
        .replace("pooling.linear", "sap_linear")
        .replace("pooling.", "")
        .replace("embedding", "fc")
    )


@pytest.mark.parametrize("form", ["fast", "v2"])
def test_embeddings_match_clova(form, rule_weights):
    if form == "fast":
        model = SEResNet(40, (1, 2, 1, 1), 8, 6)
        front, expected = LogMelSpectrogram(40), FAST
    else:
        model = SEResNet(
            *(64, (1, 2, 1, 1), 8, 6, "v2", (1, 2, 2, 2), False),
            pooling=AttentiveStatisticsPooling,
        )
        front, expected = LogMelSpectrogram(64, pre_emphasis=0.97), V2
    shapes = {
        published(key): list(value.shape)
        for key, value in model.state_dict().items()
    }
    drawn = rule_weights(shapes).values()
    model.load_state_dict(dict(zip(model.state_dict(), drawn, strict=True)))
    wavs = 0.1 * np.random.default_rng(5).standard_normal((2, 16000))
    features = SentenceMeanVarNorm()(front(torch.tensor(wavs).float()))
    torch.testing.assert_close(
        model.eval()(features).squeeze(1),
        torch.tensor(expected),
        rtol=1e-4,
        atol=1e-4,
    )


def test_published_sizes():
    fast = SEResNet()
    v2 = SEResNet(
        *(64, (3, 4, 6, 3), 32, 512, "v2", (1, 2, 2, 2), False),
        pooling=AttentiveStatisticsPooling,
    )
    counts = [sum(p.numel() for p in m.parameters()) for m in (fast, v2)]
    assert counts == [1_437_078, 8_028_492]


def test_thin_takes_a_spectrogram_and_keeps_a_ninth_of_eighths():
    model = SEResNet(257, (1, 1, 1, 1), 8, 6, "thin", (1, 2, 2, 2))
    assert model(torch.rand(2, 100, 257)).shape == (2, 1, 6)


def test_unknown_form_is_rejected():
    with pytest.raises(ValueError, match="got 'slow'"):
        SEResNet(form="slow")
