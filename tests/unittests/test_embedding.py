"""Batches of whole utterances and their embeddings."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_ext.inference.embedding import (
    embed_utterances,
    length_sorted_batches,
    utterance_loader,
)
from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
from speechbrain_ext.lobes.models.ResNet import ResNet


@pytest.fixture
def manifest(tmp_path):
    """Seven files of 10 ms to 2 s."""
    rng = np.random.default_rng(0)
    rows = []
    for row, samples in enumerate([16000, 32000, 160, 15999, 400, 8001, 16001]):
        path = tmp_path / f"{row}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), 16000)
        rows.append((str(row), samples / 16000, str(path), 0, samples, "s"))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    return pd.DataFrame(rows, columns=columns)


class Encoder(torch.nn.Module):
    """A small encoder with ``encode_batch`` as SpeechBrain's."""

    def __init__(self):
        super().__init__()
        self.fbank, self.norm = KaldiFbank(40), SentenceMeanNorm()
        self.model = ResNet(40, (1, 1, 1, 1), 4, lin_neurons=8)

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


def test_shorter_than_a_frame_is_wrapped(manifest):
    (batch,) = utterance_loader(manifest[2:3])
    assert batch.sig.data.shape == (1, 400)
    assert torch.equal(batch.sig.data[0, :160], batch.sig.data[0, 160:320])


def test_embedding_that_is_not_finite_is_named(manifest):
    encoder = Encoder().eval()
    encoder.model.embedding.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="7 embeddings.*among them 0, 1"):
        embed_utterances(encoder, manifest)
