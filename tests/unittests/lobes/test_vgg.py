"""VGG-M-40 against Clova's numbers, from the waveform on."""

import numpy as np
import pytest
import torch

from speechbrain_ext.lobes.models.VGG import VGG
from speechbrain_ext.utils.conversion import convert_checkpoint

# clovaai/voxceleb_trainer@f51bab8 models/VGGVox.py with 6-dim embeddings and
# weights by `rule_weights`, in float32 on 0.1 *
# default_rng(5).standard_normal((2, 16000))
EMBEDDINGS = {
    "SAP": [[0.5117210149765015, 11.763161659240723, -10.11916446685791, -5.683138370513916, -1.4724891185760498, -2.037440299987793], [0.12079845368862152, 11.987654685974121, -10.639008522033691, -4.483911514282227, -2.135654926300049, 0.7724919319152832]],
    "MAX": [[0.3033519983291626, 14.627825736999512, -10.786492347717285, -5.1933112144470215, -1.0964829921722412, -3.0768041610717773], [-0.7113057374954224, 15.914328575134277, -11.497185707092285, -3.269491672515869, -1.6083486080169678, 0.5751396417617798]],
}  # fmt: skip


def shapes(pooling):
    """Keys and shapes of the published state dict."""
    found = {"fc.weight": [6, 512], "fc.bias": [6]}
    for place, shape in (
        (0, [96, 1, 5, 7]),
        (4, [256, 96, 5, 5]),
        (8, [384, 256, 3, 3]),
        (11, [256, 384, 3, 3]),
        (14, [256, 256, 3, 3]),
        (18, [512, 256, 4, 1]),
    ):
        found[f"netcnn.{place}.weight"] = shape
        found[f"netcnn.{place}.bias"] = shape[:1]
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"netcnn.{place + 1}.{part}"] = shape[:1]
        found[f"netcnn.{place + 1}.num_batches_tracked"] = []
    if pooling == "SAP":
        found |= {"sap_linear.weight": [512, 512], "sap_linear.bias": [512]}
        found["attention"] = [512, 1]
    return found


@pytest.mark.parametrize("pooling", EMBEDDINGS)
def test_embeddings_match_clova(pooling, rule_weights):
    state = rule_weights(shapes(pooling))
    # as Clova's trainer saves it: wrapped, with its loss and front end
    state = {f"__S__.{key}": value for key, value in state.items()}
    state["__L__.w"] = torch.zeros(1)
    state["__S__.torchfb.spectrogram.window"] = torch.zeros(400)
    modules = convert_checkpoint("clova", f"VGGVox_{pooling}", state)
    modules = modules.float().eval()
    wavs = 0.1 * np.random.default_rng(5).standard_normal((2, 16000))
    features = modules["compute_features"](torch.tensor(wavs).float())
    features = modules["mean_var_norm"](features)
    torch.testing.assert_close(
        modules["embedding_model"](features).squeeze(1),
        torch.tensor(EMBEDDINGS[pooling]),
        rtol=1e-4,
        atol=1e-4,
    )


def test_too_short_utterances_and_too_few_filters_are_rejected():
    model = VGG(40, 6, width=0.05)
    with pytest.raises(ValueError, match="utterance of 40 frames, too few"):
        model(torch.rand(1, 40, 40))
    with pytest.raises(ValueError, match="utterance of 20 frames, too few"):
        model(torch.rand(2, 200, 40), torch.tensor([1.0, 0.1]))
    with pytest.raises(ValueError, match="at least 15, got 14"):
        VGG(14)
