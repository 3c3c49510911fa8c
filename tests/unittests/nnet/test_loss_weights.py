"""Losses with a weight for each utterance, against their definition."""

import pytest
import torch
from processes import on_processes
from test_losses import LOSSES
from test_sharded import CASES, CLASSES

from speechbrain_ext.nnet.losses import GE2E, SoftmaxAngularPrototypical
from speechbrain_ext.nnet.losses.base import ClassificationLoss
from speechbrain_ext.nnet.sharded import sharded
from speechbrain_ext.utils.distributed import rank, world_size

WEIGHTS = (1.0, 0.0, 0.3, 1.0, 2.0, 0.0)


def batch():
    """Six utterances and seven classes, in float64."""
    cosines = (2 * torch.rand(6, 1, 7, dtype=torch.float64) - 1) * 0.9
    return cosines.requires_grad_(), torch.randint(7, (6, 1))


def gradients(value, *leaves):
    return torch.autograd.grad(value, leaves, allow_unused=True)


@pytest.mark.parametrize("name", LOSSES)
def test_weighted_loss_is_the_weighted_mean_of_single_losses(name):
    cosines, targets = batch()
    loss = LOSSES[name](0.2).double()
    found = loss(cosines, targets, weights=torch.tensor(WEIGHTS))
    singles = [
        weight * loss(cosines[i : i + 1], targets[i : i + 1])
        for i, weight in enumerate(WEIGHTS)
    ]
    wanted = sum(singles) / sum(WEIGHTS)
    torch.testing.assert_close(found, wanted)
    leaves = [cosines, *loss.parameters()]
    for one, other in zip(
        gradients(found, *leaves), gradients(wanted, *leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_weights_are_none_and_no_weight_is_no_loss(name):
    cosines, targets = batch()
    loss = LOSSES[name](0.2).double()
    plain = loss(cosines, targets)
    equal = loss(cosines, targets, weights=torch.full((6,), 0.5))
    torch.testing.assert_close(equal, plain)
    nothing = loss(cosines, targets, weights=torch.zeros(6))
    assert nothing == 0
    assert not gradients(nothing, cosines)[0].any()


def test_weighted_gradient_by_torch_func():
    cosines, targets = batch()
    loss, weights = LOSSES["SphereFace2 C"](0.2), torch.tensor(WEIGHTS)
    found = torch.func.grad(lambda x: loss(x, targets, weights=weights))(
        cosines.detach()
    )
    value = loss(cosines, targets, weights=weights)
    torch.testing.assert_close(found, gradients(value, cosines)[0])


def weighted(case, split):
    """Loss and gradients of embeddings, on one process or its part of two."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    make_head, make_loss = CASES[case]
    if split == "head":
        make_head = sharded(make_head)
    head, loss = make_head(out_neurons=CLASSES), make_loss()
    if split == "head":
        loss.shard = head.shard
    rng = torch.Generator().manual_seed(7)
    x = torch.randn(6, 1, 6, generator=rng)
    y = torch.randint(CLASSES, (6, 1), generator=rng)
    weights = torch.tensor(WEIGHTS)
    if split:
        own = slice(3 * rank(), 3 * rank() + 3)
        x, y, weights = x[own], y[own], weights[own]
    x.requires_grad_()
    value = loss(head(x), y, weights=weights)
    value.backward()
    # DistributedDataParallel averages the gradients of the processes
    return value.item(), x.grad / (world_size() if split else 1)


def every_weighted():
    return {
        (case, split): weighted(case, split)
        for case in CASES
        for split in ("head", "batch")
    }


def test_two_processes_give_the_weighted_loss_of_one():
    found = on_processes(every_weighted, 2)
    for case, split in found[0]:
        value, gradient = weighted(case, None)
        parts = [result[case, split] for result in found]
        values = [part[0] for part in parts]
        if split == "head":  # each process has the loss of all
            assert values == [pytest.approx(value)] * 2
        else:
            assert sum(values) / 2 == pytest.approx(value)
        torch.testing.assert_close(
            torch.cat([part[1] for part in parts]), gradient
        )


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (torch.ones(6, 1), r"shape \[6\], got \[6, 1\]"),
        (torch.tensor(1.0), r"got \[\]"),
        (torch.ones(1), r"got \[1\]"),
        (-torch.ones(6), "0 or more, got -1"),
        (torch.full((6,), torch.nan), "0 or more, got nan"),
    ],
)
def test_weights_that_fit_no_utterance_are_refused(weights, said):
    cosines, targets = batch()
    with pytest.raises(ValueError, match=said):
        LOSSES["SphereFace2 C"](0.2)(cosines, targets, weights=weights)


class Plain(ClassificationLoss):
    """A loss as a user writes it, without weights."""

    def _loss(self, cosines, targets):
        return -cosines.gather(1, targets).mean()


def test_losses_without_weights_say_so():
    cosines, targets = batch()
    Plain()(cosines, targets)
    with pytest.raises(ValueError, match="Plain does not support weights.*nul"):
        Plain()(cosines, targets, weights=torch.ones(6))


@pytest.mark.parametrize(
    "make", [GE2E, lambda: SoftmaxAngularPrototypical(7, 6)]
)
def test_metric_losses_refuse_weights(make):
    embeddings, targets = torch.randn(6, 1, 7), torch.arange(6).view(6, 1) // 2
    with pytest.raises(ValueError, match="a metric loss"):
        make()(embeddings, targets, weights=torch.ones(6))
