"""Exported encoders give torch's embeddings in onnxruntime."""

import copy

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from speechbrain_ext.inference.speech import SpeechFeatures
from speechbrain_ext.integrations import onnx as integration
from speechbrain_ext.integrations.onnx import (
    ExportedEncoder,
    export_onnx,
    export_program,
    onnx_session,
)
from speechbrain_ext.lobes.features import (
    KaldiFbank,
    LogMelSpectrogram,
    MagnitudeSpectrogram,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import GOLDEN_GEMINI, ResNet
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.lobes.models.TDNN import ResSETDNN
from speechbrain_ext.lobes.models.VGG import VGG

ONES = (1, 1, 1, 1)
ECAPA = {
    "channels": [8, 8, 8, 8, 24],
    "attention_channels": 8,
    "res2net_scale": 4,
    "se_channels": 8,
    "lin_neurons": 6,
}
NETWORKS = {
    "ResNet": lambda: ResNet(40, ONES, 4, 6),
    "bottleneck T14c": lambda: ResNet(
        40, ONES, 4, 6, block="bottleneck", strides=GOLDEN_GEMINI
    ),
    "MSEA": lambda: ResNet(
        40, ONES, 4, 6, reduction=2, all_stages=True, activated=True
    ),
    "DFResNet": lambda: DFResNet(40, ONES, (4, 4, 4, 8, 8), 6),
    "SEResNet": lambda: SEResNet(40, ONES, 8, 6),
    "VGG": lambda: VGG(40, lin_neurons=6, width=0.0625),
    "ResSETDNN": lambda: ResSETDNN(
        40, channels=8, pooled_channels=12, lin_neurons=6
    ),
    "ECAPA": lambda: ECAPA_TDNN(40, **ECAPA),
}
FRONT_ENDS = {
    "povey": lambda: KaldiFbank(
        40, window="povey", high_freq=-400.0, snip_edges=False
    ),
    "energy": lambda: KaldiFbank(39, use_energy=True, sample_rate=8000),
    "log mel": lambda: LogMelSpectrogram(40, pre_emphasis=0.97),
    "magnitudes": MagnitudeSpectrogram,
    "SpeechBrain": lambda: Fbank(n_mels=40),
}
NORMS = {
    "magnitudes": SentenceMeanVarNorm,
    "SpeechBrain": lambda: InputNormalization(
        norm_type="sentence", std_norm=False
    ),
}


def modules_of(front_end="hamming", network="ResNet"):
    """An untrained encoder whose batch statistics are not the first ones."""
    if network in NETWORKS:
        network = NETWORKS[network]()
    modules = {
        "compute_features": FRONT_ENDS.get(front_end, lambda: KaldiFbank(40))(),
        "mean_var_norm": NORMS.get(front_end, SentenceMeanNorm)(),
        "embedding_model": network,
    }
    with torch.no_grad():
        features = modules["compute_features"](0.1 * torch.randn(4, 16000))
        features = modules["mean_var_norm"](features, torch.ones(4))
        for _ in range(5):
            network.train()(features)
    return torch.nn.ModuleDict(modules)


@pytest.fixture
def needs_onnx():
    """Skips where a package of the extra is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.mark.usefixtures("needs_onnx")
@pytest.mark.parametrize("network", NETWORKS)
def test_every_family_is_exported(network, tmp_path):
    modules = modules_of(network=network)
    path = tmp_path / "encoder.onnx"
    # compares two lengths in two batch sizes
    assert export_onnx(modules, path, "features") > 1 - 1e-5
    session = onnx_session(path)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("feats", ["batch", "frames", 40])
    assert (made.name, made.shape) == ("embs", ["batch", 6])
    # features of an utterance whose mean a runtime has taken off
    feats = modules["compute_features"](0.1 * torch.randn(1, 20000))
    (embs,) = session.run(
        None, {"feats": (feats - feats.mean(dim=1)).detach().numpy()}
    )
    modules.eval()
    with torch.no_grad():
        expected = modules["embedding_model"](modules["mean_var_norm"](feats))
    torch.testing.assert_close(
        torch.from_numpy(embs), expected[0], rtol=1e-3, atol=1e-4
    )


@pytest.mark.usefixtures("needs_onnx")
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_front_end_is_exported(front_end, tmp_path):
    bins = 257 if front_end == "magnitudes" else 40
    modules = modules_of(front_end, ResNet(bins, ONES, 4, 6))
    path = tmp_path / "encoder.onnx"
    rate = 8000 if front_end == "energy" else 16000
    assert export_onnx(modules, path, sample_rate=rate) > 1 - 1e-5
    session = onnx_session(path)
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("wavs", ["batch", "samples"])
    known = session.get_modelmeta().custom_metadata_map
    assert known["sample_rate"] == str(rate)
    assert known["framework"] == "speechbrain_ext"


@pytest.mark.usefixtures("needs_onnx")
def test_metadata_is_sherpas_for_filterbanks_of_kaldi_alone(tmp_path):
    export_onnx(
        modules_of(), tmp_path / "a.onnx", "features", language="English"
    )
    known = onnx_session(tmp_path / "a.onnx").get_modelmeta()
    assert known.custom_metadata_map == {
        "framework": "wespeaker",
        "language": "English",
        "sample_rate": "16000",
        "output_dim": "6",
        "normalize_samples": "0",
        "feature_normalize_type": "global-mean",
    }
    export_onnx(modules_of("log mel"), tmp_path / "b.onnx", "features")
    known = onnx_session(tmp_path / "b.onnx").get_modelmeta()
    assert known.custom_metadata_map["framework"] == "speechbrain_ext"


@pytest.mark.usefixtures("needs_onnx")
def test_eight_bits_make_a_smaller_file(tmp_path):
    modules = modules_of(network=ResNet(40, ONES, 16, 32))
    whole, small = tmp_path / "whole.onnx", tmp_path / "small.onnx"
    export_onnx(modules, whole)
    assert export_onnx(modules, small, int8=True) > 0.99
    assert small.stat().st_size < 0.6 * whole.stat().st_size


@pytest.mark.usefixtures("needs_onnx")
def test_an_opset_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    path = tmp_path / "encoder.onnx"
    for opset in (17, 999):
        with pytest.raises(ValueError, match=f"from 18 to .*, got {opset}"):
            export_onnx(modules_of(), path, opset=opset)
    onnxruntime = pytest.importorskip("onnxruntime")

    def refuse(*_, **__):
        raise RuntimeError("Opset 18 is under development")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ValueError, match="Opset 18 .* with an older opset"):
        export_onnx(modules_of(), path, "features")
    assert not path.exists()


@pytest.mark.usefixtures("needs_onnx")
def test_a_file_that_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "encoder.onnx"
    monkeypatch.setattr(integration, "TOLERANCE", -1e-9)
    with pytest.raises(ValueError, match="is not written: the cosine"):
        export_onnx(modules_of(), path, "features")
    assert not path.exists()
    assert not list(tmp_path.glob(".speechbrain_ext-*"))


@pytest.mark.parametrize("form", ["waveform", "features"])
def test_programs_of_torch_export_give_the_same_embeddings(form, tmp_path):
    modules = modules_of("povey")
    path = tmp_path / "encoder.pt2"
    assert export_program(modules, path, form) > 1 - 1e-5
    encoder = ExportedEncoder(modules, form)
    x = 0.1 * torch.randn(5, 23456)
    if form == "features":
        x = modules["compute_features"](x).detach()
    with torch.no_grad():
        found = torch.export.load(path).module()(x)
        torch.testing.assert_close(found, encoder(x), rtol=1e-4, atol=1e-5)


def test_the_encoder_itself_is_left_alone():
    modules = modules_of().train()
    modules["compute_features"] = SpeechFeatures(modules["compute_features"])
    before = copy.deepcopy(modules.state_dict())
    encoder = ExportedEncoder(modules)
    assert encoder(torch.zeros(1, 16000)).shape == (1, 6)  # raises nothing
    assert modules["embedding_model"].training
    for key, value in modules.state_dict().items():
        assert torch.equal(value, before[key])


def test_bad_arguments_are_rejected(tmp_path, monkeypatch):
    path = tmp_path / "encoder.onnx"
    with pytest.raises(ValueError, match="got 'fbank'"):
        export_onnx(modules_of(), path, "fbank")
    with pytest.raises(ValueError, match="must have compute_features, mean"):
        export_onnx({"embedding_model": torch.nn.Identity()}, path)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="encoder.onnx was not written"):
        export_onnx(modules_of(), path)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(integration.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'speechbrain-ext\[on"):
        export_onnx(modules_of(), tmp_path / "other.onnx")
