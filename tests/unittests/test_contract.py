"""The contract of a loss, checked."""

import pytest
import torch

from speechbrain_ext.nnet.losses.contract import cosines_and_targets, grouped


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
