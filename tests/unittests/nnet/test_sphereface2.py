"""SphereFace2 by hand, and what it refuses."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SphereFace2, sphereface2
from speechbrain_ext.nnet.losses.one_vs_all import negatives
from speechbrain_ext.nnet.sharded import Shard

# ydwen/opensphere@fac2e9c model/head/sphereface2a.py and sphereface2m.py,
# @f220a2c sphereface2.py (C), in float64 with r 40, 11 classes and a loss
# weight of 1 on the inputs of `case`: bias at the start, loss, <gradient of
# embeddings, directions>, gradient of bias
FACE = {
    ("C", 0.4): (12.810415933126158, 0.7966483119738855, -0.014737865198601107, 0.02034729085489691),
    ("A", 0.5): (28.810342066284363, 0.452625857227909, -0.014755759176279198, 0.020351671616489084),
    ("M", 1.7): (28.810397676095715, 0.47793486653462813, -0.01473801034247922, 0.02034747847537468),
}  # fmt: skip


def case():
    """Six embeddings and eleven classes; two lie along and against theirs."""
    rng = np.random.default_rng(20261120)
    embeddings = rng.standard_normal((6, 16))
    weight = rng.standard_normal((11, 16))
    targets = rng.integers(0, 11, 6)
    directions = rng.standard_normal((6, 16)), rng.standard_normal((11, 16))
    embeddings[0] = 2 * weight[targets[0]] + 1e-3 * rng.standard_normal(16)
    embeddings[1] = -weight[targets[1]] + 1e-3 * rng.standard_normal(16)
    arrays = embeddings, weight, targets, directions[0]
    return [torch.tensor(a) for a in arrays]


@pytest.mark.parametrize(("margin_type", "margin"), FACE)
def test_face_form_matches_opensphere(margin_type, margin):
    embeddings, weight, targets, towards = case()
    bias, value, along, bias_grad = FACE[margin_type, margin]
    loss = SphereFace2(
        margin_type, margin, 40.0, form="face", out_neurons=11
    ).double()
    head = CosineClassifier(16, 11).double()
    head.weight.data.copy_(weight)
    embeddings.requires_grad_()
    found = loss(head(embeddings.unsqueeze(1)), targets.unsqueeze(1))
    found.backward()
    assert loss.bias.item() == pytest.approx(bias, rel=1e-6)  # was float32
    assert found.item() == pytest.approx(value, rel=1e-6)
    found = (embeddings.grad * towards).sum().item()
    assert found == pytest.approx(along, rel=1e-6)
    assert loss.bias.grad.item() == pytest.approx(bias_grad, rel=1e-6)


@pytest.mark.parametrize(
    ("classes", "margin_type", "margin", "bias"),
    # computed from the published closed form
    [
        (1211, "C", 0.2, 11.351),
        (5994, "C", 0.2, 9.749),
        (17982, "C", 0.2, 8.650),
        (17982, "C", 0.0, 15.050),
        (17982, "A", 0.15, 15.050),
    ],
)
def test_face_bias_balances_the_pulls(classes, margin_type, margin, bias):
    loss = SphereFace2(margin_type, margin, form="face", out_neurons=classes)
    assert loss.bias.item() == pytest.approx(bias, abs=6e-4)
    # all angles right: the bias stands still
    loss = loss.double()
    loss(torch.zeros(1, 1, classes).double(), torch.tensor([[3]])).backward()
    pull = 0.7 / 32 * torch.sigmoid(torch.tensor(40.0)).item()
    assert abs(loss.bias.grad.item()) < 1e-5 * pull


def test_face_bias_balances_two_classes():
    loss = SphereFace2("C", 0.4, 64.0, form="face", out_neurons=2).double()
    loss(torch.zeros(1, 1, 2).double(), torch.tensor([[0]])).backward()
    assert abs(loss.bias.grad.item()) < 1e-8


def test_face_form_shifts_no_negative_by_an_angle():
    # c_y = 1 with a pull of nearly nothing: what is left is the negatives'
    cosines = torch.tensor([[[1.0, 0.3, -0.2]]], dtype=torch.float64)
    found = [
        SphereFace2(kind, margin, form="face", out_neurons=3)
        .double()
        .requires_grad_(False)
        for kind, margin in (("A", 0.3), ("M", 1.5))
    ]
    for loss in found:
        loss.bias.fill_(-3.0)
    values = [loss(cosines, torch.tensor([[0]])).item() for loss in found]
    z = [32 * (2 * ((c + 1) / 2) ** 3 - 1) - 3 for c in (0.3, -0.2)]
    negatives = 0.3 / 32 * sum(math.log1p(math.exp(x)) for x in z)
    up = 32 * (2 * ((math.cos(0.3) + 1) / 2) ** 3 - 1) - 3
    positives = (
        0.7 / 32 * math.log1p(math.exp(-up)),
        0.7 / 32 * math.log1p(math.exp(-29)),
    )
    for value, positive in zip(values, positives, strict=True):
        assert value == pytest.approx(negatives + positive, rel=1e-12)


@pytest.mark.parametrize("kind", ["C", "A"])
def test_parts_of_a_batch_make_the_whole(kind):
    # large enough that the pass over the classes is made in several parts
    cosines = (torch.rand(33, 1, 20_000) * 2 - 1).double()
    targets = torch.randint(20_000, (33, 1))
    loss = SphereFace2(kind, 0.15).double()
    whole = cosines.clone().requires_grad_()
    (2.5 * loss(whole, targets)).backward()
    bias_grad, loss.bias.grad = loss.bias.grad, None
    for row in range(33):
        alone = cosines[[row]].requires_grad_()
        (2.5 * loss(alone, targets[[row]]) / 33).backward()
        torch.testing.assert_close(alone.grad[0], whole.grad[row])
    torch.testing.assert_close(loss.bias.grad, bias_grad)


def test_compiled_pass_gives_the_same():
    cosines, targets = torch.rand(5, 1, 40) * 2 - 1, torch.randint(40, (5, 1))
    found = []
    for compiled in (False, True):
        loss = SphereFace2("A", 0.15, compile=compiled)
        x = cosines.clone().requires_grad_()
        values = []
        for margin in (0.1, 0.2):
            loss.margin = margin
            values.append(loss(x, targets))
            values[-1].backward()
        found.append([*values, x.grad, loss.bias.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_few_batch_sizes_are_compiled(monkeypatch):
    sizes = []

    def counted(gradient, cosines, *rest):
        sizes.append(len(cosines))
        *sums, found = negatives(cosines, *rest)
        gradient.copy_(found)
        return sums

    monkeypatch.setattr(sphereface2, "compiled_negatives", lambda: counted)
    loss = SphereFace2("C", 0.2, compile=True)
    plain = SphereFace2("C", 0.2, compile=False)
    for size in (3, 4, 3, 5, 6, 7, 8, 6):
        cosines = torch.rand(size, 1, 9) * 2 - 1
        targets = torch.randint(9, (size, 1))
        torch.testing.assert_close(
            loss(cosines, targets), plain(cosines, targets)
        )
    assert sizes == [3, 4, 3, 5, 6, 6]


@pytest.mark.parametrize(
    ("compiler", "compile_pass", "said"),
    [("none-such", None, ""), ("false", None, "without torch.compile")],
)
def test_without_a_working_compiler_it_goes_on(
    compiler, compile_pass, said, tmp_path
):
    code = (
        "import torch; from speechbrain_ext.nnet.losses import SphereFace2; "
        f"loss = SphereFace2('C', 0.2, compile={compile_pass}); "
        "cosines = torch.zeros(16, 1, 2**16); "
        "print(loss(cosines, torch.zeros(16, 1, dtype=torch.long)).item())"
    )
    compiled = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "CXX": compiler,
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    logit = 32 * (2 * 0.5**3 - 1)  # g(0), times the scale
    logits = torch.tensor([6.4 - logit, logit + 6.4]).double()
    right = (
        logits.exp().log1p() @ torch.tensor([0.7, 0.3 * (2**16 - 1)]).double()
    )
    assert float(compiled.stdout) == pytest.approx(right.item(), rel=1e-5)
    assert said in compiled.stderr and bool(compiled.stderr) == bool(said)


def test_gradient_can_be_asked_for_twice():
    x = (torch.rand(3, 1, 5) * 2 - 1).requires_grad_()
    loss = SphereFace2("C", 0.2)(x, torch.tensor([[0], [1], [2]]))
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, x)
    torch.testing.assert_close(second, 3 * kept)


@pytest.mark.parametrize("sharded", [False, True])
def test_loss_can_be_evaluated_in_inference_mode(sharded):
    x, targets = torch.rand(3, 1, 5) * 2 - 1, torch.tensor([[0], [1], [2]])
    loss = SphereFace2("A", 0.2)
    loss.shard = Shard(5) if sharded else None
    with torch.inference_mode():
        found = loss(x.clone(), targets)
    assert found == loss(x, targets).detach()


def test_second_derivative_is_refused_or_right():
    x = (torch.rand(3, 1, 5, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    targets, loss = torch.tensor([[0], [1], [2]]), SphereFace2("A", 0.2)
    with pytest.raises(RuntimeError, match="no second derivative.*torch.func"):
        torch.autograd.grad(loss(x, targets), x, create_graph=True)

    def gradient(x):
        return torch.func.grad(loss)(x, targets)

    x = x.detach()
    found = torch.func.jacrev(gradient)(x).flatten(3).flatten(0, 2)
    for column, direction in enumerate(torch.eye(15, dtype=torch.float64)):
        step = 1e-6 * direction.view(3, 1, 5)
        change = (gradient(x + step) - gradient(x - step)) / 2e-6
        torch.testing.assert_close(
            found[:, column], change.flatten(), rtol=1e-5, atol=1e-6
        )


def test_sphereface2_matches_the_formula_by_hand():
    # c_y = 1, c_i = -1, no margin: g is 1 and -1, so both logits are +-32
    loss = SphereFace2("C", margin=0.0, scale=2.0, positive_weight=0.7)
    value = loss(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[0]]))
    expected = 0.7 * math.log1p(math.exp(-2)) + 0.3 * math.log1p(math.exp(-2))
    torch.testing.assert_close(value.item(), expected)
    # g(0) = 2 / 8 - 1 = -0.75 at exponent 3; margin 0.25 on both sides
    loss.margin = 0.25
    value = loss(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[0]]))
    expected = 0.7 * math.log1p(math.exp(2)) + 0.3 * math.log1p(math.exp(-1))
    torch.testing.assert_close(value.item(), expected)


def test_true_class_is_no_negative_however_near_it_is():
    # a sum over all classes less the true one would cancel in float32
    loss = SphereFace2("C", margin=0.2, positive_weight=0.7)
    cosines = torch.tensor([[[1.0, -0.5, -0.5]]])
    exact = loss.double()(cosines.double(), torch.tensor([[0]]))
    found = loss.float()(cosines, torch.tensor([[0]]))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


def face(margin_type, margin):
    """The face paper's form for three classes."""
    return SphereFace2(margin_type, margin, form="face", out_neurons=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SphereFace2("B"), "'C', 'A' or 'M', got 'B'"),
        (lambda: SphereFace2("M", 1.7), "face form only.*form='face'"),
        (lambda: SphereFace2(form="faces"), "'speaker' or 'face', got"),
        (lambda: SphereFace2(form="face"), "number of classes.*got None"),
        (lambda: face("M", 0.5), r"factor on the angle in \[1, 4\], got 0.5"),
        (lambda: SphereFace2(loss_weight=0), "positive, got 0"),
        (lambda: SphereFace2("C", margin=2.0), r"\[0, 2\), got 2.0"),
        (lambda: SphereFace2("A", margin=8.6), "radians, got 8.6"),
        (lambda: SphereFace2(scale=0.0), "positive, got 0.0"),
        (lambda: SphereFace2(positive_weight=1.0), r"\(0, 1\), got 1.0"),
        (lambda: SphereFace2(exponent=0), "at least 1, got 0"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
