"""RES-SE-TDNN against Open Speaker Verification's numbers."""

import functools
import math

import numpy as np
import pytest
import torch

from speechbrain_ext.lobes.models.TDNN import ResSETDNN
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling

# open-speaker-verification@0d415d5 mmcls RES_SE_TDNN (81 made 41, 8 channels,
# blocks 1, 2, 1, output 12; its `bn_momentum` dropped, which its blocks do not
# take) and StatsPooling (6), weights by `rule_weights`, in float64 on
# default_rng(5).standard_normal((2, 50, 41))
EMBEDDINGS = [[0.01575614173499093, 0.2980199652564956, 0.1294362542190134, 0.14318145373739039, -0.09948923870794465, 0.44008885137061693], [0.01575614173499093, 0.3035205558127577, 0.1294362542190134, 0.1223100128954683, -0.09948923870794465, 0.4208691787284398]]  # fmt: skip


def published(key):
    """The published key of one of ours."""
    if key.startswith("embedding.norm"):
        return key.replace("embedding.norm", "neck.embedding.2")
    if key.startswith("embedding"):
        return key.replace("embedding", "neck.embedding.0")
    _, place, rest = key.split(".", 2)
    if place in ("0", "5"):
        rest = rest.replace("conv.", "kernel.").replace("norm.", "bn.")
    elif rest.startswith("first."):
        rest = rest.replace("first.conv", "seqs.0.kernel")
        rest = rest.replace("first.norm", "seqs.0.bn")
    else:
        rest = rest.replace("conv.", "seqs.1.").replace("se.", "seqs.2.")
        rest = rest.replace("norm.", "post_shortcut.1.")
    return f"backbone.layers.{place}.{rest}"


def test_embeddings_match_open_speaker_verification(rule_weights):
    exact = functools.partial(
        TemporalStatisticsPooling, epsilon=0.0, unbiased=False
    )
    model = ResSETDNN(41, 8, (1, 2, 1), (5, 7, 1), 12, 6, pooling=exact)
    own = model.double().state_dict()
    # squeeze-excitation is a convolution there
    shapes = {
        published(key): [*value.shape, *[1] * ("fc" in key and value.dim() > 1)]
        for key, value in own.items()
    }
    drawn = rule_weights(shapes).values()
    model.load_state_dict(
        {k: d.view(own[k].shape) for k, d in zip(own, drawn, strict=True)}
    )
    x = np.random.default_rng(5).standard_normal((2, 50, 41))
    torch.testing.assert_close(
        model.eval()(torch.tensor(x)).squeeze(1),
        torch.tensor(EMBEDDINGS, dtype=torch.float64),
        rtol=1e-9,
        atol=1e-9,
    )


def test_batch_norms_forget_as_fast_as_published():
    model = ResSETDNN(20, 8, pooled_channels=8, lin_neurons=4)
    norms = [m for m in model.modules() if hasattr(m, "momentum")]
    assert len(norms) == 15
    assert {norm.momentum for norm in norms} == {0.5}


def test_kernels_start_as_published():
    # kaiming_normal_ of every Conv1d, those of squeeze-excitation too
    model = ResSETDNN(81, 256, pooled_channels=512)
    block = model.blocks[1]
    for weight in (block.conv.weight, *(block.se.fc[n].weight for n in (0, 2))):
        wanted = math.sqrt(2 / weight[0].numel())
        assert weight.std().item() == pytest.approx(wanted, rel=0.05)
