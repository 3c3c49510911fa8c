"""The cohort as a file: the same scores, and errors that name the file."""

import numpy as np
import pytest
import torch

from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.cohort_file import load_cohort, save_cohort


@pytest.fixture
def back_end():
    """A back end with a cohort of ten speakers."""
    speakers = [str(i // 3) for i in range(30)]
    return BackEnd(torch.randn(30, 4) + 0.5, speakers, top_n=5)


@pytest.mark.parametrize(
    "scoring", ["cosine", "snorm", "asnorm", "asnorm2", "asnorm_mean"]
)
def test_scores_are_the_same_after_loading(scoring, back_end, tmp_path):
    path = tmp_path / "normalization.npz"
    save_cohort(path, back_end, "me")
    loaded = load_cohort(path, "me")
    trials = torch.randn(6, 4), [0, 1, 2], [3, 4, 5]
    found = loaded.scores(scoring, *trials)
    assert torch.equal(found, back_end.scores(scoring, *trials))
    save_cohort(path, back_end, "me")  # it may be written again


def test_cohort_of_another_encoder_is_rejected(back_end, tmp_path):
    path = tmp_path / "normalization.npz"
    save_cohort(path, back_end, "me")
    with pytest.raises(ValueError, match="normalization.npz is the cohort of"):
        load_cohort(path, "you")


GOOD = {
    "cohort": np.eye(3, dtype=np.float32),
    "mean": np.zeros(3, np.float32),
    "top_n": 2,
    "fingerprint": "me",
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cohort": np.eye(3)}, "float64"),
        ({"cohort": np.ones((1, 3), np.float32)}, "shapes"),
        ({"mean": np.zeros(4, np.float32)}, "shapes"),
        ({"mean": np.full(3, np.nan, np.float32)}, "not finite"),
        ({"top_n": 1}, "`top_n` is 1"),
        ({"cohort": np.array([{}], dtype=object)}, "allow_pickle"),
    ],
)
def test_arrays_that_are_no_cohort_are_rejected(change, words, tmp_path):
    path = tmp_path / "normalization.npz"
    np.savez(path, **{**GOOD, **change})
    with pytest.raises(ValueError, match=f"not a cohort file .*{words}"):
        load_cohort(path, "me")


def test_broken_files_are_rejected(tmp_path):
    path = tmp_path / "normalization.npz"
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    for part in (b"", b"text", whole[:200], whole[:-30]):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="npz is not a cohort file"):
            load_cohort(path, "me")
    with pytest.raises(FileNotFoundError):
        load_cohort(tmp_path / "no.npz", "me")
