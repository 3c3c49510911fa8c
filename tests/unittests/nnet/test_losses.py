"""Losses on cosines: the published code's numbers, and what all must do."""

import inspect

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet import losses
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import (
    AAMSoftmax,
    AMSoftmax,
    Softmax,
    SphereFace2,
)
from speechbrain_ext.nnet.losses.base import FIRST_BATCHES, Loss


def face(margin_type, margin):
    """The face paper's form, its bias moved to where logits matter."""
    loss = SphereFace2(margin_type, margin, form="face", out_neurons=7)
    loss.bias.data.fill_(0.5)
    return loss


# Every loss of the package, in each of its forms
LOSSES = {
    "SphereFace2 C": lambda margin: SphereFace2("C", margin),
    "SphereFace2 A": lambda margin: SphereFace2("A", margin),
    "SphereFace2 C 2.5": lambda margin: SphereFace2("C", margin, exponent=2.5),
    "SphereFace2 C face": lambda margin: face("C", margin),
    "SphereFace2 A face": lambda margin: face("A", margin),
    "SphereFace2 M face": lambda margin: face("M", 1 + margin),
    "AAMSoftmax": lambda margin: AAMSoftmax(margin),
    "AAMSoftmax top 2": lambda margin: AAMSoftmax(margin, 32.0, 2, 0.06),
    "AAMSoftmax arcface": lambda margin: AAMSoftmax(
        margin, continuation="arcface"
    ),
    "AMSoftmax": lambda margin: AMSoftmax(margin),
    "Softmax": lambda margin: Softmax(),
}
# What a published formula does not have; a new loss may have to join a set
TAKES_LOGITS = {"Softmax"}  # and not cosines
NO_MARGIN = {"Softmax"}
# a margin of 0 is not the plain loss, or a larger one does not make it harder
OTHER_MARGIN = set()
# the gradient is not the derivative of the loss: some factor is kept fixed
OTHER_GRADIENT = {name for name in LOSSES if name.endswith("face")}
COSINES = [name for name in LOSSES if name not in TAKES_LOGITS]
MARGINS = [name for name in LOSSES if name not in NO_MARGIN | OTHER_MARGIN]
METRIC = {
    "AngularPrototypical",
    "Contrastive",
    "GE2E",
    "Prototypical",
    "SoftmaxAngularPrototypical",
    "Triplet",
}

# What published code computes in float64 on the inputs of `case`, with the
# scale of LOSSES: (loss, margin): bias or None, loss value, inner products of
# the gradients with the directions of `case` (of the embeddings, of the
# classifier's weight), gradient of the bias or None.
# All of wespeaker@dfa7419 wespeaker/models/projections.py: SphereFace2,
# ArcMarginProduct and AddMarginProduct, with cross-entropy
PUBLISHED = {
    ("SphereFace2 C", 0.0): (-0.5, 14.255674618932105, 0.09488281244042296, 0.6206111828617704, -0.5236245800424405),
    ("SphereFace2 C", 0.2): (0.7, 18.064640915758144, -0.341354946577175, -0.07335428576439662, -0.42847088914754605),
    ("SphereFace2 A", 0.0): (0.3, 13.842557411780653, 0.1763884673522077, 0.5993818808642137, -0.5094798308125129),
    ("SphereFace2 A", 0.15): (-1.1, 16.929678438760018, -0.06642491516650298, 0.18042813921627898, -0.45697715302475406),
    ("AAMSoftmax", 0.0): (None, 16.459239821061306, 1.4549109185748743, -9.393569959430751, None),
    ("AAMSoftmax", 0.2): (None, 20.76222146561759, 1.499327315298356, -9.247403798838906, None),
    ("AMSoftmax", 0.2): (None, 20.43927582357824, 1.3378761320266048, -8.752068755109544, None),
    ("AAMSoftmax", 0.5): (None, 27.339315288536323, 1.5824531002169375, -9.038312063196926, None),
}  # fmt: skip


@pytest.fixture
def case():
    """Six embeddings and eleven classes; two lie along and against theirs."""
    rng = np.random.default_rng(20261120)
    embeddings = rng.standard_normal((6, 16))
    weight = rng.standard_normal((11, 16))
    targets = rng.integers(0, 11, 6)
    directions = rng.standard_normal((6, 16)), rng.standard_normal((11, 16))
    embeddings[0] = 2 * weight[targets[0]] + 1e-3 * rng.standard_normal(16)
    embeddings[1] = -weight[targets[1]] + 1e-3 * rng.standard_normal(16)
    return [torch.tensor(a) for a in (embeddings, weight, targets, *directions)]


@pytest.mark.parametrize(("name", "margin"), PUBLISHED)
def test_losses_match_published_code(name, margin, case):
    embeddings, weight, targets, towards, onto = case
    bias, value, along_x, along_w, bias_grad = PUBLISHED[name, margin]
    loss = LOSSES[name](margin).double()
    if bias is not None:
        loss.bias.data.fill_(bias)
    head = CosineClassifier(16, 11).double()
    head.weight.data.copy_(weight)
    embeddings.requires_grad_()
    found = loss(head(embeddings.unsqueeze(1)), targets.unsqueeze(1))
    found.backward()
    close = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(found.item(), value, **close)
    torch.testing.assert_close(
        (embeddings.grad * towards).sum().item(), along_x, **close
    )
    torch.testing.assert_close(
        (head.weight.grad * onto).sum().item(), along_w, **close
    )
    if bias_grad is not None:
        torch.testing.assert_close(loss.bias.grad.item(), bias_grad, **close)


def test_registry_holds_every_loss_of_the_package():
    classes = {
        name
        for name, value in inspect.getmembers(losses, inspect.isclass)
        if value.__module__.startswith("speechbrain_ext")
    }
    assert classes == set(losses.__all__)
    assert classes - METRIC == {
        type(make(0.1)).__name__ for make in LOSSES.values()
    }


@pytest.mark.parametrize("name", LOSSES)
class TestProperties:
    """What holds for every loss on cosines."""

    def test_permuted_classes_change_nothing(self, name):
        cosines = torch.rand(5, 1, 7) * 2 - 1
        targets = torch.randint(7, (5, 1))
        order = torch.randperm(7)
        loss = LOSSES[name](0.1)
        torch.testing.assert_close(
            loss(cosines[..., order], order.argsort()[targets]),
            loss(cosines, targets),
        )

    @pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_extreme_cosines_stay_finite(self, name, value, autocast):
        dtype = torch.bfloat16 if autocast else torch.float32
        cosines = torch.full((3, 1, 4), value, dtype=dtype, requires_grad=True)
        loss = LOSSES[name](0.2)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = loss(cosines, torch.tensor([[0], [1], [3]]))
        found.backward()
        assert found.dtype == torch.float32
        assert found.isfinite()
        assert cosines.grad.isfinite().all()

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1e15])
    @pytest.mark.parametrize("autocast", [False, True])
    def test_any_embedding_is_finite(self, name, scale, autocast):
        embeddings = (torch.randn(3, 1, 8) * scale).requires_grad_()
        head = CosineClassifier(8, 5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = head(embeddings)
            found = LOSSES[name](0.2)(outputs, torch.tensor([[0], [1], [4]]))
        found.backward()
        assert found.isfinite()
        assert embeddings.grad.isfinite().all()
        assert head.weight.grad.isfinite().all()

    def test_many_classes_are_finite(self, name):
        cosines = (torch.rand(2, 1, 100_000) * 2 - 1).requires_grad_()
        found = LOSSES[name](0.2)(cosines, torch.tensor([[0], [99_999]]))
        found.backward()
        assert found.isfinite()
        assert cosines.grad.isfinite().all()
        assert (cosines.grad != 0).any(dim=2).all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_outside_autocast(self, name, dtype):
        cosines = (torch.rand(6, 1, 7) * 2 - 1).to(dtype)
        cosines[0], cosines[1] = 1.0, -1.0
        targets = torch.randint(7, (6, 1))
        half, exact = cosines.requires_grad_(), cosines.detach().float()
        exact.requires_grad_()
        found = LOSSES[name](0.2)(half, targets)
        wanted = LOSSES[name](0.2)(exact, targets)
        found.backward(), wanted.backward()
        # the same computation in float32, of the same numbers
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
        torch.testing.assert_close(half.grad, exact.grad.to(dtype))
        assert half.grad.isfinite().all()

    @pytest.mark.parametrize("to", ["half", "bfloat16", "double"])
    @pytest.mark.parametrize("outputs", ["half", "bfloat16", "float", "double"])
    def test_loss_of_any_type_takes_outputs_of_any(self, name, to, outputs):
        cosines = torch.rand(6, 1, 7) * 1.8 - 0.9
        targets = torch.randint(7, (6, 1))
        exact = LOSSES[name](0.2)(cosines, targets)
        loss = getattr(LOSSES[name](0.2), to)()
        found = loss(getattr(cosines, outputs)().requires_grad_(), targets)
        found.backward()
        wide = torch.float64 if outputs == "double" else torch.float32
        assert found.dtype == wide
        # the bias of the face form, 0.5, is exact in every type
        rounding = {"half": 2e-3, "bfloat16": 2e-2}.get(outputs, 1e-5)
        assert found.item() == pytest.approx(exact.item(), rel=rounding)
        for parameter in loss.parameters():
            assert parameter.grad.dtype == parameter.dtype
            assert parameter.grad.isfinite().all()

    @pytest.mark.parametrize(
        "dtype", [torch.int32, torch.int16, torch.uint8, torch.int8]
    )
    def test_targets_of_any_integer_type(self, name, dtype):
        cosines = torch.rand(4, 1, 7) * 2 - 1
        targets = torch.tensor([[0], [6], [3], [3]])
        loss = LOSSES[name](0.2)
        found = loss(cosines, targets.to(dtype))
        assert torch.equal(found, loss(cosines, targets))

    def test_targets_that_are_not_integers_are_rejected(self, name):
        with pytest.raises(ValueError, match=r"float32; pass targets\.long"):
            LOSSES[name](0.1)(torch.zeros(2, 1, 3), torch.ones(2, 1))

    def test_functional_gradients_are_those_of_autograd(self, name):
        cosines = torch.rand(5, 1, 7, dtype=torch.float64) * 1.8 - 0.9
        targets = torch.randint(7, (5, 1))
        loss = LOSSES[name](0.2).double()
        x = cosines.clone().requires_grad_()
        value = loss(x, targets)
        (wanted,) = torch.autograd.grad(value, x)
        found, same = torch.func.grad_and_value(loss)(cosines, targets)
        close = {"rtol": 1e-10, "atol": 1e-12}
        torch.testing.assert_close(same, value, **close)
        torch.testing.assert_close(found, wanted, **close)
        # those of each utterance alone
        rows = torch.func.vmap(torch.func.grad(loss))(
            cosines.unsqueeze(1), targets.unsqueeze(1)
        )
        torch.testing.assert_close(rows.squeeze(1) / 5, wanted, **close)
        parameters = dict(loss.named_parameters())
        found = torch.func.grad(
            lambda p: torch.func.functional_call(loss, p, (cosines, targets))
        )(parameters)
        loss(cosines.requires_grad_(), targets).backward()
        for key, parameter in parameters.items():
            torch.testing.assert_close(found[key], parameter.grad, **close)

    def test_nothing_waits_for_a_value_that_is_not_checked(
        self, name, monkeypatch
    ):
        # a tensor on meta has no values: who looks at one fails
        loss = LOSSES[name](0.2).to("meta")
        forward = Loss.forward.__wrapped__  # autocast does not know meta
        cosines = torch.zeros(6, 1, 7, device="meta", requires_grad=True)
        targets = torch.zeros(6, 1, dtype=torch.int64, device="meta")
        looked = pytest.raises(RuntimeError, match="cannot be called on meta")
        for _ in range(FIRST_BATCHES):
            with looked:
                forward(loss, cosines, targets)
        forward(loss, cosines, targets).backward()
        assert cosines.grad.shape == cosines.shape
        monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
        with looked:
            forward(loss, cosines, targets)
        loss.check_inputs = False
        forward(loss, cosines, targets).backward()
        monkeypatch.delenv("CUDA_LAUNCH_BLOCKING")
        loss.check_inputs = True
        with looked:
            forward(loss, cosines, targets)

    def test_unchecked_batch_gives_the_same_loss(self, name):
        cosines = (torch.rand(5, 1, 7) * 2 - 1).requires_grad_()
        targets = torch.randint(7, (5, 1))
        loss = LOSSES[name](0.2)
        checked = loss(cosines, targets)
        loss.check_inputs = False
        assert torch.equal(loss(cosines, targets), checked)

    def test_bf16_run_is_close_to_float32(self, name):
        layer = torch.nn.Linear(32, 16)
        head = CosineClassifier(16, 50)
        features, targets = torch.randn(40, 1, 32), torch.randint(50, (40, 1))
        loss = LOSSES[name](0.2)
        exact = loss(head(layer(features)), targets)
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(head(layer(features)), targets)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, rtol=0.01, atol=0)

    def test_one_class_is_finite(self, name):
        cosines = torch.rand(3, 1, 1, requires_grad=True)
        LOSSES[name](0.1)(cosines, torch.zeros(3, 1, dtype=int)).backward()
        assert cosines.grad.isfinite().all()

    def test_gradients_match_finite_differences(self, name):
        if name in OTHER_GRADIENT:
            pytest.skip("its gradient is not the derivative of the loss")
        cosines = torch.rand(4, 1, 5, dtype=torch.float64) * 1.6 - 0.8
        targets = torch.randint(5, (4, 1))
        loss = LOSSES[name](0.1).double()
        assert torch.autograd.gradcheck(
            lambda x: loss(x, targets), cosines.requires_grad_()
        )

    @pytest.mark.parametrize(
        ("outputs", "targets", "message"),
        [
            ((2, 5), [[0], [1]], r"\[batch, 1, classes\].*got \[2, 5\]"),
            ((2, 1, 5), [0, 1], r"\[batch, 1\].*got \[2\]"),
            ((2, 1, 5), [[0], [5]], r"\[0, 5\), got 0 to 5"),
            ((2, 1, 5), [[-1], [2]], r"\[0, 5\), got -1 to 2"),
            ((0, 1, 5), [[0]], r"no 0 among them, got \[0, 1, 5\]"),
            ((2, 1, 0), [[0], [0]], r"no 0 among them, got \[2, 1, 0\]"),
        ],
    )
    def test_bad_shapes_and_targets(self, name, outputs, targets, message):
        with pytest.raises(ValueError, match=message):
            LOSSES[name](0.1)(torch.rand(outputs), torch.tensor(targets))


@pytest.mark.parametrize("name", MARGINS)
def test_margin_makes_it_harder(name):
    cosines = torch.rand(5, 1, 7) * 1.8 - 0.9
    targets = torch.randint(7, (5, 1))
    loss = LOSSES[name](0.0)
    plain = loss(cosines, targets)
    loss.margin += 0.2
    assert loss(cosines, targets) > plain


@pytest.mark.parametrize("name", MARGINS)
def test_margin_of_zero_is_the_plain_loss(name):
    cosines = torch.rand(5, 1, 7) * 1.8 - 0.9
    targets = torch.randint(7, (5, 1))
    loss = LOSSES[name](0.0)  # M multiplies: there it is 1
    if name.startswith("SphereFace2"):
        similarity = 2 * ((cosines + 1) / 2) ** loss.exponent - 1
        logits = (loss.scale * similarity + loss.bias).squeeze(1)
        own = torch.nn.functional.one_hot(targets.squeeze(1), 7).float()
        weights = torch.where(own > 0, 0.7, 0.3)
        plain = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, own, weights, reduction="sum"
        )
        plain = plain / 5 / (loss.scale if loss.form == "face" else 1)
    else:
        plain = Softmax()(loss.scale * cosines, targets)
    torch.testing.assert_close(loss(cosines, targets), plain)


@pytest.mark.parametrize("name", COSINES)
@pytest.mark.parametrize("value", [-1.2, 1.2, 30.0])
def test_outputs_that_are_no_cosines_are_rejected(name, value):
    outputs = torch.zeros(2, 1, 5)
    outputs[1, 0, 3] = value
    with pytest.raises(ValueError, match=r"cosines in \[-1, 1\].*Cosine"):
        LOSSES[name](0.1)(outputs, torch.tensor([[0], [1]]))
    outputs[1, 0, 3] = 1.01  # rounding in bf16
    LOSSES[name](0.1)(outputs, torch.tensor([[0], [1]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", LOSSES)
def test_no_gpu_waits_for_a_loss(name):
    loss = LOSSES[name](0.2).cuda()
    x = (torch.rand(5, 1, 7, device="cuda") * 2 - 1).requires_grad_()
    targets = torch.randint(7, (5, 1), device="cuda")
    for _ in range(FIRST_BATCHES):
        loss(x, targets).backward()
    try:
        torch.cuda.set_sync_debug_mode("error")
        loss(x, targets).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_extreme_properties_would_catch_an_unclamped_sine():
    # the test of the test: the literal formula fails where ours must hold
    cosines = torch.ones(1, 1, requires_grad=True)
    (1 - cosines.square()).sqrt().sum().backward()
    assert not cosines.grad.isfinite().all()
