"""The contract of a loss, checked."""

import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import (
    GE2E,
    AAMSoftmax,
    AngularPrototypical,
    SoftmaxAngularPrototypical,
    SphereFace2,
    base,
)
from speechbrain_ext.nnet.losses.base import (
    ClassificationLoss,
    cosines_and_targets,
    grouped,
)
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier


def test_middle_is_dropped():
    outputs, targets = torch.rand(3, 1, 4), torch.tensor([[0], [3], [1]])
    cosines, kept = cosines_and_targets(outputs, targets.int())
    assert torch.equal(cosines, outputs[:, 0])
    assert torch.equal(kept, targets)


def test_speakers_are_numbered_whatever_their_labels():
    targets = torch.tensor([[70], [5], [70], [5], [5]])
    x = torch.arange(5.0).view(5, 1, 1)
    found, speakers, counts = grouped(x, targets, at_least=2)
    assert found.squeeze(1).tolist() == [1, 3, 4, 0, 2]
    assert speakers.tolist() == [0, 0, 0, 1, 1]
    assert counts.tolist() == [3, 2]


class Plain(ClassificationLoss):
    """A loss as a user writes it: without distributed code."""

    def _loss(self, cosines, targets):
        return -cosines.gather(1, targets).mean()


def test_a_loss_needs_no_distributed_code():
    head, loss = CosineClassifier(6, 4), Plain()
    embeddings, targets = torch.randn(3, 1, 6), torch.tensor([[0], [3], [1]])
    found = loss(head(embeddings), targets)
    wanted = -head(embeddings)[torch.arange(3), 0, targets[:, 0]].mean()
    torch.testing.assert_close(found, wanted)
    head = ShardedCosineClassifier(6, 4)
    loss.shard = head.shard
    with pytest.raises(ValueError, match="Plain does not support") as caught:
        loss(head(embeddings), targets)
    said = str(caught.value)
    assert "Set `shard_classifier` to False, or write" in said
    assert "`Plain._shard_loss`" in said


LEARNED = {
    "SphereFace2 (bias)": lambda: SphereFace2("C", 0.2),
    "GE2E (affine.log_gain, affine.bias)": GE2E,
    "AngularPrototypical (affine.log_gain, affine.bias)": AngularPrototypical,
    "SoftmaxAngularPrototypical (classifier.weight": lambda: (
        SoftmaxAngularPrototypical(4, 3)
    ),
}


BATCHES = 12


@pytest.fixture
def few_batches(monkeypatch):
    """A loss looks at its parameters after a few batches."""
    monkeypatch.setattr(base, "UNTRAINED_BATCHES", BATCHES)


def trained(loss, listed, batches=BATCHES + 5, accumulation=1):
    """Trains a layer before a loss, and the loss if a recipe lists it."""
    layer = torch.nn.Linear(5, 4)
    parameters = list(layer.parameters())
    parameters += [p for p in loss.parameters() if listed and p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    targets = torch.tensor([[0], [1], [2]] * 2)
    for step in range(batches):
        x = torch.nn.functional.normalize(layer(torch.randn(6, 1, 5)), dim=2)
        loss(x, targets).backward()
        if (step + 1) % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("said", LEARNED)
def test_parameters_that_nobody_trains_are_named_once(
    said, caplog, few_batches
):
    loss = LEARNED[said]()
    trained(loss, listed=False, batches=BATCHES)
    assert not caplog.records
    trained(loss, listed=False)
    (record,) = caplog.records
    assert f"The parameters of {said}" in record.message
    line = "`compute_cost: !ref <compute_cost>`"
    for part in (line, "`modules:`", "`recoverables:`"):
        assert part in record.message
    assert set(loss.state_dict()) == set(LEARNED[said]().state_dict())


@pytest.mark.parametrize("said", LEARNED)
def test_trained_parameters_are_not_named(said, caplog, few_batches):
    trained(LEARNED[said](), listed=True)
    trained(LEARNED[said](), listed=True, accumulation=BATCHES - 1)
    assert not caplog.records


def test_parameters_that_shall_not_be_trained_are_not_named(
    caplog, few_batches
):
    trained(SphereFace2("C", 0.2).requires_grad_(False), listed=False)
    trained(SphereFace2("C", 0.2).eval(), listed=False)
    trained(AAMSoftmax(0.2), listed=False)
    loss, head = SphereFace2("C", 0.2), CosineClassifier(5, 4)
    for _ in range(BATCHES + 5):
        with torch.no_grad():
            loss(head(torch.randn(2, 1, 5)), torch.tensor([[0], [3]]))
        # nor where no gradient is asked for
        loss(head(torch.randn(2, 1, 5)), torch.tensor([[0], [3]]))
    assert not caplog.records


def test_loss_that_was_not_moved_is_named():
    # what SpeechBrain does not find under `modules:` it does not move
    loss = SphereFace2("C", 0.2).to("meta")
    with pytest.raises(ValueError, match="bias, meta, got cpu.*`modules:`"):
        loss(torch.zeros(2, 1, 3), torch.tensor([[0], [1]]))


def test_loss_can_move_before_its_parameters_are_looked_at(caplog, few_batches):
    loss = SphereFace2("C", 0.2)
    trained(loss, listed=False, batches=3)
    trained(loss.double().float(), listed=False)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        ((2, 3), [[0], [1]], r"\[batch, 1, embedding\].*got \[2, 3\]"),
        ((2, 1, 3), [0, 1], r"\[batch, 1\].*got \[2\]"),
        ((2, 1, 3), [[4], [4]], "two speakers or more, got 1"),
        ((3, 1, 3), [[4], [7], [4]], "2 utterances or more.*got 1 of 7"),
    ],
)
def test_bad_batches_are_rejected(outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        grouped(torch.rand(outputs), torch.tensor(targets), at_least=2)
