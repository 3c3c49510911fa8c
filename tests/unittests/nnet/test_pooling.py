"""Pooling over time."""

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.pooling import (
    AttentiveStatisticsPooling,
    ChannelAttentiveStatisticsPooling,
    MaxPooling,
    MultiHeadAttentivePooling,
    SelfAttentivePooling,
    TemporalAveragePooling,
    TemporalStatisticsPooling,
)


def test_statistics_match_torch():
    x = torch.randn(3, 20, 7, dtype=torch.float64)
    pooled = TemporalStatisticsPooling()(x)
    expected = torch.cat([x.mean(1), (x.var(1) + 1e-7).sqrt()], dim=1)
    torch.testing.assert_close(pooled, expected.unsqueeze(1))


def test_average_and_maximum():
    x = torch.randn(3, 20, 7)
    torch.testing.assert_close(
        TemporalAveragePooling()(x).squeeze(1), x.mean(1)
    )
    assert torch.equal(MaxPooling()(x).squeeze(1), x.amax(1))


# wespeaker@dfa7419 wespeaker/models/pooling_layers.py, ASTP(5,
# bottleneck_dim=4, global_context_att=True) with weights by `rule_weights` on
# default_rng(6).standard_normal((2, 9, 5)), [batch, time, channel]
ASTP = [[0.20759552488807148, 0.27203681853391165, 0.9646689556493234, 0.2955806812594742, 0.18412796454359281, 1.0433080098330112, 0.9428101942367116, 1.244152679198492, 0.44216523145098185, 0.777239492636927], [0.11170221121682267, -0.3036805936982351, 0.4049724036168677, -0.27417432907718575, -0.21777807641530472, 1.0696282798130432, 0.8000280695185554, 0.4210672722430509, 0.4738541549942815, 0.8779028154393579]]  # fmt: skip


def test_channel_attentive_statistics_match_wespeaker(rule_weights):
    pooling = ChannelAttentiveStatisticsPooling(5, 4, True).double()
    drawn = rule_weights(
        {
            "linear1.weight": [4, 15, 1],
            "linear1.bias": [4],
            "linear2.weight": [5, 4, 1],
            "linear2.bias": [5],
        }
    )
    pooling.load_state_dict(
        dict(zip(pooling.state_dict(), drawn.values(), strict=True))
    )
    x = torch.tensor(np.random.default_rng(6).standard_normal((2, 9, 5)))
    torch.testing.assert_close(
        pooling(x).squeeze(1), torch.tensor(ASTP, dtype=torch.float64)
    )


@pytest.mark.parametrize(
    "maker", [SelfAttentivePooling, MultiHeadAttentivePooling]
)
def test_attention_that_looks_at_nothing_is_the_mean(maker):
    pooling = maker(8)
    torch.nn.init.zeros_(pooling.attention)
    x = torch.randn(3, 20, 8)
    torch.testing.assert_close(pooling(x).squeeze(1), x.mean(1))


def test_heads_are_weighted_by_themselves():
    pooling = MultiHeadAttentivePooling(4, heads=2).double()
    pooling.attention.data = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    first = (x[0, :, 0] / 2**0.5).softmax(0)
    second = (2 * x[0, :, 3] / 2**0.5).softmax(0)
    expected = torch.cat([first @ x[0, :, :2], second @ x[0, :, 2:]])
    torch.testing.assert_close(pooling(x)[0, 0], expected)
    with pytest.raises(ValueError, match="divide the 7 channels, got 2"):
        MultiHeadAttentivePooling(7, heads=2)


def test_attentive_deviation_has_a_floor():
    pooling = AttentiveStatisticsPooling(4).eval()
    pooled = pooling(torch.ones(2, 9, 4))
    torch.testing.assert_close(pooled[..., :4], torch.ones(2, 1, 4))
    torch.testing.assert_close(
        pooled[..., 4:], torch.full((2, 1, 4), 1e-5**0.5)
    )
