"""IDs of the files that lists name."""

import pytest

from speechbrain_ext.dataio.trials import read_enrolment, read_trials
from speechbrain_ext.dataio.utterance_ids import utterance_id, utterance_ids


@pytest.mark.parametrize(
    "name, expected",
    [
        ("id1/v/00001.wav", "id1/v/00001"),
        ("/a/b/id1/v/00001.FLAC", "id1/v/00001"),
        ("id1/v.2/00001", "id1/v.2/00001"),
        ("utt.7", "utt.7"),
        ("s/utt.7.ogg", "s/utt.7"),
        ("./s/utt.wav", "s/utt"),
        ("x//s/./utt.wav", "x/s/utt"),
        ("../s/utt.wav", "../s/utt"),
    ],
)
def test_utterance_id_keeps_three_parts(name, expected):
    assert utterance_id(name) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["clean/id1/a/1.wav", "noisy/id1/a/1.wav"],
        ["id1/a/1.wav", "id1/a/1.flac"],
    ],
)
def test_two_files_are_never_one_utterance(tmp_path, names):
    with pytest.raises(ValueError, match="would be one utterance"):
        utterance_ids(names, "list.txt")
    path = tmp_path / "list.txt"
    path.write_text(f"1 {names[0]} {names[1]}\n0 {names[0]} id2/a/1.wav\n")
    with pytest.raises(ValueError, match="would be one utterance"):
        read_trials(path)
    path.write_text(f"model {names[0]} {names[1]}\n")
    with pytest.raises(ValueError, match="would be one utterance"):
        read_enrolment(path)


def test_two_files_are_found_beside_their_bare_id():
    names = ["id1/a/1", "clean/id1/a/1.wav", "noisy/id1/a/1.wav"]
    with pytest.raises(ValueError, match="`clean/.* and `noisy/"):
        utterance_ids(names, "list.txt")


def test_two_ways_to_write_a_path_are_one_file():
    names = ["/data/id1/a/1.wav", "data//id1/./a/1.wav", "id1/a/1"]
    assert set(utterance_ids(names, "list.txt").values()) == {"id1/a/1"}
