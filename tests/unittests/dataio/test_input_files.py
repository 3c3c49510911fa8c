"""Only regular files are opened, and a replaced file is noticed."""

import os
import socket

import pytest

from speechbrain_ext.dataio.input_files import (
    SAMPLE,
    file_fingerprint,
    file_fingerprints,
    irregular_kind,
    require_regular,
)

KEPT = (1_600_000_000_000_000_000,) * 2  # times, ns


def write(path, content):
    """A file whose times tell nothing."""
    path.write_bytes(content)
    os.utime(path, ns=KEPT)
    return path


@pytest.mark.parametrize("place", [0, 0.5, 1.0])
def test_replaced_file_of_equal_size_and_time_is_noticed(tmp_path, place):
    content = bytearray(os.urandom(10 * SAMPLE))
    path = write(tmp_path / "a.wav", content)
    before = file_fingerprint(path)
    assert file_fingerprint(path) == before
    content[int(place * (len(content) - 1))] ^= 1
    assert file_fingerprint(write(path, content)) != before


def test_time_size_and_path_count(tmp_path):
    path = write(tmp_path / "a.wav", b"content")
    other = write(tmp_path / "b.wav", b"content")
    before = file_fingerprint(path)
    assert file_fingerprint(other) != before
    os.utime(path, ns=(0, 0))
    assert file_fingerprint(path) != before
    write(path, b"content" + bytes(1))
    assert file_fingerprint(path) != before


@pytest.mark.parametrize("size", [0, 1, SAMPLE, SAMPLE + 1, 3 * SAMPLE - 1])
def test_small_files_have_fingerprints(tmp_path, size):
    assert len(file_fingerprint(write(tmp_path / "a", bytes(size)))) == 32


def test_many_files_keep_their_order(tmp_path):
    paths = [write(tmp_path / f"{n}.wav", bytes([n])) for n in range(250)]
    paths = [paths[n % 250] for n in range(1000)]
    assert file_fingerprints(paths) == [file_fingerprint(p) for p in paths]
    assert file_fingerprints([]) == []


def test_everything_else_is_refused_by_its_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.wav")
    os.mkdir("folder.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")
        for path, kind in (
            ("pipe.wav", "a named pipe"),
            ("folder.wav", "a folder"),
            ("socket.wav", "a socket"),
            ("/dev/null", "a device"),
        ):
            assert irregular_kind(path) == kind
            with pytest.raises(ValueError, match=f"{path} is {kind}, not"):
                require_regular(path)
            with pytest.raises(ValueError, match=f"{path} is {kind}, not"):
                file_fingerprint(path)
    with pytest.raises(FileNotFoundError, match="gone.wav"):
        file_fingerprint("gone.wav")
