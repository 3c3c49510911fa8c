"""Both forms of the pass over all other classes against a plain formula."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from speechbrain_ext.nnet.losses.angles import cos_minus_margin
from speechbrain_ext.nnet.losses.one_vs_all import (
    _log1p,
    negatives,
    negatives_in_place,
)

MARGIN, SCALE = 0.2, 8.0


def plain(cosines, targets, bias, turn, exponent, straight, weight):
    """The sums, and the gradient by autograd."""
    cosines = cosines.clone().requires_grad_()
    shifted = cosines
    if turn:
        shifted = (cosines.acos() - MARGIN).cos()
    similarity = 2 * ((shifted + 1) / 2) ** exponent - 1
    logits = SCALE * similarity + bias
    others = torch.arange(cosines.shape[1]) != targets
    terms, pulls = softplus(logits) * others, torch.sigmoid(logits) * others
    weights = torch.as_tensor(weight, dtype=torch.float64)
    if straight:
        gradient = weights * SCALE * pulls.detach()
    else:
        (gradient,) = torch.autograd.grad((weights * terms).sum(), cosines)
    if not weights.dim():
        weights = torch.ones(())
    return (weights * terms).sum(), (weights * pulls).sum(), gradient


# the margin, and whether the slope is that of the face form
KINDS = [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize(("turn", "straight"), KINDS)
@pytest.mark.parametrize("exponent", [1, 2.5, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["compiler", "in place", "shard"])
def test_passes_are_the_plain_formula(turn, exponent, straight, weighted, form):
    generator = torch.Generator().manual_seed(3)
    draw = {"generator": generator, "dtype": torch.float64}
    cosines = 1.8 * torch.rand(33, 50, **draw) - 0.9
    targets = torch.randint(50, (33, 1), generator=generator)
    bias = torch.full((1,), -0.3, dtype=torch.float64)
    weight = torch.rand(33, 1, **draw) if weighted else 0.3
    if form == "shard":
        targets[::2] = -1  # classes of another process
    last = exponent, straight, weight
    expected = plain(cosines, targets, bias, turn, *last)
    angle = torch.tensor(MARGIN, dtype=torch.float64)
    if form == "compiler":
        turned = (angle.cos(), angle.sin()) if turn else None
        found = negatives(cosines, targets, bias, turned, SCALE, *last)
    else:
        turned = (math.cos(MARGIN), math.sin(MARGIN)) if turn else None
        rows = (targets.squeeze(1) >= 0).nonzero().squeeze(1)
        columns = targets[rows, 0]
        found = negatives_in_place(
            cosines, rows, columns, bias, turned, SCALE, *last
        )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.squeeze(), other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_the_sine_is_flat_the_slope_is_that_of_autograd(dtype):
    cosines = torch.tensor([[1.0, -1.0, 1.0000002, 0.5]], dtype=dtype)
    targets, bias = torch.tensor([[3]]), torch.zeros(1, dtype=dtype)
    leaf = cosines.clone().requires_grad_()
    shifted = cos_minus_margin(leaf, MARGIN)
    terms = softplus(SCALE * shifted + bias)[:, :3]
    (wanted,) = torch.autograd.grad(terms.sum(), leaf)
    angle = torch.tensor(MARGIN, dtype=dtype)
    last, row = (SCALE, 1, False, 1), torch.tensor([0])
    turned = (angle.cos(), angle.sin())
    compiled = negatives(cosines, targets, bias, turned, *last)
    turned = (math.cos(MARGIN), math.sin(MARGIN))
    by_hand = negatives_in_place(
        cosines, row, targets[:, 0], bias, turned, *last
    )
    for total, _, gradient in (compiled, by_hand):
        torch.testing.assert_close(total, terms.sum())
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithm_is_exact_to_rounding(dtype):
    x = torch.cat([torch.zeros(1), torch.logspace(-30, 0, 500)]).to(dtype)
    rtol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(_log1p(x), x.log1p(), rtol=rtol, atol=0)
