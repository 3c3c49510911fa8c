"""Losses as "In defence of metric learning" trained with them.

What the published code computes stands in clova_losses.json, with how it was
made.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, normalize

from speechbrain_ext.nnet.losses import (
    GE2E,
    AAMSoftmax,
    AngularPrototypical,
    Contrastive,
    Prototypical,
    Triplet,
)

PUBLISHED = json.loads(
    Path(__file__).with_name("clova_losses.json").read_text("utf-8")
)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
HARDEST = {"mining": "hard", "hard_rank": 1, "hard_probability": 1.0}
# hard_rank=2 in the published code draws from the nearest three
HARD = {"mining": "hard", "hard_rank": 3, "hard_probability": 0.5}
SEMIHARD = {"mining": "semihard"}
PAIRS = {
    "contrastive hardest": (Contrastive, HARDEST),
    "contrastive hard": (Contrastive, HARD),
    "triplet hardest": (Triplet, HARDEST),
    "triplet hard": (Triplet, HARD),
    "triplet semihard": (Triplet, SEMIHARD),
}
MEANS = {
    "prototypical 3": lambda: Prototypical(eps=1e-6),
    "angular prototypical 3": lambda: AngularPrototypical(normalize=True),
    "GE2E 3": lambda: GE2E(normalize=True),
}


def batch(utterances):
    """Embeddings of six speakers as outputs, and their targets."""
    x = np.random.default_rng(20261121).standard_normal((6, utterances, 4))
    targets = torch.arange(6).repeat_interleave(utterances).unsqueeze(1)
    return torch.tensor(x).reshape(-1, 1, 4).requires_grad_(), targets


def assert_published(name, value, **gradients):
    torch.testing.assert_close(value.item(), PUBLISHED[name]["loss"], **CLOSE)
    for key, found in gradients.items():
        wanted = torch.tensor(PUBLISHED[name][key], dtype=torch.float64)
        torch.testing.assert_close(found, wanted.view_as(found), **CLOSE)


def assert_not_published(name, value):
    """What these numbers can tell apart."""
    assert abs(value.item() - PUBLISHED[name]["loss"]) > 1e-8


@pytest.mark.parametrize("name", PAIRS)
def test_mined_losses_match_clova(name, monkeypatch):
    kind, mining = PAIRS[name]
    negatives = torch.tensor(PUBLISHED[name]["negatives"])
    mine, drawn = kind._mine, []

    def published(loss, distances):
        drawn.extend(mine(loss, distances) for _ in range(60))
        return negatives

    monkeypatch.setattr(kind, "_mine", published)
    x, targets = batch(2)
    loss = kind(margin=1.0, eps=1e-6, **mining)
    value = loss(x, targets)
    value.backward()
    assert_published(name, value, gradient=x.grad)
    # each negative is one of those that ours are drawn from
    assert (torch.stack(drawn) == negatives).any(dim=0).all()
    plain = kind(margin=1.0, **mining)
    assert_not_published(name, plain(x, targets))


@pytest.mark.parametrize("name", ["contrastive hardest", "triplet hardest"])
def test_nearest_negative_is_mined_as_by_clova(name):
    kind, mining = PAIRS[name]
    x, targets = batch(2)
    value = kind(margin=1.0, eps=1e-6, **mining)(x, targets)
    value.backward()
    assert_published(name, value, gradient=x.grad)


@pytest.mark.parametrize("name", MEANS)
def test_losses_on_means_match_clova(name):
    x, targets = batch(3)
    loss = MEANS[name]().double()
    value = loss(x, targets)
    value.backward()
    assert_published(name, value, gradient=x.grad)
    assert_not_published(name, type(loss)().double()(x, targets))


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_aam_beyond_pi_matches_clova_and_open_speaker_verification(margin):
    rng = np.random.default_rng(20261122)
    x, weight = rng.standard_normal((5, 4)), rng.standard_normal((6, 4))
    classes = rng.integers(0, 6, 5)
    x[0] = -weight[classes[0]] + 0.05 * rng.standard_normal(4)
    x[1] = -2 * weight[classes[1]] + 0.05 * rng.standard_normal(4)
    x = torch.tensor(x, requires_grad=True)
    weight = torch.tensor(weight, requires_grad=True)
    targets = torch.tensor(classes).unsqueeze(1)
    cosines = linear(normalize(x), normalize(weight)).unsqueeze(1)
    value = AAMSoftmax(margin, 30.0, continuation="arcface")(cosines, targets)
    value.backward()
    assert_published(
        f"AAM {margin}", value, gradient=x.grad, weight_gradient=weight.grad
    )
    wespeaker = AAMSoftmax(margin, 30.0)
    assert_not_published(f"AAM {margin}", wespeaker(cosines, targets))
