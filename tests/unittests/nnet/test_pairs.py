"""Triplet and contrastive losses against their written definitions."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.losses import Contrastive, Triplet
from speechbrain_ext.nnet.losses.pairs import (
    index_within_speaker,
    squared_distances,
)


def lists(seed=0, speakers=4, utterances=3, size=5):
    """Embeddings as lists of numbers: [speaker][utterance][number]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((speakers, utterances, size))


def batch(x):
    """The same as outputs and targets, in float64."""
    speakers, utterances, size = x.shape
    targets = torch.arange(speakers).repeat_interleave(utterances)
    return torch.tensor(x.reshape(-1, 1, size)), targets.unsqueeze(1)


def test_contrastive_matches_its_definition():
    x = lists(speakers=3, utterances=2)
    rows = [(s, v / math.sqrt(sum(v * v))) for s in range(3) for v in x[s]]
    same, other = [], []
    for i, (s, a) in enumerate(rows):
        for t, b in rows[i + 1 :]:
            d = math.sqrt(sum((a - b) ** 2))
            if s == t:
                same.append(d**2)
            else:
                other.append(max(0.0, 1.2 - d) ** 2)
    expected = sum(same) / len(same) + sum(other) / len(other)
    found = Contrastive(margin=1.2)(*batch(x)).item()
    assert found == pytest.approx(expected, rel=1e-10)


def test_triplet_of_two_speakers_matches_its_definition():
    # with two speakers there is one negative, whatever the mining
    x = lists(seed=3, speakers=2, utterances=2)
    x = x / np.sqrt((x**2).sum(axis=2, keepdims=True))
    expected = 0.0
    for s in range(2):
        near = ((x[s][0] - x[s][1]) ** 2).sum()
        far = ((x[s][0] - x[1 - s][1]) ** 2).sum()
        expected += max(0.0, near - far + 0.5) / 2
    for mining in ("random", "hard", "semihard"):
        found = Triplet(margin=0.5, mining=mining)(*batch(x)).item()
        assert found == pytest.approx(expected, rel=1e-10), mining


def test_triplet_mines_what_it_says():
    distances = torch.tensor(
        [
            [0.30, 0.20, 0.35, 0.90],
            [0.50, 0.10, 0.15, 0.05],
            [0.90, 0.90, 0.10, 0.80],
            [0.10, 0.20, 0.30, 0.40],
        ]
    )
    semihard = Triplet(margin=0.1, mining="semihard")
    hardest = Triplet(mining="hard", hard_rank=1, hard_probability=1.0)
    for _ in range(20):
        found = semihard._mine(distances).tolist()
        assert found[0] == 2  # the one in (0.30, 0.40)
        assert found[1] == 2  # the one in (0.10, 0.20)
        assert found[2] != 2  # none there: any other speaker
        assert hardest._mine(distances).tolist() == [1, 3, 3, 0]


@pytest.mark.parametrize("mining", ["random", "hard", "semihard"])
def test_mined_contrastive_of_two_speakers_matches_its_definition(mining):
    # with two speakers there is one negative, whatever the mining
    x = lists(seed=3, speakers=2, utterances=2)
    x = x / np.sqrt((x**2).sum(axis=2, keepdims=True))
    terms = []
    for s in range(2):
        terms.append(((x[s][0] - x[s][1]) ** 2).sum())
        far = np.sqrt(((x[s][0] - x[1 - s][1]) ** 2).sum())
        terms.append(max(0.0, 1.7 - far) ** 2)
    found = Contrastive(margin=1.7, mining=mining)(*batch(x)).item()
    assert found == pytest.approx(sum(terms) / 4, rel=1e-10)


def test_contrastive_over_all_pairs_saves_no_draws():
    assert not Contrastive().state_dict()
    assert list(Contrastive(mining="hard").state_dict()) == ["batches"]


def test_triplet_draws_are_seeded():
    def draws(seed):
        loss = Triplet(mining="random", seed=seed)
        return [loss._mine(torch.zeros(9, 9)).tolist() for _ in range(3)]

    assert draws(1) == draws(1) != draws(2)
    flat = sum(draws(1), [])
    assert all(n != i % 9 for i, n in enumerate(flat))


@pytest.mark.parametrize("kind", [Triplet, Contrastive])
def test_an_embedding_that_is_not_finite_gives_such_a_loss(kind):
    x = torch.randn(8, 1, 4)
    x[3] = math.nan
    targets = torch.tensor([[0], [1], [2], [3]] * 2)
    loss = kind(mining="hard", hard_probability=1.0)
    assert loss(x, targets).isnan()


def test_squared_distances_are_those_of_the_definition():
    x, y = torch.randn(3, 4).double(), torch.randn(2, 4).double()
    expected = (x.unsqueeze(1) - y).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(x, y), expected)
    assert (squared_distances(x, x).diagonal() > 0).all()


def test_places_count_each_speakers_utterances():
    assert index_within_speaker(torch.tensor([4, 4, 1, 4, 1])).tolist() == [
        0,
        1,
        0,
        2,
        1,
    ]
