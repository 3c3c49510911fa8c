"""SphereFace2 by hand, and what it refuses."""

import math

import pytest
import torch

from speechbrain_ext.nnet.losses import SphereFace2


def test_sphereface2_matches_the_formula_by_hand():
    # c_y = 1, c_i = -1, no margin: g is 1 and -1, so both logits are +-32
    loss = SphereFace2("C", margin=0.0, scale=2.0, positive_weight=0.7)
    value = loss(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[0]]))
    expected = 0.7 * math.log1p(math.exp(-2)) + 0.3 * math.log1p(math.exp(-2))
    torch.testing.assert_close(value.item(), expected)
    # g(0) = 2 / 8 - 1 = -0.75 at exponent 3; margin 0.25 on both sides
    loss.margin = 0.25
    value = loss(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[0]]))
    expected = 0.7 * math.log1p(math.exp(2)) + 0.3 * math.log1p(math.exp(-1))
    torch.testing.assert_close(value.item(), expected)


def test_true_class_is_no_negative_however_near_it_is():
    # a sum over all classes less the true one would cancel in float32
    loss = SphereFace2("C", margin=0.2, positive_weight=0.7)
    cosines = torch.tensor([[[1.0, -0.5, -0.5]]])
    exact = loss.double()(cosines.double(), torch.tensor([[0]]))
    found = loss.float()(cosines, torch.tensor([[0]]))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SphereFace2("B"), "'C' or 'A', got 'B'"),
        (lambda: SphereFace2("C", margin=2.0), r"\[0, 2\), got 2.0"),
        (lambda: SphereFace2("A", margin=8.6), "radians, got 8.6"),
        (lambda: SphereFace2(scale=0.0), "positive, got 0.0"),
        (lambda: SphereFace2(positive_weight=1.0), r"\(0, 1\), got 1.0"),
        (lambda: SphereFace2(exponent=0), "at least 1, got 0"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
