"""Normalisation, also over real gloo processes."""

import copy

import pytest
import torch
from processes import on_processes
from torch.nn.parallel import DistributedDataParallel

from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet.normalization import (
    EmbeddingMean,
    SharedBatchNorm,
    norm_true_frames,
    share_batch_statistics,
)
from speechbrain_ext.nnet.pooling import AttentiveStatisticsPooling
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


# rows of each process, and whether it says how long they are
SHARES = {"unequal rows": ([3, 5], False), "one padded": ([2, 6], True)}
FRAMES = [40, 40, 23, 17, 31, 29, 40, 12]


def network_trained_by(rows, padded, split):
    """Gradients and buffers of a network after one batch, or its shares."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    net = ResNet(
        *(20, (1, 1, 1, 1), 4, 6),
        pooling=AttentiveStatisticsPooling,
        all_stages=True,
        activated=True,
        norm_momentum=0.3,
    )
    rng = torch.Generator().manual_seed(3)
    x = 3 + torch.randn(8, 40, 20, generator=rng)
    onto = torch.randn(8, 1, 6, generator=rng)
    frames = torch.tensor(FRAMES if padded else [40] * 8)
    if split:
        net = DistributedDataParallel(
            share_batch_statistics(net), broadcast_buffers=False
        )
        first = sum(rows[: rank()])
        part = slice(first, first + rows[rank()])
        x, onto, frames = x[part], onto[part], frames[part]
    # the first process has whole utterances and does not give lengths
    lengths = None if bool((frames == 40).all()) else frames / 40
    loss = (net(x, lengths) * onto).sum() * (world_size() if split else 1)
    loss.backward()
    net = net.module if split else net
    gradients = {f"grad {k}": p.grad for k, p in net.named_parameters()}
    return {k: v.double() for k, v in (net.state_dict() | gradients).items()}


@pytest.mark.parametrize("shares", SHARES)
def test_unequal_processes_count_by_their_frames(shares):
    rows, padded = SHARES[shares]
    wanted = network_trained_by(rows, padded, split=False)
    for found in on_processes(network_trained_by, 2, rows, padded, True):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            close = {"rtol": 1e-12, "atol": 1e-12 * max(1, value.abs().max())}
            torch.testing.assert_close(found[key], value, **close, msg=key)


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_are_those_of_the_true_frames(dims, affine, momentum):
    kind = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)[dims - 1]
    ours = kind(3, momentum=momentum, affine=affine).double()
    theirs = torch.nn.BatchNorm1d(3, momentum=momentum, affine=affine).double()
    frames = torch.tensor([7, 2, 5])
    shape = (3, 3, 7) if dims == 1 else (3, 3, 4, 7)
    for _ in range(2):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        onto = torch.randn(shape, dtype=torch.float64)
        y = norm_true_frames(ours, x, frames)
        assert y[1, ..., 2:].abs().max() == 0
        (found,) = torch.autograd.grad((y * onto).sum(), x)
        # one utterance of the true frames alone
        alone = theirs(true_values(x, frames))
        torch.testing.assert_close(true_values(y, frames), alone)
        (wanted,) = torch.autograd.grad(
            (alone * true_values(onto, frames)).sum(), x
        )
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def true_values(x, frames):
    """Those of [batch, channel, ..., time] that are true, [1, channel, n]."""
    rows = [row[..., :n].flatten(1) for row, n in zip(x, frames, strict=True)]
    return torch.cat(rows, dim=1).unsqueeze(0)


def test_layers_are_torchs_own_where_nothing_is_padded_or_trained():
    layers = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm1d(3))
    x, frames = torch.randn(4, 3, 9), torch.tensor([9, 4, 5, 9])
    twin = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm1d(3))
    assert torch.equal(norm_true_frames(layers, x), twin(x))
    layers.eval(), twin.eval()
    assert torch.equal(norm_true_frames(layers, x, frames), twin(x))
    conv = torch.nn.Conv1d(3, 2, 1)
    assert torch.equal(norm_true_frames(conv, x, frames), conv(x))


def test_layers_that_speechbrain_synchronises_leave_padding_out_too():
    # under DDP its Brain converts every batch norm, and hands on no frames
    norm = torch.nn.BatchNorm1d(3)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(
        torch.nn.BatchNorm1d(3)
    )
    x, frames = torch.randn(4, 3, 9), torch.tensor([9, 4, 5, 9])
    found = norm_true_frames(converted, x, frames)
    assert torch.equal(found, norm_true_frames(norm, x, frames))


def test_bf16_frames_are_normalised_in_float32():
    x, frames = torch.randn(4, 3, 50), torch.tensor([50, 9, 30, 41])
    x = x.bfloat16().requires_grad_()
    norms = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    found = norm_true_frames(norms[0], x, frames)
    assert found.dtype == torch.bfloat16
    exact = norm_true_frames(norms[1], x.detach().float(), frames)
    torch.testing.assert_close(found, exact.bfloat16())
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var)
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all()


def test_shared_layer_keeps_type_and_refuses_vectors():
    norm = share_batch_statistics(torch.nn.BatchNorm1d(3)).eval()
    x = torch.randn(2, 3, 4).bfloat16()
    assert norm.to(torch.bfloat16)(x).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"got \[3\]"):
        SharedBatchNorm(3)(torch.randn(3))


def test_a_compiled_padded_batch_trains_every_layer():
    torch.manual_seed(0)
    plain = ResNet(8, (1, 1, 1, 1), 4, 8).train()
    traced = copy.deepcopy(plain)
    x, lengths = torch.randn(3, 24, 8), torch.tensor([1.0, 0.8, 0.5])
    compiled = torch.compile(traced, backend="eager")
    for network in (plain, compiled):
        network(x, lengths).square().sum().backward()
    for own, other in zip(plain.parameters(), traced.parameters(), strict=True):
        torch.testing.assert_close(other.grad, own.grad)
