"""Metric losses against the published code and their written definitions."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from speechbrain_ext.nnet import losses
from speechbrain_ext.nnet.losses import (
    GE2E,
    AngularPrototypical,
    Contrastive,
    Prototypical,
    Softmax,
    SoftmaxAngularPrototypical,
    Triplet,
)

LOSSES = {
    "Prototypical": Prototypical,
    "Prototypical eps": lambda: Prototypical(eps=1e-6),
    "AngularPrototypical": AngularPrototypical,
    "AngularPrototypical normalize": lambda: AngularPrototypical(
        normalize=True
    ),
    "GE2E": GE2E,
    "GE2E normalize": lambda: GE2E(normalize=True),
    "Triplet": Triplet,
    "Triplet semihard": lambda: Triplet(mining="semihard"),
    "Triplet random": lambda: Triplet(mining="random"),
    "Contrastive": Contrastive,
    "Contrastive hard": lambda: Contrastive(mining="hard", eps=1e-6),
    "SoftmaxAngularPrototypical": lambda: seeded_sum(),
}


MINED = [n for n in LOSSES if n.startswith(("Triplet", "Contrastive hard"))]


def seeded_sum():
    """The sum with the same linear layer each time, wide enough for all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SoftmaxAngularPrototypical(input_size=5, out_neurons=100)


# clovaai/voxceleb_trainer@f51bab8 loss/angleproto.py and loss/ge2e.py in
# float64 on default_rng(11).standard_normal((4, 3, 8)): loss, <gradient,
# default_rng(12).standard_normal((4, 3, 8))>
PUBLISHED = {
    "AngularPrototypical": (4.330506506106795, -3.3453234591287755),
    "GE2E": (3.5747854186616563, -0.3772917930397943),
}


def test_registry_holds_every_metric_loss_of_the_package():
    modules = ("metric_learning", "pairs")
    classes = {
        name
        for name in losses.__all__
        if getattr(losses, name).__module__.rsplit(".", 1)[1] in modules
    }
    assert classes == {type(make()).__name__ for make in LOSSES.values()}


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


def test_sum_is_softmax_of_its_layer_and_angular_prototypical():
    x, targets = batch(lists())
    loss = seeded_sum().double()
    layer = loss.classifier
    logits = x @ layer.weight.T + layer.bias
    expected = Softmax()(logits, targets)
    expected = expected + AngularPrototypical().double()(x, targets)
    torch.testing.assert_close(loss(x, targets), expected)


class NumbersRead(TorchDispatchMode):
    """Counts the numbers that Python reads: a GPU has to wait for each."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", LOSSES)
class TestProperties:
    """What holds for every metric loss."""

    def test_order_of_speakers_in_the_batch_does_not_matter(self, name):
        if name in MINED:
            pytest.skip("its negatives are drawn in the batch's order")
        if name.startswith("Softmax"):
            pytest.skip("its labels are classes")
        x, targets = batch(lists())
        # utterances of a speaker stay in order: the first is the query
        order = torch.tensor([3, 0, 6, 4, 9, 1, 10, 7, 5, 2, 11, 8])
        loss = LOSSES[name]().double()
        names = torch.tensor([7, 3, 99, 20])[targets]
        torch.testing.assert_close(
            loss(x[order], names[order]), loss(x, targets)
        )

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4, 1e15])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_any_length_gives_finite_gradients(self, name, scale, dtype):
        x, targets = batch(lists())
        x = (x * scale).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
            loss = LOSSES[name]()(x, targets)
        loss.backward()
        assert loss.isfinite()
        assert x.grad.isfinite().all()

    def test_identical_embeddings_give_finite_gradients(self, name):
        x = torch.ones(6, 1, 5, requires_grad=True)
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

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_outside_autocast(self, name, dtype):
        x, targets = batch(lists())
        half = x.to(dtype).requires_grad_()
        exact = half.detach().float().requires_grad_()
        found, wanted = (
            LOSSES[name]()(half, targets),
            LOSSES[name]()(exact, targets),
        )
        found.backward(), wanted.backward()
        # the same computation in float32, of the same numbers
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
        torch.testing.assert_close(half.grad, exact.grad.to(dtype))

    @pytest.mark.parametrize("to", ["half", "bfloat16", "double"])
    @pytest.mark.parametrize("outputs", ["half", "bfloat16", "float", "double"])
    def test_loss_of_any_type_takes_outputs_of_any(self, name, to, outputs):
        x, targets = batch(lists())
        exact = LOSSES[name]()(x, targets)
        loss = getattr(LOSSES[name](), to)()
        found = loss(getattr(x, outputs)(), targets)
        wide = torch.float64 if outputs == "double" else torch.float32
        assert found.dtype == wide
        # the linear layer of the sum is rounded too
        rough = "bfloat16" in (to, outputs)
        rough = 2e-2 if rough else 2e-3
        assert found.item() == pytest.approx(exact.item(), rel=rough)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
    def test_targets_of_any_integer_type(self, name, dtype):
        x, targets = batch(lists())
        found = LOSSES[name]()(x, targets.to(dtype))
        assert torch.equal(found, LOSSES[name]()(x, targets))

    def test_targets_that_are_not_integers_are_rejected(self, name):
        x, targets = batch(lists())
        with pytest.raises(ValueError, match=r"float64; pass targets\.long"):
            LOSSES[name]()(x, targets.double())

    def test_functional_gradient_is_that_of_autograd(self, name):
        x, targets = batch(lists())
        found = torch.func.grad(LOSSES[name]().double())(x, targets)
        x.requires_grad_()
        LOSSES[name]().double()(x, targets).backward()
        torch.testing.assert_close(found, x.grad)

    def test_no_number_is_read_that_is_not_checked(self, name):
        if name in MINED:
            pytest.skip("it draws its negatives on the CPU")
        x, targets = batch(lists())
        loss = LOSSES[name]().double()
        with NumbersRead() as read:
            loss(x.requires_grad_(), targets).backward()
        assert read.count > 0
        loss.check_inputs = False
        with NumbersRead() as read:
            loss(x, targets).backward()
        assert read.count == 0

    def test_one_speaker_is_rejected(self, name):
        with pytest.raises(ValueError, match="two speakers or more, got 1"):
            LOSSES[name]()(torch.rand(4, 1, 5), torch.ones(4, 1).int())

    def test_lonely_utterances_are_rejected(self, name):
        targets = torch.tensor([[0], [1], [2]])
        with pytest.raises(ValueError, match="use a balanced sampler"):
            LOSSES[name]()(torch.rand(3, 1, 5), targets)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"Triplet random"}))
def test_gradients_match_finite_differences(name):
    x, targets = batch(lists(speakers=3))

    def loss(values):
        made = LOSSES[name]().double()  # anew, so that its draws are the same
        if name.startswith("GE2E"):  # its cut-off has a corner
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
        (lambda: Contrastive(mining="none"), "'all', .* got 'none'"),
        (lambda: Triplet(mining="all"), "'random', .* got 'all'"),
        (lambda: Triplet(eps=-1e-6), "`eps`.* got -1e-06"),
        (lambda: Prototypical(eps=-1.0), "`eps`.* got -1.0"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
