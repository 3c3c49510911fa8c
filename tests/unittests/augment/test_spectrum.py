"""Masks: each utterance has its own, from its seed alone."""

import numpy as np
import pytest
import torch

from speechbrain_ext.augment.spectrum import SpecAugment


def test_masks_are_of_the_widths_that_are_asked():
    augment = SpecAugment(1.0, 1, 10, 1, 8)
    frames, channels = set(), set()
    for masked in augment(torch.ones(300, 200, 80), range(300)):
        assert set(masked.unique().tolist()) <= {0.0, 1.0}
        rows = masked.sum(dim=1) == 0
        columns = masked.sum(dim=0) == 0
        for held, found in ((rows, frames), (columns, channels)):
            places = held.nonzero().flatten()
            assert 1 <= len(places) == places[-1] - places[0] + 1
            found.add(len(places))
        # and nothing else is touched
        assert masked.sum() == (~rows).sum() * (~columns).sum()
    assert (frames, channels) == (set(range(1, 11)), set(range(1, 9)))


def test_an_utterance_has_its_masks_in_any_batch():
    augment = SpecAugment()
    features = torch.randn(40, 50, 20)
    whole = augment(features, range(40))
    for row in (0, 7, 39):
        np.random.seed(row)
        torch.manual_seed(row)
        alone = augment(features[row : row + 1], [row])
        assert torch.equal(alone[0], whole[row])
    changed = (whole != features).flatten(1).any(1).float().mean()
    assert 0.4 < changed < 0.8
    assert torch.equal(SpecAugment(0.0)(features, range(40)), features)
    assert torch.equal(
        SpecAugment(1.0, 0, 1, 0, 1)(features, range(40)), features
    )


def test_masks_do_not_depend_on_the_padding():
    augment, lengths = SpecAugment(1.0), torch.tensor([1.0, 0.5, 0.2])
    features, frames = torch.ones(3, 100, 20), (100, 50, 20)
    padded = augment(features, range(3), lengths)
    for row, count in enumerate(frames):
        alone = augment(features[row : row + 1, :count], [row])
        assert torch.equal(padded[row, :count], alone[0])


def test_gradients_pass_where_nothing_is_masked():
    features = torch.ones(1, 30, 10, requires_grad=True)
    masked = SpecAugment(1.0)(features, [4])
    masked.sum().backward()
    assert torch.equal(features.grad, masked.detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.1}, "got 1.1"),
        ({"time_masks": -1}, "`time_masks`.*-1"),
        ({"frequency_width": 0}, "`frequency_width`.*0"),
    ],
)
def test_bad_arguments_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        SpecAugment(**options)


def test_seeds_are_one_for_each():
    with pytest.raises(ValueError, match="2 utterances, got 1"):
        SpecAugment()(torch.ones(2, 9, 9), [1])
