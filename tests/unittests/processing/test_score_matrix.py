"""Score matrices on disk against the scores of single trials."""

import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain_ext.processing import cosine
from speechbrain_ext.processing.cosine import cosine_scores
from speechbrain_ext.processing.score_matrix import (
    write_score_matrix,
    write_trial_matrix,
)
from speechbrain_ext.processing.score_normalization import (
    adaptive_s_norm,
    cohort_statistics,
)
from speechbrain_ext.utils.journal import JOURNAL


@pytest.mark.parametrize("norm", [None, "s", "as"])
def test_matrix_has_every_trials_score(norm, tmp_path, monkeypatch):
    monkeypatch.setattr(cosine, "MOST_COSINES", 25)  # three rows at a time
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(20, 5, generator=generator)
    cohort = torch.randn(30, 5, generator=generator)
    pairs = torch.cartesian_prod(torch.arange(8), torch.arange(8, 20))
    expected = cosine_scores(embeddings, *pairs.T)
    statistics = None, None
    if norm:
        top_n = 6 if norm == "as" else 30
        expected = adaptive_s_norm(
            expected, *pairs.T, embeddings, cohort, top_n
        )
        unit = torch.nn.functional.normalize
        found = cohort_statistics(unit(embeddings), unit(cohort), top_n)
        statistics = [v[:8] for v in found], [v[8:] for v in found]
    path = tmp_path / "new" / "matrix.npy"
    write_score_matrix(path, embeddings[:8], embeddings[8:], *statistics)
    matrix = np.load(path, mmap_mode="r")
    assert matrix.shape == (8, 12)
    np.testing.assert_allclose(matrix.ravel(), expected, rtol=1e-5, atol=1e-5)
    assert {p.name for p in path.parent.iterdir()} == {
        "matrix.npy",
        JOURNAL,
    }


def test_matrix_of_a_broken_embedding_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="`test` must be finite .* rows 1"):
        write_score_matrix(
            tmp_path / "m.npy",
            torch.ones(2, 3),
            torch.tensor([[1.0, 0, 0], [0.0, 0, 0]]),
        )
    assert not list(tmp_path.iterdir())


def test_matrix_of_a_list_has_each_name_once(tmp_path):
    embeddings = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    trials = pd.DataFrame({"enrol": [*"aab"], "test": [*"ded"]})
    numbers = torch.tensor([0, 0, 1]), torch.tensor([3, 4, 3])
    write_trial_matrix(tmp_path, "toy", trials, numbers, embeddings)
    names = [
        (tmp_path / f"matrix_toy_{side}.txt").read_text().split()
        for side in ("enrol", "test")
    ]
    assert names == [["a", "b"], ["d", "e"]]
    expected = cosine_scores(embeddings, *numbers)
    matrix = np.load(tmp_path / "matrix_toy_cosine.npy")
    np.testing.assert_allclose(matrix[[0, 0, 1], [0, 1, 0]], expected, 1e-5)
