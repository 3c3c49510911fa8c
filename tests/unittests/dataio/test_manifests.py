"""Manifests: reading, writing, scanning a corpus of every kind of file."""

import os

import numpy as np
import pandas as pd
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_ext.dataio import audio_headers
from speechbrain_ext.dataio.manifests import (
    COLUMNS,
    read_manifest,
    require_readable,
    scan_corpus,
    write_manifest,
)

HEADER = ",".join(COLUMNS)
ROW = "0012/NA/1,0.5,/d/1.wav,0,8000,0012"


@pytest.fixture
def corpus(tmp_path):
    """Good and bad files below a path that itself has the words wav and test."""
    root = tmp_path / "wav" / "test" / "data"

    def write(name, frames, rate=16000, channels=1):
        path = root / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full((frames, channels), 0.1), rate)
        return path

    write("id1/s1/plain.wav", 16000)
    write("id1/s1/stereo.flac", 8000, channels=2)
    write("id1/s2/phone.wav", 8000, rate=8000)
    write("id2/s1/studio.wav", 24000, rate=48000, channels=2)
    write("id2/s1/vorbis.ogg", 16000)
    write("id2/s1/zero.wav", 0)
    for name in ("cut.wav", "cut.flac"):
        path = write(f"id3/s_{name[4:]}/{name}", 64000)
        os.truncate(path, os.path.getsize(path) // 2)
    (root / "wav" / "id3" / "s_wav" / "garbage.wav").write_text("garbage")
    return str(root)


def test_scan_corpus_measures_and_rejects(corpus):
    manifest, rejected, summary = scan_corpus([corpus])
    assert list(manifest)[:6] == COLUMNS
    durations = dict(zip(manifest.ID, manifest.duration, strict=True))
    assert durations == {
        "id1/s1/plain": 1.0,
        "id1/s1/stereo": 0.5,
        "id1/s2/phone": 1.0,
        "id2/s1/studio": 0.5,
        "id2/s1/vorbis": 1.0,
    }
    assert manifest.start.tolist() == [0] * 5
    assert manifest.stop.tolist() == [16000, 8000, 8000, 24000, 16000]
    assert not manifest.official_test.any()
    reasons = {
        os.path.basename(wav): reason.split(":")[0]
        for wav, reason in rejected.itertuples(index=False)
    }
    assert reasons == {
        "zero.wav": "no samples",
        "cut.wav": "truncated",
        "cut.flac": "truncated",
        "garbage.wav": "unreadable header",
    }
    assert summary == {
        **{"files": 5, "speakers": 2, "sessions": 3, "seconds": 4.0},
        **{"stereo": 2, "rejected": 4, "pieces": 0},
        "sample_rates": {"8000": 1, "16000": 3, "48000": 1},
        **{"misplaced": 0, "other_formats": {}},
    }


def test_scan_corpus_is_the_same_with_any_workers(corpus, monkeypatch):
    serial = scan_corpus([corpus], workers=1)
    monkeypatch.setattr(audio_headers, "FEW", 0)
    monkeypatch.setattr(audio_headers, "CHUNK", 2)
    forked = scan_corpus([corpus], workers=2)
    assert forked[0].equals(serial[0]) and forked[1].equals(serial[1])
    assert forked[2] == serial[2]


def test_scan_corpus_with_nothing_readable_is_empty(tmp_path):
    folder = tmp_path / "id1" / "s"
    folder.mkdir(parents=True)
    (folder / "1.wav").write_text("garbage")
    manifest, rejected, summary = scan_corpus([str(tmp_path)])
    assert manifest.empty and len(rejected) == 1 and summary["files"] == 0


def test_manifest_survives_the_file(corpus, tmp_path):
    manifest, *_ = scan_corpus([corpus])
    manifest = manifest[COLUMNS].assign(spk_id="007")
    path = tmp_path / "train.csv"
    write_manifest(manifest, path)
    pd.testing.assert_frame_equal(read_manifest(path), manifest)
    speechbrain_reads = DynamicItemDataset.from_csv(path)
    assert speechbrain_reads.data_ids == manifest.ID.tolist()


def test_read_manifest_leaves_text_as_it_is(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER},spk_id_clean\n{ROW},0001\n")
    manifest = read_manifest(path)
    assert manifest.ID.tolist() == ["0012/NA/1"]
    assert manifest.spk_id.tolist() == ["0012"]
    assert manifest.spk_id_clean.tolist() == ["0001"]
    assert manifest.stop.tolist() == [8000]


@pytest.mark.parametrize(
    "text, reason",
    [
        (f"ID,duration,wav\n{ROW}", "lacks the columns start, stop, spk_id"),
        (f"{HEADER}\n", "has no rows"),
        ("", "is not a CSV table"),
        (f"{HEADER}\n{ROW}\n{ROW}\n", "has the ID 0012/NA/1 twice"),
        (f"{HEADER}\n{ROW.replace('0.5', 'long')}\n", "duration is long"),
        (f"{HEADER}\n{ROW.replace('8000', '8e3.')}\n", "stop is 8e3., not a"),
        (f"{HEADER}\n{ROW.replace(',0,', ',0.5,')}\n", "start is 0.5, not a"),
        (f"{HEADER}\n{ROW.replace(',0,', ',8000,')}\n", "got 8000 to 8000"),
    ],
)
def test_read_manifest_rejects_broken_table(tmp_path, text, reason):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_manifest(path)


def test_read_manifest_rejects_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv does not exist"):
        read_manifest(tmp_path / "gone.csv")


def test_write_manifest_rejects_repeated_id(tmp_path):
    rows = pd.DataFrame([ROW.split(",")] * 2, columns=COLUMNS)
    with pytest.raises(ValueError, match="0012/NA/1 twice"):
        write_manifest(rows, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_unreadable_files_are_counted_to_the_last(tmp_path):
    bad = pd.DataFrame({"wav": ["1.wav", "2.wav"], "reason": ["empty"] * 2})
    require_readable(bad, 200, 0.01)
    with pytest.raises(ValueError, match="2 of 199 .*1.wav .empty.* 0.0101"):
        require_readable(bad, 199, 0.01)
