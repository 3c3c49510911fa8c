"""Models of several utterances, and their trials."""

import pytest

from speechbrain_ext.dataio.enrolment import (
    read_enrolment,
    write_expanded_trials,
)
from speechbrain_ext.dataio.trials import read_trials


def test_enrolment_list_is_read(tmp_path):
    path = tmp_path / "enrolment"
    path.write_text("m1 wav/a/s/1.wav a/s/2\n\nm2 b/s/1.flac\n")
    expected = {"m1": ["a/s/1", "a/s/2"], "m2": ["b/s/1"]}
    assert read_enrolment(path) == expected
    for line in ("m3", "m1 a/s/9", "m1.wav a/s/9", "m4 a/s/1 a/s/1.wav"):
        path.write_text(f"m1 a/s/1\n{line}\n")
        with pytest.raises(ValueError, match=f"Line 2 .*`{line}`"):
            read_enrolment(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_enrolment(tmp_path / "nowhere")


def test_trials_of_models_become_trials_of_their_utterances(tmp_path):
    path = tmp_path / "list"
    path.write_text("1 m a/s/3\n0 m b/s/1\n1 n b/s/1\n1 m a/s/3\n")
    models = {"m": ["a/s/1", "a/s/2"], "n": ["b/s/2"]}
    write_expanded_trials(path, models, tmp_path / "written")
    found = read_trials(tmp_path / "written")
    assert found.to_numpy().tolist() == [
        ["a/s/1", "a/s/3", True],
        ["a/s/2", "a/s/3", True],
        ["a/s/1", "b/s/1", False],
        ["a/s/2", "b/s/1", False],
        ["b/s/2", "b/s/1", True],
    ]
    del models["n"]
    with pytest.raises(ValueError, match="1 models that are not enrolled: n;"):
        write_expanded_trials(path, models, tmp_path / "other")
    assert not (tmp_path / "other").exists()
