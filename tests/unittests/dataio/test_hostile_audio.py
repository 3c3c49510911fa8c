"""Broken and hostile audio: a sentence that names the file, or the samples."""

import contextlib
import os
import signal
import socket
import struct

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_ext.dataio.audio import AudioError, read_audio
from speechbrain_ext.dataio.audio_headers import read_header
from speechbrain_ext.dataio.corpus import corpus_fingerprint
from speechbrain_ext.dataio.crops import CropDataset, Draw
from speechbrain_ext.dataio.file_lists import list_named, list_utterances
from speechbrain_ext.dataio.manifests import (
    read_manifest,
    scan_corpus,
    scan_files,
)
from speechbrain_ext.dataio.trials import read_trials

SECONDS = 20  # after which a case counts as a hang


@contextlib.contextmanager
def no_hang():
    """Raises where a block takes too long."""

    def stop(*_):
        raise TimeoutError("the case hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def noise(samples=4000, channels=1):
    return np.random.default_rng(0).normal(0, 0.1, (samples, channels))


def riff(
    samples=8000,
    *,
    kind=1,
    channels=1,
    rate=16000,
    bits=16,
    block=None,
    data=None,
    fmt_size=16,
    name=b"WAVE",
    before=b"",
):
    """A wav whose header says what it is told to."""
    block = channels * bits // 8 % 2**16 if block is None else block
    fmt = struct.pack(
        "<HHIIHH",
        *(kind, channels, rate, rate * block % 2**32, block, bits),
    )
    data = samples if data is None else data
    chunks = b"fmt " + struct.pack("<I", fmt_size) + fmt + before
    chunks += (
        b"data" + struct.pack("<I", data) + bytes(range(250)) * (samples // 250)
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + name + chunks


def written(samples=None, rate=16000, **options):
    """What writes a sound with soundfile."""

    def make(path):
        held = noise() if samples is None else samples
        soundfile.write(path, held, rate, **options)

    return make


def cut(share, **options):
    """What writes a sound and cuts it off."""

    def make(path):
        written(noise(20000), **options)(path)
        os.truncate(path, int(os.path.getsize(path) * share))

    return make


def patched(places, **options):
    """What writes a sound and changes bytes of it."""

    def make(path):
        written(**options)(path)
        with open(path, "r+b") as stream:
            for place, content in places.items():
                stream.seek(place)
                stream.write(content)

    return make


def rf64(path):
    written(format="RF64")(path)


def unix_socket(path):
    place = os.getcwd()
    os.chdir(os.path.dirname(path))  # their names must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.basename(path))
    os.chdir(place)


def loop(path):
    os.symlink(path, path)


def nowhere(path):
    os.symlink("/no/such/file.wav", path)


FLAC = {"format": "FLAC"}
VORBIS = {"format": "OGG", "subtype": "VORBIS"}
BAD, GOOD = "a sentence", "the samples"

# What is written, and what must come of it; None: either
CASES = {
    # headers that lie
    "wav of zero rate": (riff(rate=0), BAD),
    "wav of 1 Hz": (riff(rate=1), BAD),
    "wav of 10 MHz": (riff(rate=10_000_000), BAD),
    "wav of 4 GHz": (riff(rate=2**32 - 1), BAD),
    "wav of an odd rate": (riff(rate=15999), GOOD),
    "wav of 0 channels": (riff(channels=0), BAD),
    "wav of 65535 channels": (riff(channels=65535), BAD),
    "wav of 0 bits": (riff(bits=0), BAD),
    "wav of 17 bits": (riff(bits=17), None),
    "wav with a wrong block": (riff(block=7), None),
    "wav with a block of 0": (riff(block=0), None),
    "wav of an unknown kind": (riff(kind=0x1234), BAD),
    "wav that promises more": (riff(data=80000), BAD),
    "wav that promises nothing": (riff(data=0), BAD),
    "wav that promises 4 GB": (riff(data=2**32 - 1), None),
    "wav that promises 2 GB": (riff(data=0x7FFFF000), None),
    "wav with an endless header": (riff(fmt_size=2**32 - 1), BAD),
    "wav with a short header": (riff(fmt_size=2), BAD),
    "wav with an endless chunk": (
        riff(before=b"LIST" + struct.pack("<I", 2**32 - 1)),
        BAD,
    ),
    "wav with a thousand chunks": (
        riff(before=(b"junk" + struct.pack("<I", 0)) * 1000),
        GOOD,
    ),
    "wav without fmt": (
        b"RIFF\x24\0\0\0WAVEdata\x40\x1f\0\0" + bytes(8000),
        BAD,
    ),
    "wav that is none": (riff(name=b"AVI "), BAD),
    "rf64": (rf64, None),
    "flac of an unknown length": (
        patched({21: b"\xf0\0\0\0\0"}, **FLAC),
        BAD,
    ),
    "flac of a huge length": (patched({21: b"\xff" * 5}, **FLAC), BAD),
    "flac of another rate": (patched({18: b"\0\0\0"}, **FLAC), None),
    "flac with a broken frame": (patched({600: b"\xff" * 40}, **FLAC), None),
    "ogg with a broken page": (patched({300: b"\0" * 200}, **VORBIS), None),
    # cut off
    **{
        f"{form} cut at {share}": (cut(share, **options), BAD)
        for form, options in (
            ("wav", {"format": "WAV"}),
            ("flac", FLAC),
            ("ogg", VORBIS),
        )
        for share in (0.0005, 0.003, 0.4, 0.97)
    },
    # no audio
    "an empty file": (b"", BAD),
    "a byte": (b"R", BAD),
    "text": (b"id1 id1/s/1.wav\n" * 99, BAD),
    "zeros": (bytes(9999), BAD),
    "an mp3's first bytes": (b"ID3\x04\0\0\0\0\0\0" + bytes(999), BAD),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(999), BAD),
    "a named pipe": (os.mkfifo, BAD),
    "a socket": (unix_socket, BAD),
    "a folder": (os.mkdir, BAD),
    "a link to nowhere": (nowhere, BAD),
    "a link to itself": (loop, BAD),
    "a link to a device": (lambda path: os.symlink("/dev/zero", path), BAD),
    "nothing": (lambda path: None, BAD),
    # odd but right
    "one sample": (written(noise(1)), GOOD),
    "no sample": (written(noise(0)), BAD),
    "8 bits": (written(subtype="PCM_U8"), GOOD),
    "24 bits": (written(subtype="PCM_24"), GOOD),
    "float64": (written(subtype="DOUBLE"), GOOD),
    "mu-law": (written(subtype="ULAW"), GOOD),
    "six channels": (written(noise(4000, 6)), GOOD),
    "100 Hz": (written(noise(200), rate=100), GOOD),
    "768 kHz": (written(noise(80000), rate=768000), GOOD),
    "extensible": (written(format="WAVEX"), GOOD),
    "flac named wav": (written(format="FLAC"), GOOD),
    "far too loud": (written(1e30 * noise(), subtype="FLOAT"), GOOD),
    "the smallest floats": (written(1e-40 * noise(), subtype="FLOAT"), GOOD),
}
# The header is whole, the samples are not numbers
NOT_FINITE = {
    "nan": np.nan,
    "infinity": np.inf,
    "minus infinity": -np.inf,
}


def make(case, path):
    content = CASES[case][0]
    if callable(content):
        content(str(path))
    else:
        path.write_bytes(content)


def stated(path):
    """Name, kind, size and times of what is there."""
    with contextlib.suppress(OSError):
        state = os.lstat(path)
        return state.st_mode, state.st_size, state.st_mtime_ns
    return None


def one_sentence(error, *words):
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text
    assert all(str(word) in text for word in words), text


def rows(path, frames, rate):
    table = pd.DataFrame({"ID": ["a/s/1"], "wav": [str(path)], "spk_id": ["a"]})
    return table.assign(duration=frames / rate, start=0, stop=frames)


@pytest.mark.parametrize("case", CASES)
def test_header_samples_and_crop(case, tmp_path):
    path = tmp_path / "x.wav"
    make(case, path)
    before, wanted = stated(path), CASES[case][1]
    with no_hang():
        try:
            frames, rate, channels = read_header(str(path))
        except ValueError as error:
            assert wanted != GOOD, error
            one_sentence(error)
            frames, rate = 8000, 16000  # as another run may have found it
            wanted = BAD if wanted is None else wanted
            rejected = True
        else:
            assert wanted != BAD
            assert min(frames, rate, channels) >= 1
            rejected = False
        for read in (
            lambda: read_audio(path, 0, frames, file_rate=rate),
            lambda: CropDataset(rows(path, frames, rate), [0], 0.2, seed=1)[
                Draw(0, 1, 0)
            ]["sig"],
        ):
            try:
                samples = read()
            except AudioError as error:
                assert wanted != GOOD, error
                one_sentence(error, path)
            else:
                # what the header refuses may still have some samples
                assert samples.isfinite().all() and len(samples) >= 1
        if not rejected and wanted == GOOD:
            assert len(read_audio(path)) == -(-frames * 16000 // rate)
    assert stated(path) == before


@pytest.mark.parametrize("case", NOT_FINITE)
@pytest.mark.parametrize("rate", [16000, 8000])
def test_samples_that_are_not_finite(case, rate, tmp_path):
    path = tmp_path / "x.wav"
    samples = noise(4000, 2)
    samples[1234, 1] = NOT_FINITE[case]
    soundfile.write(path, samples, rate, "FLOAT")
    assert read_header(str(path)) == (4000, rate, 2)
    with pytest.raises(AudioError, match=f"{path} has samples .* not finite"):
        read_audio(path)
    # the rest of the file can be used
    assert read_audio(path, 0, 1000).isfinite().all()


def test_preparation_lists_all_of_them(tmp_path):
    paths = []
    for number, case in enumerate(CASES):
        paths.append(tmp_path / f"{number}.wav")
        make(case, paths[-1])
    files = pd.DataFrame({"ID": list(CASES), "wav": list(map(str, paths))})
    files = files.assign(spk_id="a", official_test=False)
    with no_hang():
        manifest, rejected, summary = scan_files(files, {})
    assert len(manifest) + len(rejected) == len(CASES)
    good = {case for case, (_, wanted) in CASES.items() if wanted == GOOD}
    bad = {case for case, (_, wanted) in CASES.items() if wanted == BAD}
    assert good <= set(manifest.ID) and not bad & set(manifest.ID)
    for reason in rejected.reason:
        one_sentence(reason)
    assert (manifest.stop > 0).all() and np.isfinite(manifest.duration).all()


@pytest.mark.parametrize(
    "name",
    ["a b.wav", "ä.wav", "a=b.wav", "a,b.wav", "a#1+2.wav", "\t.wav"]
    + ["-rf.wav", "a.tar#x+y", "%s.wav", "{}.wav", "'\".wav", "x" * 200],
)
def test_odd_names_are_read(name, tmp_path):
    path = tmp_path / name
    soundfile.write(path, noise(), 16000, format="WAV")
    assert read_header(str(path)) == (4000, 16000, 1)
    expected = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    assert torch.equal(read_audio(path), expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(), 16000)
    path.chmod(0)
    with pytest.raises(ValueError, match="cannot be opened: Permission"):
        read_header(str(path))
    with pytest.raises(AudioError, match=f"{path} .*Permission"):
        read_audio(path)


def test_a_pipe_in_a_corpus_is_rejected_and_does_not_hang(tmp_path):
    folder = tmp_path / "id1" / "s1"
    folder.mkdir(parents=True)
    soundfile.write(folder / "0.wav", noise(), 16000)
    os.mkfifo(folder / "x.wav")
    with no_hang():
        manifest, rejected, _ = scan_corpus([tmp_path], workers=1)
    assert manifest.ID.tolist() == ["id1/s1/0"]
    assert rejected.reason.tolist() == ["not a file: a named pipe"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, unix_socket])
@pytest.mark.parametrize(
    "read",
    [
        read_trials,
        read_manifest,
        lambda path: corpus_fingerprint(
            *list_utterances(["/data"], [path], [path])[:1], [path]
        ),
        lambda path: list_utterances(["/data"], [path]),
        lambda path: list_named(path, ["/data"]),
    ],
    ids=["trials", "manifest", "fingerprint", "file_list", "named"],
)
def test_lists_that_are_no_files_do_not_hang(make, read, tmp_path):
    path = str(tmp_path / "list.txt")
    make(path)
    with no_hang(), pytest.raises((ValueError, OSError)) as caught:
        read(path)
    one_sentence(caught.value, path)


def test_there_are_fifty_cases():
    assert len(CASES) + len(NOT_FINITE) >= 50
