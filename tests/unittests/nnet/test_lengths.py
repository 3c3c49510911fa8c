"""Frames of padded batches."""

import math

import pytest
import torch

from speechbrain_ext.nnet.lengths import (
    frame_counts,
    keep_framing,
    mask_frames,
    note_framing,
    strided_frames,
)


@pytest.mark.parametrize("longest", [400, 559, 32000, 16000 * 600 + 7])
def test_noted_framing_counts_what_each_utterance_has_alone(longest):
    samples = torch.linspace(400, longest, 50).long()
    samples[-1] = longest
    features = torch.zeros(50, 1 + (longest - 400) // 160, 1)
    note_framing(features, longest, 400, 160)
    lengths = (samples / longest).float()
    expected = 1 + (samples - 400) // 160
    assert torch.equal(frame_counts(features, lengths), expected)


def test_without_a_note_lengths_are_shares_of_the_frames():
    features = torch.zeros(2, 200, 1)
    lengths = torch.tensor([137 / 200, 1.0])
    assert frame_counts(features, lengths).tolist() == [137, 200]
    assert frame_counts(features, None) is None


def test_note_travels():
    features = note_framing(torch.zeros(1, 198, 1), 32000, 400, 160)
    assert keep_framing(features + 1, features).framing == (32000, 400, 160)
    assert not hasattr(keep_framing(features + 1, torch.zeros(1)), "framing")


def test_mask_reaches_any_number_of_middle_dimensions():
    values = torch.ones(2, 3, 4, 5)
    masked = mask_frames(values, torch.tensor([5, 2]))
    assert masked.sum() == 3 * 4 * (5 + 2)
    assert masked[1, :, :, 2:].sum() == 0
    assert mask_frames(values, None) is values


def test_values_that_may_be_changed_are_masked_in_place_for_inference():
    values = torch.rand(3, 2, 4, 5, generator=torch.manual_seed(0))
    frames = torch.tensor([5, 2, 1])
    expected = mask_frames(values, frames, -1.0)
    found = mask_frames(values, frames, -1.0, overwrite=True)
    assert torch.equal(found, expected) and found is not values
    assert not torch.equal(values, expected)
    with torch.no_grad():
        found = mask_frames(values, frames, -1.0, overwrite=True)
    assert found is values and torch.equal(values, expected)


@pytest.mark.parametrize("frames", range(1, 12))
def test_strided_frames_are_what_a_convolution_leaves(frames):
    conv = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1)
    left = conv(torch.zeros(1, 1, frames)).shape[-1]
    assert strided_frames(torch.tensor([frames]), 2).tolist() == [left]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_masks_by_the_lengths_that_it_is_given():
    def masked(values, frames):
        return mask_frames(values + 0, frames, overwrite=True)

    values, first = torch.ones(2, 4, 9), torch.tensor([9, 5])
    with torch.no_grad():
        traced = torch.jit.trace(masked, (values, first))
        other = torch.tensor([3, 7])
        assert torch.equal(traced(values, other), masked(values, other))


def test_wrong_number_of_lengths_is_rejected():
    with pytest.raises(ValueError, match=r"2, got shape \[3\]"):
        frame_counts(torch.zeros(2, 5, 1), torch.ones(3))


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, 1.01, 16000.0])
def test_lengths_that_are_no_shares_are_rejected(wrong):
    features, lengths = torch.zeros(2, 5, 1), torch.tensor([1.0, wrong])
    with pytest.raises(ValueError, match=f"at most 1, got {wrong:g}; divide"):
        frame_counts(features, lengths)
    compiled = torch.compile(frame_counts, backend="eager", fullgraph=True)
    assert compiled(features, lengths)[0] == 5
