"""Exported encoders give torch's embeddings in onnxruntime."""

import copy

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization

from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.inference.speech import SpeechFeatures
from speechbrain_ext.integrations import onnx as integration
from speechbrain_ext.integrations.onnx import (
    ExportedEncoder,
    _is_kaldi,
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
    "ResNet": lambda: ResNet(80, ONES, 4, 6),
    "bottleneck T14c": lambda: ResNet(
        40, ONES, 4, 6, block="bottleneck", strides=GOLDEN_GEMINI
    ),
    "MSEA": lambda: ResNet(
        40, ONES, 4, 6, reduction=2, all_stages=True, activated=True
    ),
    "DFResNet": lambda: DFResNet(80, ONES, (4, 4, 4, 8, 8), 6),
    "SEResNet": lambda: SEResNet(
        257, ONES, 8, 6, form="thin", strides=(1, 2, 2, 2)
    ),
    "VGG": lambda: VGG(40, lin_neurons=6, width=0.0625),
    "ResSETDNN": lambda: ResSETDNN(
        40, channels=8, pooled_channels=12, lin_neurons=6
    ),
    "ECAPA": lambda: ECAPA_TDNN(40, **ECAPA),
}
FRONT_ENDS = {
    "hamming": lambda: KaldiFbank(80),
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
# every network and every front end in one form or the other
EXPORTED = [
    ("ResNet", "hamming", "features"),
    ("bottleneck T14c", "povey", "waveform"),
    ("MSEA", "energy", "waveform"),
    ("DFResNet", "hamming", "waveform"),
    ("SEResNet", "magnitudes", "waveform"),
    ("VGG", "log mel", "waveform"),
    ("ResSETDNN", "log mel", "features"),
    ("ECAPA", "SpeechBrain", "waveform"),
]


def modules_of(network="ResNet", front_end="hamming"):
    """An untrained encoder whose batch statistics are not the first ones."""
    modules = {
        "compute_features": FRONT_ENDS[front_end](),
        "mean_var_norm": NORMS.get(front_end, SentenceMeanNorm)(),
        "embedding_model": NETWORKS[network](),
    }
    with torch.no_grad():
        features = modules["compute_features"](0.1 * torch.randn(4, 16000))
        features = modules["mean_var_norm"](features, torch.ones(4))
        for _ in range(5):
            modules["embedding_model"].train()(features)
    return torch.nn.ModuleDict(modules).eval()


@pytest.fixture
def needs_onnx():
    """Skips where a package of the extra is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def test_every_network_and_every_front_end_is_exported():
    networks, front_ends, forms = (
        set(some) for some in zip(*EXPORTED, strict=True)
    )
    assert networks == set(NETWORKS)
    assert front_ends == set(FRONT_ENDS)
    assert forms == {"waveform", "features"}


@pytest.mark.usefixtures("needs_onnx")
@pytest.mark.parametrize(("network", "front_end", "form"), EXPORTED)
def test_onnxruntime_gives_torchs_embeddings(
    network, front_end, form, tmp_path
):
    modules = modules_of(network, front_end)
    path = tmp_path / "encoder.onnx"
    rate = 8000 if front_end == "energy" else 16000
    # it has compared two lengths in two batch sizes
    assert export_onnx(modules, path, form, rate, "English") > 1 - 1e-5
    session = onnx_session(path)
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (made.name, made.shape) == ("embs", ["batch", 6])
    x = 0.1 * torch.randn(2, 20000)
    with torch.no_grad():
        feats = modules["compute_features"](x)
        normalised = modules["mean_var_norm"](feats, torch.ones(2))
        expected = modules["embedding_model"](normalised).squeeze(1)
    if form == "waveform":
        assert (given.name, given.shape) == ("wavs", ["batch", "samples"])
    else:
        bins = feats.shape[2]
        assert (given.name, given.shape) == ("feats", ["batch", "frames", bins])
        x = normalised  # as runtimes that take the mean off
    (found,) = session.run(["embs"], {given.name: x.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4
    )
    sherpa = form == "features" and front_end == "hamming"
    assert session.get_modelmeta().custom_metadata_map == {
        "framework": "wespeaker" if sherpa else "speechbrain_ext",
        "language": "English",
        "sample_rate": str(rate),
        "output_dim": "6",
        "normalize_samples": "0",
        "feature_normalize_type": "global-mean" if sherpa else "",
    }


def test_runtimes_get_no_features_that_they_do_not_compute():
    def known(front_end, norm=SentenceMeanNorm, rate=16000):
        modules = {"compute_features": front_end, "mean_var_norm": norm()}
        return _is_kaldi(modules, rate)

    assert known(KaldiFbank())
    assert known(KaldiFbank(high_freq=-400))
    assert known(KaldiFbank(sample_rate=8000), rate=8000)
    assert not known(KaldiFbank(low_freq=300, high_freq=3400))
    assert not known(KaldiFbank(40))
    assert not known(KaldiFbank(use_energy=True))
    assert not known(KaldiFbank(), torch.nn.Identity)


@pytest.mark.usefixtures("needs_onnx")
def test_eight_bits_make_a_smaller_file(tmp_path, caplog):
    modules = modules_of()
    modules["embedding_model"] = ResNet(80, ONES, 16, 32)
    path = tmp_path / "encoder.onnx"
    assert export_onnx(modules, path, int8=True) > 0.99
    assert "Measure its EER" in caplog.text
    parameters = modules["embedding_model"].parameters()
    assert path.stat().st_size < 0.6 * 4 * sum(p.numel() for p in parameters)


@pytest.mark.usefixtures("needs_onnx")
@pytest.mark.parametrize("opset", [17, 999])
def test_an_opset_that_cannot_be_written_is_named(tmp_path, opset):
    path = tmp_path / "encoder.onnx"
    with pytest.raises(ValueError, match=f"from 18 to .*, got {opset}"):
        export_onnx(modules_of(), path, opset=opset)
    assert not path.exists()


@pytest.mark.usefixtures("needs_onnx")
def test_an_opset_that_the_runtime_lacks_is_named(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "new.onnx"
    graph = onnx.helper.make_graph([], "empty", [], [])
    newer = onnx.helper.make_opsetid("", 999)
    model = onnx.helper.make_model(graph, opset_imports=[newer], ir_version=8)
    onnx.save(model, path)
    with pytest.raises(ValueError, match="new.onnx .*pset 999.*an older opset"):
        onnx_session(path)


@pytest.mark.usefixtures("needs_onnx")
def test_a_folder_is_exported_by_the_script(exported, script, tmp_path, capsys):
    main = script("export_onnx").main
    path = tmp_path / "encoder.onnx"
    assert main([str(exported), str(path)]) == 0
    assert "encoder.onnx: lowest cosine to torch" in capsys.readouterr().out
    encoder = load_encoder(exported)
    x = 0.1 * torch.randn(3, 20000)
    (found,) = onnx_session(path).run(None, {"wavs": x.numpy()})
    cosine = torch.nn.functional.cosine_similarity(
        torch.from_numpy(found), encoder.encode_batch(x).squeeze(1)
    )
    assert cosine.min() > 1 - 1e-5


def test_the_script_names_what_is_wrong(exported, script, tmp_path, capsys):
    main = script("export_onnx").main
    assert main([str(tmp_path), str(tmp_path / "a.onnx")]) == 1
    assert "has no hyperparams.yaml" in capsys.readouterr().err
    assert main([str(exported), str(tmp_path / "a.pt2"), "--int8"]) == 1
    assert "must end in .onnx, got" in capsys.readouterr().err


def test_a_file_that_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "encoder.pt2"
    monkeypatch.setattr(integration, "TOLERANCE", -1e-9)
    with pytest.raises(ValueError, match="is not written: the cosine"):
        export_program(modules_of(), path, "features")
    assert not path.exists()
    assert not list(tmp_path.glob(".speechbrain_ext-*"))


@pytest.mark.parametrize("form", ["waveform", "features"])
def test_programs_of_torch_export_give_the_same_embeddings(form, tmp_path):
    modules = modules_of("bottleneck T14c", "povey")
    path = tmp_path / "encoder.pt2"
    assert export_program(modules, path, form) > 1 - 1e-5
    encoder = ExportedEncoder(modules, form)
    x = 0.1 * torch.randn(5, 23456)
    if form == "features":
        x = modules["compute_features"](x).detach()
    with torch.no_grad():
        found = torch.export.load(path).module()(x)
        torch.testing.assert_close(found, encoder(x), rtol=1e-4, atol=1e-5)


def test_a_network_that_keeps_its_length_is_named(tmp_path):
    with pytest.raises(ValueError, match="length free for VGG"):
        export_program(modules_of("VGG", "log mel"), tmp_path / "encoder.pt2")


def test_a_folder_that_does_not_exist_is_named_before_the_export(tmp_path):
    for export, name in ((export_onnx, "a.onnx"), (export_program, "a.pt2")):
        with pytest.raises(FileNotFoundError, match="none does not exist; cr"):
            export(modules_of(), tmp_path / "none" / name)


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
