"""Finding utterances: VoxCeleb's levels, other trees, clashes of IDs."""

import os

import pandas as pd
import pytest

from speechbrain_ext.dataio import corpus
from speechbrain_ext.dataio.corpus import (
    FILE_COLUMNS,
    corpus_fingerprint,
    list_corpus,
)


def touch(root, *names):
    """Empty files, which listing never opens."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


def test_list_corpus_takes_only_what_lies_below_wav(tmp_path):
    root = touch(
        tmp_path,
        *("wav/id2/s1/2.wav", "wav/id1/s1/1.FLAC", "noise/free/sound/1.wav"),
        *("wav/loose.wav", "x.wav", "wav/id1/s1/._1.wav", ".trash/a/b/c.wav"),
        *("wav/id1/s1/3.m4a", "meta/veri.txt"),
    )
    files, left_out = list_corpus([root])
    assert files.ID.tolist() == ["id1/s1/1", "id2/s1/2"]
    assert files.wav.tolist()[0] == f"{root}/wav/id1/s1/1.FLAC"
    assert files.spk_id.tolist() == ["id1", "id2"]
    assert left_out == {"misplaced": 3, "other_formats": {"m4a": 1}}


def test_list_corpus_without_levels_takes_three_parts(tmp_path):
    root = touch(
        tmp_path,
        "clean/7/ch/7-1.flac",
        "8/ch/8-1.ogg",
        "wav/9/x.wav",
        "9/y.wav",
    )
    with pytest.raises(ValueError, match="say with --layout .*--file_list"):
        list_corpus([root])
    files, left_out = list_corpus([root], layout="speaker/session/utterance")
    assert files.ID.tolist() == ["7/ch/7-1", "8/ch/8-1", "wav/9/x"]
    assert left_out["misplaced"] == 1


def test_list_corpus_marks_official_test_splits(tmp_path):
    root = touch(
        tmp_path,
        *("dev/aac/id1/s/1.wav", "test/aac/id2/s/1.wav"),
        *("dev/aac/test/s/1.wav", "dev/aac/id3/test/1.wav"),
    )
    files, _ = list_corpus([root])
    marked = files.spk_id[files.official_test].tolist()
    assert marked == ["id2"]


def test_list_corpus_looks_only_below_the_root(tmp_path):
    root = touch(
        tmp_path / "wav" / "test" / "corpus",
        *("id1/s/1.wav", "noise/free/1.wav"),
    )
    files, _ = list_corpus([root])
    assert files.ID.tolist() == ["id1/s/1", "noise/free/1"]
    assert not files.official_test.any()


def test_list_corpus_ignores_the_order_of_the_file_system(
    tmp_path, monkeypatch
):
    names = [f"wav/id{n}/s{n % 2}/{n}.wav" for n in range(30)]
    root = touch(tmp_path, *names)
    plain, _ = list_corpus([root])

    class Reversed:
        def __init__(self, path):
            with os.scandir(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name)[::-1]

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            return None

    class FakeOS:
        scandir = Reversed

        def __getattr__(self, name):
            return getattr(os, name)

    monkeypatch.setattr(corpus, "os", FakeOS())
    assert list_corpus([root])[0].equals(plain)
    assert plain.ID.is_monotonic_increasing


def test_list_corpus_follows_links_but_not_in_circles(tmp_path):
    touch(tmp_path / "store", "id1/s/1.wav")
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "wav").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "id1" / "up").symlink_to(tmp_path / "store")
    files, _ = list_corpus([str(root)])
    assert files.ID.tolist() == ["id1/s/1"]


def test_list_corpus_rejects_two_files_of_one_id(tmp_path):
    root = touch(tmp_path, "id1/s/a.wav", "id1/s/a.flac")
    with pytest.raises(ValueError, match=r"id1/s/a: .*a\.flac and .*a\.wav"):
        list_corpus([root])


def test_list_corpus_rejects_one_folder_twice(tmp_path):
    root = touch(tmp_path, "id1/s/a.wav")
    with pytest.raises(ValueError, match="name each data folder once"):
        list_corpus([root, root])


def test_list_corpus_rejects_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list_corpus([str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    "names, reason",
    [
        ([], "holds no audio"),
        (["meta/veri.txt"], "holds no audio"),
        (["id1/1.wav", "2.wav"], "None of the 2 audio files"),
        (
            ["aac/id1/s/1.m4a", "aac/id1/s/2.m4a"],
            "2 m4a; convert .*convert_audio.py",
        ),
    ],
)
def test_list_corpus_rejects_folder_without_utterances(tmp_path, names, reason):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=reason):
        list_corpus([str(tmp_path)])


def test_list_corpus_rejects_name_that_is_not_utf8(tmp_path):
    folder = tmp_path / "id1" / "s"
    folder.mkdir(parents=True)
    try:
        open(os.fsencode(folder) + b"/\xe9.wav", "wb").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    with pytest.raises(ValueError, match="xe9.wav.* not UTF-8"):
        list_corpus([str(tmp_path)])


def test_fingerprint_follows_names_speakers_and_trials(tmp_path):
    trials = tmp_path / "veri.txt"
    trials.write_text("1 a b\n")
    files = pd.DataFrame(
        [["a/s/1", "/d/a/s/1.wav", "a", False]], columns=FILE_COLUMNS
    )
    first = corpus_fingerprint(files, [trials])
    assert corpus_fingerprint(files.assign(official_test=True), [trials]) == (
        first
    )
    found = {
        first,
        corpus_fingerprint(files),
        corpus_fingerprint(files.assign(spk_id="b"), [trials]),
        corpus_fingerprint(files.assign(wav="/e/a/s/1.wav"), [trials]),
    }
    trials.write_text("0 a b\n")
    assert len(found | {corpus_fingerprint(files, [trials])}) == 5
