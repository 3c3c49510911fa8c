"""Metric losses against the published code and their written definitions."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.losses import (
    GE2E,
    AngularPrototypical,
    Contrastive,
    Prototypical,
    Triplet,
)

LOSSES = {
    "Prototypical": Prototypical,
    "AngularPrototypical": AngularPrototypical,
    "GE2E": GE2E,
    "Triplet": Triplet,
    "Triplet semihard": lambda: Triplet(mining="semihard"),
    "Triplet random": lambda: Triplet(mining="random"),
    "Contrastive": Contrastive,
}

# clovaai/voxceleb_trainer@f51bab8 loss/angleproto.py and loss/ge2e.py in
# float64 on default_rng(11).standard_normal((4, 3, 8)): loss, <gradient,
# default_rng(12).standard_normal((4, 3, 8))>
PUBLISHED = {
    "AngularPrototypical": (4.330506506106795, -3.3453234591287755),
    "GE2E": (3.5747854186616563, -0.3772917930397943),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_match_clova(name):
    x = np.random.default_rng(11).standard_normal((4, 3, 8))
    directions = np.random.default_rng(12).standard_normal((4, 3, 8))
    x = torch.tensor(x.reshape(12, 1, 8), requires_grad=True)
    targets = torch.arange(4).repeat_interleave(3).unsqueeze(1)
    loss = LOSSES[name]().double()(x, targets)
    loss.backward()
    value, along = PUBLISHED[name]
    assert loss.item() == pytest.approx(value, rel=1e-12)
    found = (x.grad * torch.tensor(directions).reshape(12, 1, 8)).sum().item()
    assert found == pytest.approx(along, rel=1e-9)


def lists(seed=0, speakers=4, utterances=3, size=5):
    """Embeddings as lists of numbers: [speaker][utterance][number]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((speakers, utterances, size))


def batch(x):
    """The same as outputs and targets, in float64."""
    speakers, utterances, size = x.shape
    targets = torch.arange(speakers).repeat_interleave(utterances)
    return torch.tensor(x.reshape(-1, 1, size)), targets.unsqueeze(1)


def test_prototypical_matches_its_definition():
    x = lists()
    terms = []
    for s in range(4):
        distances = [
            sum((x[s][0] - (x[k][1] + x[k][2]) / 2) ** 2) for k in range(4)
        ]
        share = math.exp(-distances[s]) / sum(math.exp(-d) for d in distances)
        terms.append(-math.log(share))
    found = Prototypical()(*batch(x)).item()
    assert found == pytest.approx(sum(terms) / 4, rel=1e-10)


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


def test_triplet_draws_are_seeded():
    def draws(seed):
        loss = Triplet(mining="random", seed=seed)
        return [loss._mine(torch.zeros(9, 9)).tolist() for _ in range(3)]

    assert draws(1) == draws(1) != draws(2)
    flat = sum(draws(1), [])
    assert all(n != i % 9 for i, n in enumerate(flat))


@pytest.mark.parametrize("name", LOSSES)
class TestProperties:
    """What holds for every metric loss."""

    def test_order_of_speakers_in_the_batch_does_not_matter(self, name):
        if name.startswith("Triplet"):
            pytest.skip("its negatives are drawn in the batch's order")
        x, targets = batch(lists())
        # utterances of a speaker stay in order: the first is the query
        order = torch.tensor([3, 0, 6, 4, 9, 1, 10, 7, 5, 2, 11, 8])
        loss = LOSSES[name]().double()
        names = torch.tensor([7, 3, 99, 20])[targets]
        torch.testing.assert_close(
            loss(x[order], names[order]), loss(x, targets)
        )

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
    def test_any_length_gives_finite_gradients(self, name, scale):
        if name == "Prototypical" and scale > 1:
            scale = 1e2  # distances of 1e8 are beyond any softmax
        x, targets = batch(lists())
        x = (x.float() * scale).requires_grad_()
        loss = LOSSES[name]()(x, targets)
        loss.backward()
        assert loss.isfinite()
        assert x.grad.isfinite().all()

    def test_identical_embeddings_give_finite_gradients(self, name):
        x = torch.ones(6, 1, 4, requires_grad=True)
        targets = torch.tensor([[0], [1], [2]] * 2)
        loss = LOSSES[name]()(x, targets)
        loss.backward()
        assert x.grad.isfinite().all()

    def test_bf16_is_close_to_float32(self, name):
        x, targets = batch(lists())
        x = x.bfloat16()
        exact = LOSSES[name]()(x.float(), targets)
        with torch.autocast("cpu", torch.bfloat16):
            found = LOSSES[name]()(x, targets)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=0.01)

    def test_one_speaker_is_rejected(self, name):
        with pytest.raises(ValueError, match="two speakers or more, got 1"):
            LOSSES[name]()(torch.rand(4, 1, 3), torch.ones(4, 1))

    def test_lonely_utterances_are_rejected(self, name):
        targets = torch.tensor([[0], [1], [2]])
        with pytest.raises(ValueError, match="use a balanced sampler"):
            LOSSES[name]()(torch.rand(3, 1, 3), targets)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"Triplet random"}))
def test_gradients_match_finite_differences(name):
    x, targets = batch(lists(speakers=3))

    def loss(values):
        made = LOSSES[name]().double()  # anew, so that its draws are the same
        if name == "GE2E":  # its cut-off has a corner
            made.affine.bias.data.fill_(0.0)
        return made(values, targets)

    assert torch.autograd.gradcheck(loss, x.requires_grad_())


def test_learned_scale_stays_positive():
    loss = AngularPrototypical(initial_scale=0.01)
    optimizer = torch.optim.SGD(loss.parameters(), lr=10.0)
    x, targets = batch(-lists())
    for _ in range(20):
        optimizer.zero_grad()
        loss(x.float(), targets).backward()
        optimizer.step()
    assert loss.affine.initial_scale * loss.affine.log_gain.exp() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AngularPrototypical(initial_scale=0), "positive, got 0"),
        (lambda: GE2E(initial_scale=-1), "positive, got -1"),
        (lambda: Triplet(margin=5), r"\[0, 4\], got 5"),
        (lambda: Triplet(mining="soft"), "got 'soft'"),
        (lambda: Triplet(hard_rank=0), "got 0 and 0.5"),
        (lambda: Contrastive(margin=0), r"\(0, 2\], got 0"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
