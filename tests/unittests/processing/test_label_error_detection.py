"""Cosines to the labels, and what they find."""

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.label_error_detection import (
    label_cosines,
    wrong_label_detection,
)


def test_cosines_are_those_of_the_head():
    head = CosineClassifier(4, 3)
    x, labels = torch.randn(2500, 4), torch.randint(3, (2500,))
    expected = torch.cosine_similarity(x, head.weight[labels])
    torch.testing.assert_close(
        label_cosines(x, labels.tolist(), head), expected
    )


def test_without_a_head_the_means_of_the_labels_count():
    x = torch.randn(6, 4)
    unit = x / x.norm(dim=1, keepdim=True)
    mean = (unit[0] + unit[2] + unit[5]) / 3
    found = label_cosines(x, ["b", "a", "b", "a", "a", "b"])
    expected = torch.cosine_similarity(unit[2], mean, dim=0)
    torch.testing.assert_close(found[2], expected)
    with pytest.raises(ValueError, match=r"\(6\), got 2"):
        label_cosines(x, ["a", "b"])


def test_detection_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    wrong = rng.random(200) < 0.3
    cosines = np.round(rng.random(200) - 0.3 * wrong, 2)  # with ties
    found = wrong_label_detection(torch.tensor(cosines), wrong)
    pairs = cosines[~wrong][:, None] - cosines[wrong][None]
    auc = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert found["ROC AUC"] == pytest.approx(auc)
    count = int(wrong.sum())
    lowest = sorted(range(200), key=lambda i: cosines[i])[:count]
    expected = np.mean([wrong[i] for i in lowest])
    assert found["precision at the noise rate"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="got 0 wrong of 3"):
        wrong_label_detection(torch.zeros(3), [False] * 3)
