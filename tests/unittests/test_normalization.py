"""Normalisation, also over real gloo processes."""

import pytest
import torch
from processes import on_processes
from torch.nn.parallel import DistributedDataParallel

from speechbrain_ext.nnet.normalization import (
    EmbeddingMean,
    SharedBatchNorm,
    share_batch_statistics,
)
from speechbrain_ext.utils.distributed import rank, world_size


def test_mean_is_subtracted_and_saved():
    norm = EmbeddingMean(3)
    x = torch.randn(2, 1, 3)
    assert torch.equal(norm(x, torch.ones(2)), x)
    norm.load_state_dict({"mean": torch.tensor([1.0, 2.0, 3.0])})
    torch.testing.assert_close(norm(x), x - torch.tensor([1.0, 2.0, 3.0]))


def test_bad_size_is_rejected():
    with pytest.raises(ValueError, match="got 0"):
        EmbeddingMean(0)


def trained_by(layers, split):
    """Gradients and buffers after two steps, of one process or of many."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    net = layers()
    rng = torch.Generator().manual_seed(3)
    if split:
        net = DistributedDataParallel(
            share_batch_statistics(net), broadcast_buffers=False
        )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        x = 3 + torch.randn(8, 3, 5, 4, generator=rng)
        y = torch.randn(8, 2, 5, 4, generator=rng)
        if split:
            x, y = x[rank() :: world_size()], y[rank() :: world_size()]
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    net = net.module if split else net
    gradients = {f"grad {k}": p.grad for k, p in net.named_parameters()}
    return net.state_dict() | gradients


def usual_layers():
    """Two layers, with and without what is optional."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1),
        torch.nn.BatchNorm2d(4),
        torch.nn.Conv2d(4, 2, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.BatchNorm2d(2, momentum=None, affine=False),
    )


def test_shared_statistics_are_those_of_the_whole_batch():
    wanted = trained_by(usual_layers, split=False)
    for found in on_processes(trained_by, 2, usual_layers, True):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, msg=key)


def test_shared_layer_keeps_type_and_refuses_vectors():
    norm = share_batch_statistics(torch.nn.BatchNorm1d(3)).eval()
    x = torch.randn(2, 3, 4).bfloat16()
    assert norm.to(torch.bfloat16)(x).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"got \[3\]"):
        SharedBatchNorm(3)(torch.randn(3))
