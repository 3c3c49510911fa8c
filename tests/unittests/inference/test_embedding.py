"""Batches of whole utterances and their embeddings."""

import os

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from speechbrain.dataio.preprocess import AudioNormalizer

from speechbrain_ext.dataio.audio import AudioError, read_audio
from speechbrain_ext.dataio.crops import Crops, evenly_spaced_crops
from speechbrain_ext.inference.embedding import (
    embed_batches,
    embed_utterances,
    length_sorted_batches,
    utterance_loader,
)
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
from speechbrain_ext.lobes.models.ResNet import ResNet


@pytest.fixture
def manifest(tmp_path):
    """Seven files of 0.1 to 2 s."""
    return files(tmp_path, [16000, 32000, 1600, 15999, 1700, 8001, 16001])


def files(folder, lengths, rate=16000):
    """The manifest of some files of noise."""
    rng = np.random.default_rng(0)
    rows = []
    for row, samples in enumerate(lengths):
        path = folder / f"{row}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), rate)
        rows.append((str(row), samples / rate, str(path), 0, samples, "s"))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


class Encoder(torch.nn.Module):
    """A small encoder with ``encode_batch`` as SpeechBrain's."""

    def __init__(self):
        super().__init__()
        self.fbank, self.norm = KaldiFbank(40), SentenceMeanNorm()
        self.model = ResNet(40, (1, 1, 1, 1), 4, lin_neurons=8)
        self.device = "cpu"

    def encode_batch(self, wavs, lengths):
        features = self.norm(self.fbank(wavs), lengths)
        return self.model(features, lengths)


def test_batches_are_bounded_and_complete():
    durations = np.random.default_rng(1).uniform(0.5, 20, 200).tolist()
    batches = length_sorted_batches(durations, batch_seconds=60)
    assert sorted(sum(batches, [])) == list(range(200))
    for batch in batches:
        assert max(durations[row] for row in batch) * len(batch) <= 60
    longest = [durations[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_long_utterance_is_a_batch_of_its_own():
    assert length_sorted_batches([100.0, 1.0], 10.0) == [[0], [1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_batch_do_not_matter(manifest, workers):
    encoder = Encoder().eval()
    together = embed_utterances(encoder, manifest, 4.0, num_workers=workers)
    alone = torch.cat(
        [embed_utterances(encoder, manifest[i : i + 1]) for i in range(7)]
    )
    error = (together - alone).norm(dim=1) / alone.norm(dim=1)
    assert error.max() < 1e-4
    shuffled = manifest.sample(frac=1, random_state=3)
    torch.testing.assert_close(
        embed_utterances(encoder, shuffled, 4.0), together[shuffled.index]
    )


def test_loader_repeats_what_is_shorter_than_a_tenth_of_a_second(tmp_path):
    (batch,) = utterance_loader(files(tmp_path, [160]))
    assert batch.sig.data.shape == (1, 1600)
    assert torch.equal(batch.sig.data[0, :160], batch.sig.data[0, 160:320])
    assert batch.no_speech == ["0.010 s of sound, less than 0.1 s"]


def test_silence_and_scraps_are_named_and_the_others_embedded(tmp_path):
    manifest = files(tmp_path, [16000, 8000, 400, 12000, 16000])
    soundfile.write(manifest.wav[1], np.zeros(8000), 16000)
    encoder, whole = Encoder().eval(), []
    batches = embed_batches(encoder, manifest, batch_seconds=9.0)
    with pytest.raises(NoSpeechError, match="^2 utterances") as caught:
        for rows, embeddings in batches:
            whole += list(zip(rows, embeddings, strict=True))
    assert caught.value.reasons == {
        "1": "digital silence: all its samples are equal",
        "2": "0.025 s of sound, less than 0.1 s",
    }
    assert sorted(row for row, _ in whole) == [0, 3, 4]
    for row, embedding in whole:
        alone = embed_utterances(encoder, manifest[row : row + 1])[0]
        torch.testing.assert_close(embedding, alone, rtol=1e-3, atol=1e-4)
    with pytest.raises(NoSpeechError, match="digital silence"):
        embed_utterances(encoder, manifest)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["gone", "garbage", "pipe", "nan"])
def test_file_that_cannot_be_read_is_one_sentence(tmp_path, workers, fault):
    manifest = files(tmp_path, [16000, 8000])
    path = tmp_path / "1.wav"
    path.unlink()
    if fault == "garbage":
        path.write_text("no audio")
    elif fault == "pipe":
        os.mkfifo(path)
    elif fault == "nan":
        noise = np.full(8000, np.nan, dtype=np.float32)
        soundfile.write(path, noise, 16000, "FLOAT")
    with pytest.raises(AudioError, match=f"{path}") as caught:
        embed_utterances(Encoder().eval(), manifest, num_workers=workers)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_utterances_are_read_at_the_rate_of_the_encoder(tmp_path):
    manifest = files(tmp_path, [16000])
    encoder = Encoder().eval()
    heard = []
    encoder.encode_batch = lambda wavs, lengths: (
        heard.append(wavs) or torch.ones(1, 1, 4)
    )
    encoder.audio_normalizer = AudioNormalizer(8000)
    embed_utterances(encoder, manifest)
    expected = read_audio(manifest.wav[0], sample_rate=8000)
    assert expected.shape == (8000,)
    assert torch.equal(heard[0][0], expected)


def test_embedding_that_is_not_finite_is_named(manifest):
    encoder = Encoder().eval()
    encoder.model.embedding.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="7 embeddings.*for example 0, 1"):
        embed_utterances(encoder, manifest)


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_of_an_utterance_are_embedded_each_by_itself(tmp_path, workers):
    manifest = files(tmp_path, [16000, 5000, 9000, 4000, 8001])
    encoder, crops = Encoder().eval(), Crops(3, 0.5)
    found = torch.empty(5, 3, 8)
    sizes = []
    for rows, embeddings in embed_batches(
        encoder, manifest, 3.0, workers, crops=crops
    ):
        found[rows] = embeddings
        sizes.append(len(rows))
    assert sizes == [2, 2, 1]  # 1.5 s each
    for row, path in enumerate(manifest.wav):
        wavs = evenly_spaced_crops(read_audio(path), 3, 8000)
        with torch.inference_mode():
            expected = encoder.encode_batch(wavs, torch.ones(3))[:, 0]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_crop_without_speech_is_named(tmp_path):
    manifest = files(tmp_path, [16000, 16000])
    signal = 0.1 * np.random.default_rng(0).standard_normal(16000)
    signal[6000:] = 0
    soundfile.write(manifest.wav[1], signal, 16000)
    batches = embed_batches(Encoder().eval(), manifest, crops=Crops(3, 0.5))
    with pytest.raises(NoSpeechError) as caught:
        assert [rows for rows, _ in batches] == [[0]]
    reason = "crop 3: digital silence: all its samples are equal"
    assert caught.value.reasons == {"1": reason}


def test_seconds_of_a_crop_are_the_encoders(tmp_path):
    manifest = files(tmp_path, [16000])
    loader = utterance_loader(manifest, sample_rate=8000, crops=Crops(2, 0.5))
    (batch,) = loader
    assert batch.sig.data.shape == (1, 2, 4000)


def test_bf16_is_close_and_an_unknown_precision_is_refused(manifest):
    encoder = Encoder().eval()
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):  # as after training
            layer.running_var.fill_(0.5)
    found = {}
    for precision in ("fp32", "bf16"):
        parts = list(embed_batches(encoder, manifest, precision=precision))
        found[precision] = torch.cat([part for _, part in parts]).double()
    assert found["bf16"].dtype == torch.float64
    assert not torch.equal(found["bf16"], found["fp32"])
    cosines = torch.nn.functional.cosine_similarity(*found.values())
    assert cosines.min() > 0.999
    with pytest.raises(ValueError, match="int8.*one of `fp32`"):
        list(embed_batches(encoder, manifest, precision="int8"))
