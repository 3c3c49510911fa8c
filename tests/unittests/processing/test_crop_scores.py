"""Scores from crops: the published formula, in blocks."""

import itertools

import pytest
import torch

from speechbrain_ext.processing.back_end import BackEnd, scores_by_name
from speechbrain_ext.processing.crop_scores import crop_scores


@pytest.fixture
def trials():
    """Crops of six utterances; those of the first are all equal."""
    generator = torch.Generator().manual_seed(0)
    crops = torch.randn(6, 10, 7, generator=generator, dtype=torch.float64)
    crops[0] = crops[0, 0]
    rows = torch.randint(6, (2, 20), generator=generator)
    rows[:, 0] = 0
    return crops, *rows


def brute_force(crops, enrol, test):
    """Minus the mean distance, pair by pair."""
    scores = []
    for one, other in zip(enrol.tolist(), test.tolist(), strict=True):
        distances = [
            (a / a.norm() - b / b.norm()).square().sum().sqrt()
            for a, b in itertools.product(crops[one], crops[other])
        ]
        scores.append(-sum(distances) / len(distances))
    return torch.stack(scores)


@pytest.mark.parametrize("block_size", [1, 7, 1024])
def test_crop_scores_match_all_pairs(trials, block_size):
    found = crop_scores(*trials, block_size)
    expected = brute_force(*trials)
    assert found.dtype == torch.float64
    assert expected[0] == found[0] == 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_more_crops_than_cdist_takes_one_by_one(trials):
    crops, enrol, test = trials
    many = crops.repeat(1, 3, 1)  # torch multiplies matrices from 26 on
    torch.testing.assert_close(
        crop_scores(many, enrol, test),
        crop_scores(crops, enrol, test),
        rtol=0,
        atol=1e-10,
    )


def test_crop_scores_forget_length_side_and_order_of_crops(trials):
    crops, enrol, test = trials
    expected = crop_scores(crops, enrol, test)
    lengths = torch.rand(6, 10, 1, dtype=torch.float64) + 0.1
    for found in (
        crop_scores(crops * lengths, enrol, test),
        crop_scores(crops, test, enrol),
        crop_scores(crops.flip(1), enrol, test),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (expected <= 0).all() and (expected >= -2).all()
    half = crop_scores(crops.half(), enrol, test)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected.float(), rtol=0, atol=1e-2)


def test_one_crop_orders_trials_as_the_cosine(trials):
    crops, enrol, test = trials
    found = crop_scores(crops[:, :1], enrol, test)
    cosine = BackEnd().scores("cosine", crops[:, 0], enrol, test)
    torch.testing.assert_close(found, -(2 - 2 * cosine).clamp_min(0).sqrt())


def test_no_trials_have_no_scores(trials):
    assert crop_scores(trials[0], [], []).shape == (0,)


def test_scores_by_name_score_the_crops(trials):
    crops, enrol, test = trials
    given = crops[:, 0], enrol, test, None, crops
    found = scores_by_name(["cosine", "crops"], {}, BackEnd(), *given)
    _, (name, label, scores, calibration) = found
    assert (name, label) == ("crops", "distance of crops")
    assert calibration is None
    assert scores.tolist() == crop_scores(crops, enrol, test).tolist()


@pytest.mark.parametrize("shape", [None, (6, 7), (6, 0, 7), (6, 10, 0)])
def test_crop_scores_reject_what_has_no_crops(shape):
    embeddings = None if shape is None else torch.ones(shape)
    said = None if shape is None else list(shape)
    with pytest.raises(ValueError) as error:
        BackEnd().scores("crops", embeddings, [0], [1])
    assert str(error.value).endswith(f"for scores of crops, got {said}.")


def test_crop_scores_reject_bad_rows_values_and_blocks(trials):
    crops, _, _ = trials
    with pytest.raises(ValueError, match="got 6 at trials 1"):
        crop_scores(crops, [0, 6], [1, 1])
    with pytest.raises(ValueError, match="equally long, got 1 and 2"):
        crop_scores(crops, [0], [1, 1])
    with pytest.raises(ValueError, match="`block_size` .* got 0"):
        crop_scores(crops, [0], [1], block_size=0)
    crops[4, 3] = 0
    with pytest.raises(ValueError, match="got 0.0 at rows 4; drop"):
        crop_scores(crops, [0, 1], [1, 4])
    with pytest.raises(ValueError, match="floating-point"):
        crop_scores(crops.long(), [0], [1])
