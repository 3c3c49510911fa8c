"""Both forms of the pass over all other classes against a plain formula."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import softplus

from speechbrain_ext.nnet.losses import SphereFace2
from speechbrain_ext.nnet.losses.angles import cos_minus_margin
from speechbrain_ext.nnet.losses.one_vs_all import (
    KEPT,
    _log1p,
    gradient_memory,
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
        gradient = torch.empty_like(cosines)
        found = negatives_in_place(
            gradient, cosines, rows, columns, bias, turned, SCALE, *last
        )
        found = *found, gradient
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
    written = torch.empty_like(cosines)
    by_hand = negatives_in_place(
        written, cosines, row, targets[:, 0], bias, turned, *last
    )
    for total, _, gradient in (compiled, (*by_hand, written)):
        torch.testing.assert_close(total, terms.sum())
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithm_is_exact_to_rounding(dtype):
    x = torch.cat([torch.zeros(1), torch.logspace(-30, 0, 500)]).to(dtype)
    rtol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(_log1p(x), x.log1p(), rtol=rtol, atol=0)


@pytest.mark.parametrize("compiled", [False, True])
def test_memory_of_the_last_gradient_is_used_again(compiled):
    KEPT.clear()
    loss = SphereFace2("A", 0.2, compile=compiled)
    cosines = torch.rand(4, 1, 9).requires_grad_()
    targets = torch.arange(4).unsqueeze(1)
    seen = []
    for _ in range(3):
        inner = cosines * 1
        inner.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
        loss(inner, targets).backward()
    assert len(set(seen)) == 1


@pytest.mark.parametrize(
    "keep",
    [
        lambda gradient: gradient,
        lambda gradient: gradient.detach()[1:, 0],
        lambda gradient: gradient.numpy(),
        lambda gradient: torch.from_dlpack(gradient),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_that_is_held_is_not_written_over(keep, compiled):
    loss = SphereFace2("A", 0.2, compile=compiled)
    targets, held = torch.arange(4).unsqueeze(1), []
    for factor in (0.9, -0.9):
        inner = factor * torch.rand(4, 1, 9).requires_grad_()
        inner.register_hook(lambda gradient: held.append(keep(gradient)))
        loss(inner, targets).backward()
        held.append(torch.as_tensor(held[-1]).clone())
    for kept, copied in zip(held[::2], held[1::2], strict=True):
        assert torch.equal(torch.as_tensor(kept), copied)


def test_graphs_that_wait_for_their_backward_pass_keep_their_gradients():
    loss, targets = SphereFace2("C", 0.2, compile=False), torch.tensor([[0]])
    leaves = [
        torch.full((1, 1, 9), x, requires_grad=True) for x in (0.1, 0.7, 0.1)
    ]
    values = [loss(leaf * 1, targets) for leaf in leaves]
    values[0].backward(retain_graph=True)
    values[1].backward()
    values[0].backward()
    values[2].backward()
    torch.testing.assert_close(leaves[0].grad, 2 * leaves[2].grad)
    assert not torch.equal(leaves[1].grad, leaves[2].grad)


def test_threads_do_not_share_the_memory_of_a_gradient():
    cosines = torch.rand(64, 500)

    def differs(number):
        given = gradient_memory(cosines).fill_(number)
        return (given != number).any().item()

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(differs, range(400)))


def test_training_goes_on_after_inference_mode():
    loss, targets = SphereFace2("C", 0.2, compile=False), torch.tensor([[0]])
    with torch.inference_mode():
        loss(torch.rand(1, 1, 7), targets)
    loss(torch.rand(1, 1, 7, requires_grad=True), targets).backward()
    with torch.inference_mode():
        loss(torch.rand(1, 1, 7), targets)
    loss(torch.rand(1, 1, 7, requires_grad=True), targets).backward()


def test_tensors_without_numbers_are_not_kept():
    loss, targets = SphereFace2("C", 0.2, compile=False), torch.tensor([[0]])
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.zeros(1, 8))
        gradient_memory(fake)
    cosines = torch.rand(1, 1, 8, requires_grad=True)
    loss(cosines * 1, targets).backward()
    assert type(cosines.grad) is torch.Tensor
