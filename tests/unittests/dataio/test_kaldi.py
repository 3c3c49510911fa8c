"""Kaldi's data folders, written and read again."""

import pandas as pd
import pytest

from speechbrain_ext.dataio.kaldi import read_kaldi, write_kaldi
from speechbrain_ext.dataio.manifests import COLUMNS


def table(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def test_files_are_as_kaldi_sorts_them(tmp_path):
    write_kaldi(
        table(
            ("b-1", 0.5, "/d/b 1.wav", 0, 8000, "b"),
            ("B-1", 1.0, "/d/1.wav", 0, 16000, "B"),
            ("b_2", 1 / 3, "/d/2.wav", 0, 16000, "b"),
            ("é-3", 1.0, "/d/3.wav", 0, 16000, "é"),
        ),
        tmp_path,
    )
    held = {path.name: path.read_text() for path in tmp_path.glob("[!.]*")}
    assert held == {
        "wav.scp": "B-1 /d/1.wav\nb-1 /d/b 1.wav\nb_2 /d/2.wav\né-3 /d/3.wav\n",
        "utt2spk": "B-1 B\nb-1 b\nb_2 b\né-3 é\n",
        "spk2utt": "B B-1\nb b-1 b_2\né é-3\n",
        "utt2dur": "B-1 1.000000\nb-1 0.500000\nb_2 0.333333\né-3 1.000000\n",
    }
    found = read_kaldi(tmp_path)
    assert found.wav.tolist()[1] == "/d/b 1.wav"
    assert found.spk_id.tolist() == ["B", "b", "b", "é"]


def test_pieces_of_files_have_segments(tmp_path):
    write_kaldi(
        table(
            ("a-2", 0.5, "/d/1.wav", 8000, 16000, "a"),
            ("a-1", 0.5, "/d/1.wav", 0, 8000, "a"),
        ),
        tmp_path,
    )
    assert (tmp_path / "wav.scp").read_text() == "rec00000000 /d/1.wav\n"
    assert (tmp_path / "segments").read_text().splitlines() == [
        "a-1 rec00000000 0.000000 0.500000",
        "a-2 rec00000000 0.500000 1.000000",
    ]


def test_a_piece_that_starts_at_0_has_a_segment(tmp_path):
    row = ("a-1", 0.5, "/d/1.wav", 0, 8000, "a")
    write_kaldi(table(row), tmp_path / "whole")
    assert not (tmp_path / "whole" / "segments").exists()
    write_kaldi(table(row), tmp_path, pieces=True)
    found = (tmp_path / "segments").read_text()
    assert found == "a-1 rec00000000 0.000000 0.500000\n"


def test_names_with_spaces_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="`a 1` .ID."):
        write_kaldi(table(("a 1", 1.0, "/d/1.wav", 0, 1, "a")), tmp_path)


def test_relative_files_lie_below_the_root(tmp_path):
    (tmp_path / "wav.scp").write_text("u x/1.wav\n")
    (tmp_path / "utt2spk").write_text("u s\n")
    found = read_kaldi(tmp_path, ["/data"])
    assert found.wav.tolist() == ["/data/x/1.wav"]
    path = tmp_path / "b" / "x" / "1.wav"
    path.parent.mkdir(parents=True)
    path.touch()
    found = read_kaldi(tmp_path, ["/data", tmp_path / "b"])
    assert found.wav.tolist() == [str(path)]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="wav.scp does not exist"):
        read_kaldi(tmp_path)
