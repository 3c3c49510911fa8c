"""Normalisation of embeddings."""

import pytest
import torch

from speechbrain_ext.nnet.normalization import EmbeddingMean


def test_mean_is_subtracted_and_saved():
    norm = EmbeddingMean(3)
    x = torch.randn(2, 1, 3)
    assert torch.equal(norm(x, torch.ones(2)), x)
    norm.load_state_dict({"mean": torch.tensor([1.0, 2.0, 3.0])})
    torch.testing.assert_close(norm(x), x - torch.tensor([1.0, 2.0, 3.0]))


def test_bad_size_is_rejected():
    with pytest.raises(ValueError, match="got 0"):
        EmbeddingMean(0)
