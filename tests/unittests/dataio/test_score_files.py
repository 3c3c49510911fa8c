"""Tests of score files."""

import math
import os
import pathlib

import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain_ext.dataio.score_files import (
    read_scores,
    write_score_files,
    write_scores,
)
from speechbrain_ext.utils.journal import JOURNAL


@pytest.mark.parametrize(
    "bits, floats",
    [(torch.int32, torch.float32), (torch.int64, torch.float64)],
)
def test_score_file_gives_every_bit_back(tmp_path, bits, floats):
    limits = torch.iinfo(bits)
    scores = torch.randint(limits.min, limits.max, (9000,), dtype=bits)
    scores = scores.view(floats)  # of all magnitudes
    # The first is known to go wrong where a float32 is read by way of float64.
    extra = torch.tensor([7.038531e-26, 1e-45, 0.1, -0.0], dtype=floats)
    scores = torch.cat([extra, scores[scores.isfinite()]])
    names, targets = [f"é/{i}.wav" for i in range(len(scores))], scores > 0
    write_scores(tmp_path / "s", names, names[::-1], scores, targets.int())
    enrol, test, found, labels = read_scores(tmp_path / "s")
    assert (enrol, test) == (names, names[::-1])
    assert torch.equal(found.to(floats).view(bits), scores.view(bits))
    assert torch.equal(labels, targets)


def test_score_file_has_one_line_per_trial(tmp_path):
    path = tmp_path / "new" / "folder" / "trials.score"
    scores = [[0.1], [-0.25]]  # in float64, as Python has them
    write_scores(str(path), ("id1/a.wav", "é"), ["b", "c"], scores, [1, 0])
    text = "id1/a.wav b 0.1 target\né c -0.25 nontarget\n"
    assert path.read_bytes() == text.encode()


def test_score_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "trials.score"
    write_scores(path, ["a"], ["b"], [0.5], [True])
    before = path.read_text()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_scores(path, ["a"], ["b"], [0.75], [True])
    assert path.read_text() == before
    assert {file.name for file in tmp_path.iterdir()} == {path.name, JOURNAL}


@pytest.mark.parametrize(
    "change, match",
    [
        ({"form": "csv"}, r"`form` must be one of .* got 'csv'"),
        ({"enrol_names": ["a"]}, r"equally many, got \[1, 2, 2, 2\]"),
        ({"targets": [1, 0, 1]}, r"equally many, got \[2, 2, 2, 3\]"),
        ({"test_names": ["c", "d e"]}, "one word each, got 'd e'"),
        ({"test_names": ["c", ""]}, "one word each, got ''"),
        ({"enrol_names": ["a\n", "b"]}, r"one word each, got 'a\\n'"),
        ({"scores": [0.1, math.inf]}, "`scores` .* got inf at trials 1"),
        ({"targets": [-1, 1]}, "`targets` must be 0 or 1, got -1 at trials 0"),
    ],
)
def test_write_scores_rejects_bad_columns(tmp_path, change, match):
    columns = {
        "enrol_names": ["a", "b"],
        "test_names": ["c", "d"],
        "scores": [0.1, 0.2],
        "targets": [True, False],
    }
    with pytest.raises(ValueError, match=match):
        write_scores(tmp_path / "s", **{**columns, **change})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "a b 0.5",
        "a b 0.5 target x",
        "a b c target",
        "a b 1 yes",
        "a b nan target",
        "",
    ],
)
def test_read_scores_rejects_bad_lines(tmp_path, line):
    path = tmp_path / "trials.score"
    path.write_text(f"a b 0.5 target\n{line}\na b 0.5 target\n")
    with pytest.raises(ValueError, match=rf"got '{line}\\n' .*score, line 2\."):
        read_scores(path)


def test_kaldis_form_has_no_label(tmp_path):
    path = tmp_path / "s.kaldi"
    write_scores(path, ["a", "a"], ["b", "c"], [0.1, -2.0], [1, 0], "kaldi")
    assert path.read_text() == "a b 0.1\na c -2.0\n"


def test_each_form_has_a_file_of_its_own(tmp_path):
    trials = {"enrol": ["a", "a"], "test": ["b", "c"], "target": [True, False]}
    trials, scores = pd.DataFrame(trials), np.array([0.1, -2.0])
    path = tmp_path / "out" / "scores_v1.0"
    with pytest.raises(ValueError, match="`form` must be one of .* got 'csv'"):
        write_score_files(path, trials, scores, ["kaldi", "csv"])
    assert not path.parent.exists()
    write_score_files(path, trials, scores, ["wespeaker", "kaldi"])
    assert read_scores(f"{path}.txt")[2].tolist() == [0.1, -2.0]
    assert pathlib.Path(f"{path}.kaldi").read_text() == "a b 0.1\na c -2.0\n"
