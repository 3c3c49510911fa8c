"""Reading pieces of files, with the samples of the pretrained interface."""

import os

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer

from speechbrain_ext.dataio.audio import (
    AudioError,
    explain_reading,
    file_header,
    read_audio,
)


def write(path, rate=16000, channels=1, seconds=1.0, **options):
    """Noise; returns the path as text."""
    noise = np.random.default_rng(0).normal(
        0, 0.1, (int(seconds * rate), channels)
    )
    soundfile.write(path, noise, rate, **options)
    return str(path)


class Pieces(torch.utils.data.Dataset):
    """Pieces of one file, one for each start."""

    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return read_audio(self.path, index, index + 9600)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_read_audio_matches_pretrained_interface(
    tmp_path, extension, rate, channels
):
    path = write(tmp_path / f"a.{extension}", rate, channels)
    # What speechbrain.inference.Pretrained.load_audio does.
    signal, file_rate = audio_io.load(path, channels_first=False)
    expected = AudioNormalizer(16000)(signal, file_rate)
    read = read_audio(path)
    assert read.dtype == torch.float32 and read.shape == (16000,)
    torch.testing.assert_close(read, expected, rtol=0, atol=0)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
def test_read_audio_reads_the_piece_asked_for(tmp_path, extension):
    path = write(tmp_path / f"a.{extension}")
    whole = read_audio(path)
    torch.testing.assert_close(read_audio(path, 700, 9000), whole[700:9000])
    torch.testing.assert_close(read_audio(path, start=15000), whole[15000:])


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("a.wav", "GSM610"), ("a.au", "G721_32"), ("a.wav", "NMS_ADPCM_16")],
)
def test_read_audio_reads_telephone_formats_that_cannot_be_sought(
    name, subtype, tmp_path
):
    path = write(tmp_path / name, 8000, seconds=2, subtype=subtype)
    whole, _ = soundfile.read(path, dtype="float32")
    assert not soundfile.SoundFile(path).seekable()
    given = {"sample_rate": 8000, "file_rate": 8000}
    assert read_audio(path, **given).tolist() == whole.tolist()
    found = read_audio(path, 700, 9000, **given)
    assert found.tolist() == whole[700:9000].tolist()
    assert file_header(path)[0] == len(whole)


def test_read_audio_counts_at_the_rate_of_the_file(tmp_path):
    path = write(tmp_path / "a.wav", rate=8000, channels=2)
    assert read_audio(path, 0, 4000, file_rate=8000).shape == (8000,)
    assert read_audio(path, 0, 4000, sample_rate=8000).shape == (4000,)
    with pytest.raises(ValueError, match="8000 samples .* says 16000"):
        read_audio(path, 0, 4000, file_rate=16000)


@pytest.mark.parametrize("rate", [15999, 22254, 11127])
def test_read_audio_resamples_from_odd_rates(tmp_path, rate):
    time = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 1000 * time)
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.stack([tone, 3 * tone], 1) / 2, rate, "FLOAT")
    read = read_audio(path)
    assert read.dtype == torch.float32 and read.shape == (32000,)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    inside = slice(200, -200)
    assert np.abs(read.numpy() - expected)[inside].max() < 0.01


def test_read_audio_ignores_the_default_dtype(tmp_path):
    path = write(tmp_path / "a.wav")
    torch.set_default_dtype(torch.float64)
    try:
        assert read_audio(path).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_read_audio_is_the_same_in_workers(tmp_path):
    path = write(tmp_path / "a.wav", rate=48000, channels=2)
    pieces = Pieces(path)
    expected = [pieces[index] for index in range(len(pieces))]
    loader = torch.utils.data.DataLoader(
        pieces, batch_size=None, num_workers=2, timeout=60
    )
    for read, piece in zip(loader, expected, strict=True):
        torch.testing.assert_close(read, piece)


@pytest.mark.parametrize("start, stop", [(-1, 5), (5, 5), (9, 3)])
def test_read_audio_rejects_empty_piece(tmp_path, start, stop):
    path = write(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=f"got {start} to {stop} of .*a.wav"):
        read_audio(path, start, stop)


def test_read_audio_rejects_fewer_samples_than_asked(tmp_path):
    path = write(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="has 1000 .* 15000 to 17000"):
        read_audio(path, 15000, 17000)
    with pytest.raises(ValueError, match="has 0 samples from sample 16000"):
        read_audio(path, 16000)


@pytest.mark.parametrize("name", ["gone.wav", "garbage.wav", "cut.flac"])
def test_read_audio_rejects_unreadable_file(tmp_path, name):
    (tmp_path / "garbage.wav").write_text("garbage")
    cut = write(tmp_path / "cut.flac", seconds=4)
    os.truncate(cut, os.path.getsize(cut) // 2)
    with pytest.raises(RuntimeError, match=f"{name} .* rejected.csv"):
        read_audio(tmp_path / name, 50000)


def test_header_of_a_file_or_an_error_with_its_name(tmp_path):
    path = write(tmp_path / "a.wav", 8000, 2)
    assert file_header(path) == (8000, 8000, 2)
    (tmp_path / "b.wav").write_text("no audio" * 100)
    with pytest.raises(AudioError, match="b.wav cannot be used: .*; give a"):
        file_header(str(tmp_path / "b.wav"))
    with pytest.raises(FileNotFoundError, match="c.wav does not exist"):
        file_header(str(tmp_path / "c.wav"))


def test_errors_of_single_files_have_no_advice_on_a_corpus(tmp_path):
    path = str(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="prepare.json"):
        read_audio(path)
    with pytest.raises(AudioError, match="give another file") as caught:
        with explain_reading():
            read_audio(path)
    assert "prepare.json" not in str(caught.value)
