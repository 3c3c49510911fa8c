"""Other projects' runtimes give torch's embeddings for exported encoders.

Each is run from its package; the tests skip where it is not installed. Paths
here may not have the names of other runtimes, by which pyannote.audio chooses
how to load a file.
"""

import types

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.classifiers import EncoderClassifier

from speechbrain_ext.inference.export import export_pretrained
from speechbrain_ext.inference.loading import load_encoder
from speechbrain_ext.integrations.onnx import ExportedEncoder, export_onnx
from speechbrain_ext.lobes.features import KaldiFbank
from speechbrain_ext.lobes.models.ResNet import ResNet

RECIPE = """\
compute_features: !new:speechbrain_ext.lobes.features.KaldiFbank
    n_mels: 80
mean_var_norm: !new:speechbrain_ext.lobes.features.SentenceMeanNorm
embedding_model: !new:speechbrain_ext.lobes.models.ResNet.ResNet
    input_size: 80
    block_sizes: [1, 1, 1, 1]
    channels: 4
    lin_neurons: 8
classifier: !new:torch.nn.Identity
"""
SHERPA = {"window": "povey", "high_freq": -400.0, "snip_edges": False}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A pretrained folder, and two files of two lengths."""
    folder = tmp_path_factory.mktemp("runtimes")
    generator = torch.Generator().manual_seed(0)
    model = ResNet(80, (1, 1, 1, 1), 4, 8).train()
    with torch.no_grad():
        for _ in range(5):
            model(4 * torch.randn(4, 100, 80, generator=generator))
    labels = CategoricalEncoder()
    labels.update_from_iterable(["a", "b"])
    modules = {"embedding_model": model, "classifier": torch.nn.Identity()}
    pretrained = folder / "speechbrain"
    export_pretrained(pretrained, RECIPE, modules, labels, 8)
    files = []
    for seconds in (1.5, 2.0051):
        wav = torch.randn(int(16000 * seconds), generator=generator)
        wav = 0.05 * wav + 0.02 * len(files) * wav.cumsum(0) / 50
        files.append(folder / f"{len(files)}.wav")
        soundfile.write(files[-1], wav.numpy(), 16000)
    return types.SimpleNamespace(
        folder=folder,
        pretrained=pretrained,
        mods=load_encoder(pretrained).mods,
        files=files,
        wavs=[torch.tensor(read(path)) for path in files],
    )


@pytest.fixture(scope="module")
def onnx_file(given):
    """The encoder as runtimes that compute the features read it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    path = given.folder / "wespeaker.onnx"
    export_onnx(given.mods, path, "features")
    return str(path)


def read(path):
    """The samples of a file."""
    return soundfile.read(path, dtype="float32")[0]


def embeddings_of_torch(given, **front_end):
    """What torch makes of the two files."""
    mods = dict(given.mods) | {"compute_features": KaldiFbank(80, **front_end)}
    encoder = ExportedEncoder(mods)
    with torch.no_grad():
        return [encoder(wav[None])[0] for wav in given.wavs]


def assert_same(found, expected):
    """The embeddings are the same, and so is the cosine of the two files."""
    found = torch.tensor(np.stack([np.ravel(one) for one in found])).double()
    expected = torch.stack(list(expected)).double()
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(found, expected).min() > 1 - 1e-6
    difference = cosine(*found, dim=0) - cosine(*expected, dim=0)
    assert abs(difference.item()) < 1e-4
    assert cosine(*expected, dim=0) < 0.9999  # else it would show nothing


def test_sherpa_enrols_and_verifies(given, onnx_file):
    sherpa = pytest.importorskip("sherpa_onnx")
    config = sherpa.SpeakerEmbeddingExtractorConfig(model=onnx_file)
    extractor = sherpa.SpeakerEmbeddingExtractor(config)
    found = []
    for wav in given.wavs:
        stream = extractor.create_stream()
        stream.accept_waveform(16000, wav.numpy())
        stream.input_finished()
        assert extractor.is_ready(stream)
        found.append(extractor.compute(stream))
    assert extractor.dim == 8
    expected = embeddings_of_torch(given, **SHERPA)
    assert_same(found, expected)
    manager = sherpa.SpeakerEmbeddingManager(extractor.dim)
    assert manager.add("first", found[0])
    score = torch.nn.functional.cosine_similarity(*expected, dim=0).item()
    assert manager.score("first", found[1]) == pytest.approx(score, abs=1e-4)
    assert manager.search(found[0], threshold=0.99) == "first"


def test_weruntime(given, onnx_file, monkeypatch):
    runtime = pytest.importorskip("wespeakerruntime")
    # torchaudio.load needs FFmpeg, which not every machine has
    monkeypatch.setattr(
        "torchaudio.load", lambda path: (torch.tensor(read(path))[None], 16000)
    )
    speaker = runtime.Speaker(onnx_path=onnx_file)
    found = [speaker.extract_embedding(str(path)) for path in given.files]
    assert_same(found, embeddings_of_torch(given))
    batch = KaldiFbank(80)(given.wavs[0][None]).numpy()
    again = speaker.extract_embedding_feat(batch)
    assert_same([again, found[1]], embeddings_of_torch(given))


class OlderClassifier(EncoderClassifier):
    """Takes the arguments of SpeechBrain 1.0, which pyannote.audio passes.

    SpeechBrain 1.1 raises a TypeError for them, whatever the folder is
    (pyannote.audio 4.0.7).
    """

    @classmethod
    def from_hparams(cls, run_opts, **kwargs):
        for name in ("token", "huggingface_cache_dir", "revision"):
            kwargs.pop(name)
        run_opts = {"device": str(run_opts["device"])}
        return super().from_hparams(run_opts=run_opts, **kwargs)


@pytest.mark.parametrize("kind", ["onnx", "folder"])
def test_pretrained_speaker_embedding(
    given, onnx_file, kind, tmp_path, monkeypatch
):
    pipelines = pytest.importorskip(
        "pyannote.audio.pipelines.speaker_verification"
    )
    monkeypatch.setattr(
        pipelines, "SpeechBrain_EncoderClassifier", OlderClassifier
    )
    path = onnx_file if kind == "onnx" else str(given.pretrained)
    embed = pipelines.PretrainedSpeakerEmbedding(path, cache_dir=tmp_path)
    found = [embed(wav[None, None]) for wav in given.wavs]
    assert_same(found, embeddings_of_torch(given))
    assert (embed.dimension, embed.metric) == (8, "cosine")
    masks = torch.ones(1, len(given.wavs[0]))
    masked = embed(given.wavs[0][None, None], masks=masks)
    np.testing.assert_allclose(masked, found[0], rtol=1e-3, atol=1e-4)
