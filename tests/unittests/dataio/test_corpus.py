"""Finding utterances: VoxCeleb's levels, other trees, clashes of IDs."""

import os

import pandas as pd
import pytest

from speechbrain_ext.dataio import corpus
from speechbrain_ext.dataio.corpus import (
    FILE_COLUMNS,
    corpus_fingerprint,
    corpus_folders,
    list_corpus,
)


def test_tildes_are_expanded_in_every_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for names in ("~/a, ~/b", ["~/a", "~/b"]):
        assert corpus_folders(names) == ["/home/me/a", "/home/me/b"]


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


FLAT, SESSIONS = "speaker/utterance", "speaker/session/utterance"


@pytest.mark.parametrize(
    "names",
    [
        ("id1/1.wav", "id1/2.wav", "id2/1.flac"),
        ("wav/id1/1.wav", "wav/id1/2.wav", "wav/id2/1.flac"),
        ("train/id1/1.wav", "train/id1/2.wav", "test/id2/1.flac"),
        ("wav/id1/1.wav", "wav/id1/2.wav", "wav/id2/1.flac", "noise/1.wav"),
    ],
)
def test_folders_of_speakers_that_hold_the_files_are_recognised(
    tmp_path, caplog, names
):
    caplog.set_level("INFO", logger="speechbrain_ext.dataio.corpus")
    files, left_out = list_corpus([touch(tmp_path, *names)])
    assert files.ID.tolist() == ["id1/1", "id1/2", "id2/1"]
    assert files.spk_id.tolist() == ["id1", "id1", "id2"]
    tests = ["id2"] if "test" in names[2] else []
    assert files.spk_id[files.official_test].tolist() == tests
    assert f"lie as {FLAT}" in caplog.text
    assert f"--layout={SESSIONS}" in caplog.text
    assert left_out["misplaced"] == len(names) - 3


def test_each_folder_has_a_layout_of_its_own(tmp_path):
    one = touch(tmp_path / "one", "id1/1.wav", "id2/1.wav")
    other = touch(tmp_path / "other", "wav/id3/s/1.wav", "wav/id4/s/1.wav")
    files, _ = list_corpus([one, other])
    assert files.ID.tolist() == ["id1/1", "id2/1", "id3/s/1", "id4/s/1"]


@pytest.mark.parametrize(
    "names",
    [
        ("id1/1.wav", "id2/s1/1.wav"),
        ("wav/id1/1.wav", "wav/id2/s1/1.wav"),
        ("wav/id1/1.wav", "id2/s1/1.wav"),
        ("id1/wav/s1/1.wav", "id2/wav/s2/1.wav"),  # the speakers: all `wav`
    ],
)
def test_a_layout_that_is_not_clear_is_asked_for(tmp_path, names):
    root = touch(tmp_path, *names)
    with pytest.raises(ValueError, match="--layout.*--file_list") as caught:
        list_corpus([root])
    assert root in str(caught.value)
    for layout in (FLAT, SESSIONS):
        files, left_out = list_corpus([root], layout=layout)
        assert len(files) + left_out["misplaced"] == 2


def test_a_layout_says_where_the_speakers_are(tmp_path):
    root = touch(tmp_path, "x/id1/1.wav", "y/id2/1.wav", "id3/1.wav", "0.wav")
    files, left_out = list_corpus([root], layout=FLAT)
    assert files.spk_id.tolist() == ["id1", "id2", "id3"]
    assert left_out["misplaced"] == 1
    with pytest.raises(ValueError, match="`layout` must be .* got 'flat'"):
        list_corpus([root], layout="flat")


def test_links_that_lead_nowhere_or_back_are_skipped(tmp_path, caplog):
    root = touch(tmp_path / "corpus", "id1/s/1.wav", "id2/s/1.wav")
    here = tmp_path / "corpus"
    (here / "id1" / "self").symlink_to("self")
    (here / "id1" / "s" / "2.wav").symlink_to("2.wav")
    (here / "id1" / "s" / "3.wav").symlink_to("/nowhere/3.wav")
    (here / "id1" / "s" / "up").symlink_to(here)
    (here / "id1" / "a").symlink_to("../id2/b")  # one to the other and back
    (here / "id2" / "b").symlink_to("../id1/a")
    # and folders that lead into each other
    touch(tmp_path, "one/s/4.wav", "two/s/5.wav")
    (tmp_path / "one" / "s" / "x").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "s" / "y").symlink_to(tmp_path / "one")
    (here / "id3").symlink_to(tmp_path / "one" / "s")
    files, _ = list_corpus([root], layout=SESSIONS)
    found = {os.path.realpath(path) for path in files.wav}
    assert {f"{root}/id1/s/1.wav", f"{root}/id2/s/1.wav"} <= found
    assert len(files) < 10
    assert "links below" in caplog.text
    assert "nowhere or in a circle and are skipped" in caplog.text


def test_linked_files_and_folders_are_followed(tmp_path):
    touch(tmp_path / "store", "id1/s/1.wav", "2.wav")
    root = tmp_path / "corpus"
    (root / "id2" / "s").mkdir(parents=True)
    (root / "id1").symlink_to("../store/id1")
    (root / "id2" / "s" / "2.wav").symlink_to(tmp_path / "store" / "2.wav")
    files, _ = list_corpus([root])
    assert files.ID.tolist() == ["id1/s/1", "id2/s/2"]


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    root = touch(tmp_path, "id1/s/1.wav", "id2/s/1.wav")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("id2"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="id2 cannot be read .Permission denied"):
        list_corpus([root])


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("id1 => 2/s/1.wav", "speaker `id1 => 2` .*id1 => 2/s/1.wav"),
        ("id1\n/s/1.wav", "line break"),
        ("id1\r/s/1.wav", "line break"),
        ("id1/s/1\r2.wav", "line break"),
    ],
)
def test_names_that_a_label_map_cannot_hold_are_refused(tmp_path, name, flaw):
    root = touch(tmp_path, name, "id2/s/1.wav")
    with pytest.raises(ValueError, match=flaw) as caught:
        list_corpus([root])
    assert "\n" not in str(caught.value)


def test_odd_names_that_can_be_held_are_taken(tmp_path):
    names = ["a=b/s => t/1.wav", "é\tç/s/1 2.wav", 'it\'s "c",d/s/1.wav']
    files, _ = list_corpus([touch(tmp_path, *names)])
    assert len(files) == 3
