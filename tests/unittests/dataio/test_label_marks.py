"""Marks of labels, and the manifests without the wrong ones."""

import pandas as pd
import pytest

from speechbrain_ext.dataio.label_marks import clean_labels, read_marks


@pytest.fixture
def manifest():
    """Four utterances."""
    return pd.DataFrame(
        {"ID": ["a", 'b"1"', "c,2", "d"], "spk_id": list("xyxy")}
    )


def test_marks_of_awkward_names_are_read(manifest, tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text('ID,spk_id,mark\n"b""1""","y","wrong"\n"c,2","x","right"\n')
    assert read_marks(path, manifest) == {'b"1"': "wrong", "c,2": "right"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,x,maybe", "line 2.*the mark is maybe, not wrong or right"),
        ("e,x,wrong", "does not have this ID"),
        ("a,y,wrong", "the label was y, but the manifest has x"),
        ("a,x,wrong\na,x,right", "line 3.*marked twice"),
    ],
)
def test_marks_of_other_manifests_are_rejected(line, words, manifest, tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text(f"ID,spk_id,mark\n{line}\n")
    with pytest.raises(ValueError, match=words):
        read_marks(path, manifest)


def test_other_files_are_rejected(manifest, tmp_path):
    with pytest.raises(OSError, match="marks.csv"):
        read_marks(tmp_path / "marks.csv", manifest)
    (tmp_path / "marks.csv").write_text("ID,spk_id\na,x\n")
    with pytest.raises(ValueError, match="lacks the columns mark"):
        read_marks(tmp_path / "marks.csv", manifest)


def test_marks_count_more_than_scores(manifest):
    scores = pd.Series([0.0, 3.0, 1.0, 2.0])
    assert len(clean_labels(manifest)) == 4
    kept = clean_labels(manifest, scores, drop=0.5)
    assert kept["ID"].tolist() == ['b"1"', "d"]
    marks = {"a": "right", "d": "wrong"}
    kept = clean_labels(manifest, scores, drop=0.5, marks=marks)
    assert kept["ID"].tolist() == ["a", 'b"1"']
    # of equal scores the first go
    kept = clean_labels(manifest, pd.Series([1.0] * 4), drop=0.25)
    assert kept["ID"].tolist() == ['b"1"', "c,2", "d"]


def test_nothing_left_is_rejected(manifest):
    for drop in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="`drop` must be a share"):
            clean_labels(manifest, drop=drop)
    with pytest.raises(ValueError, match="No utterance would be left"):
        clean_labels(manifest, marks=dict.fromkeys(manifest["ID"], "wrong"))
