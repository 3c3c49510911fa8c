"""Headers: the answer of soundfile, and files that are not whole."""

import os
import struct

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio import audio_headers
from speechbrain_ext.dataio.audio_headers import read_header, read_headers

FORMATS = [
    *(("wav", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32")),
    *(("wav", s) for s in ("FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")),
    *(("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS")),
]


def write(path, frames=8000, rate=16000, channels=1, **options):
    """Noise; returns the path as text."""
    noise = np.random.default_rng(0).normal(0, 0.1, (frames, channels))
    soundfile.write(path, noise, rate, **options)
    return str(path)


def cut(path, share):
    """Keeps the first part of a file."""
    os.truncate(path, int(os.path.getsize(path) * share))
    return path


def set_data_size(path, size):
    """Writes another size into the header of a plain wav."""
    with open(path, "r+b") as stream:
        stream.seek(40)
        stream.write(struct.pack("<I", size))
    return path


@pytest.mark.parametrize("extension, subtype", FORMATS)
@pytest.mark.parametrize("rate, channels", [(16000, 1), (48000, 2)])
def test_read_header_matches_soundfile(
    tmp_path, extension, subtype, rate, channels
):
    path = write(
        tmp_path / f"a.{extension}",
        rate=rate,
        channels=channels,
        subtype=subtype,
    )
    info = soundfile.info(path)
    assert read_header(path) == (info.frames, info.samplerate, info.channels)


def test_read_header_goes_by_content_not_by_name(tmp_path):
    path = write(tmp_path / "flac_inside.wav", format="FLAC")
    assert read_header(path) == (8000, 16000, 1)


@pytest.mark.parametrize("length", [11, 3000])
def test_read_header_passes_over_other_chunks(tmp_path, length):
    path = write(tmp_path / "a.wav")
    with open(path, "rb") as stream:
        plain = stream.read()
    chunk = b"LIST" + struct.pack("<I", length) + bytes(length + length % 2)
    with open(path, "wb") as stream:
        stream.write(plain[:36] + chunk + plain[36:])
    assert read_header(path) == (8000, 16000, 1)


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_read_header_tolerates_streaming_size(tmp_path, size):
    path = set_data_size(write(tmp_path / "a.wav"), size)
    assert read_header(path) == (8000, 16000, 1)


def test_read_header_rejects_never_closed_wav(tmp_path):
    path = set_data_size(write(tmp_path / "a.wav"), 0)
    with pytest.raises(ValueError, match="no samples: .* a length of 0"):
        read_header(path)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
def test_read_header_rejects_truncated_wav(tmp_path, share):
    path = cut(write(tmp_path / "a.wav"), share)
    held = os.path.getsize(path) - 44
    with pytest.raises(ValueError, match=f"promises 16000 .* holds {held}$"):
        read_header(path)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg"])
@pytest.mark.parametrize("share", [0.999, 0.9, 0.5])
def test_read_header_rejects_truncated_compressed(tmp_path, name, share):
    path = cut(write(tmp_path / name, frames=64000), share)
    with pytest.raises(ValueError, match="^truncated: "):
        read_header(path)


def test_read_header_rejects_flac_without_length(tmp_path):
    path = write(tmp_path / "a.flac")
    with open(path, "r+b") as stream:
        stream.seek(21)
        high = stream.read(1)[0] & 0xF0  # bits per sample share the byte
        stream.seek(21)
        stream.write(bytes([high, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="does not give its length"):
        read_header(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty file: 0 bytes"),
        (b"no audio at all " * 50, "Format not recognised"),
        (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0", "ends inside its header"),
        (b"RIFF\x24\0\0\0WAVE", "unreadable header"),
        (b"OggS" + bytes(100), "last page of its Ogg stream"),
        (b"fLaC" + bytes(100), "unreadable header"),
    ],
)
def test_read_header_rejects_garbage(tmp_path, content, reason):
    path = tmp_path / "garbage.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_header(str(path))


def test_read_header_rejects_no_samples(tmp_path):
    path = write(tmp_path / "a.wav", frames=0)
    with pytest.raises(ValueError, match="no samples"):
        read_header(path)


def test_read_headers_is_the_same_with_any_workers(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{n}.wav", frames=100 + n) for n in range(20)]
    cut(paths[7], 0.5)
    paths[11] = str(tmp_path / "missing.wav")
    serial = read_headers(paths, workers=1)
    monkeypatch.setattr(audio_headers, "FEW", 0)
    monkeypatch.setattr(audio_headers, "CHUNK", 3)
    assert read_headers(paths, workers=2) == serial
    assert [header[0] for header in serial[:3]] == [100, 101, 102]
    assert serial[7][:3] == (0, 0, 0)
    assert serial[11][3] == "cannot be opened: No such file or directory"


def test_a_disk_that_failed_for_a_moment_is_asked_again(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    for path in paths:
        soundfile.write(path, np.zeros(800), 8000)
    journal, said = str(tmp_path / "headers.jsonl"), audio_headers.read_header
    failing = f"{audio_headers.NOT_OPENED}: Input/output error"

    def failed(path):
        if path == paths[1]:
            raise ValueError(failing)
        return said(path)

    monkeypatch.setattr(audio_headers, "read_header", failed)
    found = read_headers(paths, journal=journal)
    assert [header[3] for header in found] == ["", failing, ""]
    monkeypatch.undo()
    assert read_headers(paths, journal=journal) == [(800, 8000, 1, "")] * 3
