"""Pooling over time."""

import torch

from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling


def test_statistics_match_torch():
    x = torch.randn(3, 20, 7, dtype=torch.float64)
    pooled = TemporalStatisticsPooling()(x)
    expected = torch.cat([x.mean(1), (x.var(1) + 1e-7).sqrt()], dim=1)
    torch.testing.assert_close(pooled, expected.unsqueeze(1))


def test_padding_does_not_count():
    pooling = TemporalStatisticsPooling()
    long, short = torch.randn(1, 20, 7), torch.randn(1, 13, 7)
    padded = torch.full((1, 20, 7), 1e3)
    padded[:, :13] = short
    both = pooling(torch.cat([long, padded]), torch.tensor([1.0, 13 / 20]))
    torch.testing.assert_close(both[:1], pooling(long))
    torch.testing.assert_close(both[1:], pooling(short))


def test_one_frame_is_finite_with_its_gradient():
    x = torch.randn(2, 1, 4, requires_grad=True)
    TemporalStatisticsPooling()(x).sum().backward()
    assert x.grad.isfinite().all()
