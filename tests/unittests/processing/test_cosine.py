"""Tests of cosine scores and of means of embeddings."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.processing.cosine import (
    cosine_scores,
    enrolment_embeddings,
    speaker_means,
)


def make_trials(utterances=40, size=16, trials=300, cohort=50, seed=0):
    """Embeddings, enrolment rows, test rows and a cohort."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(utterances, 1, generator=generator) * 5 + 0.1
    embeddings = (
        torch.randn(utterances, size, generator=generator) * scale + 0.3
    )
    rows = torch.randint(utterances, (2, trials), generator=generator)
    cohort = torch.randn(cohort, size, generator=generator) + 0.3
    return embeddings.double(), rows[0], rows[1], cohort.double()


def naive_cosine(a, b):
    a, b = np.float64(a), np.float64(b)
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def test_cosine_scores_match_a_loop():
    embeddings, enrol, test, _ = make_trials()
    expected = [
        naive_cosine(embeddings[e], embeddings[t])
        for e, t in zip(enrol, test, strict=True)
    ]
    scores = cosine_scores(embeddings, enrol, test)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


def test_cosine_scores_of_extreme_lengths_are_finite():
    # Squares of these overflow or vanish in float32.
    embeddings = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [1e38, 0.0]])
    scores = cosine_scores(embeddings, [0, 0, 1], [1, 2, 2])
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.6, 0.6]))
    assert scores.max() <= 1.0


def test_speaker_means_match_a_loop():
    embeddings, speakers, _, _ = make_trials(trials=40)
    speakers = [f"id{number % 7}" for number in speakers.tolist()]
    means, names = speaker_means(embeddings, speakers)
    assert names == sorted(set(speakers))
    for mean, name in zip(means, names, strict=True):
        own = [
            e for e, s in zip(embeddings, speakers, strict=True) if s == name
        ]
        torch.testing.assert_close(mean, torch.stack(own).mean(0))


def test_speaker_means_commute_with_mean_subtraction():
    # WeSpeaker averages raw embeddings, then subtracts; either order will do.
    embeddings, _, _, _ = make_trials()
    speakers, mean = ["b", "a", "c", "a"] * 10, embeddings.mean(0)
    torch.testing.assert_close(
        speaker_means(embeddings, speakers)[0] - mean,
        speaker_means(embeddings - mean, speakers)[0],
    )


@pytest.mark.parametrize(
    "speakers, match",
    [(["a", "b"], "got 2 names for 3"), (["a", "b", "c"], "got nan at rows 1")],
)
def test_speaker_means_reject_bad_arguments(speakers, match):
    embeddings = torch.tensor([[1.0], [math.nan], [2.0]])
    with pytest.raises(ValueError, match=match):
        speaker_means(embeddings, speakers)
    with pytest.raises(ValueError, match="got 0 names for 0"):
        speaker_means(embeddings[:0], [])


def test_enrolment_is_the_mean_of_unit_embeddings():
    embeddings = make_trials()[0]
    models = [[0, 1, 2], [3], [2, 4]]
    found = enrolment_embeddings(embeddings, models)
    unit = torch.nn.functional.normalize(embeddings)
    for mean, rows in zip(found, models, strict=True):
        length = embeddings[rows].norm(dim=1).mean()
        torch.testing.assert_close(mean, length * unit[rows].mean(dim=0))
    # one utterance is itself, also after the training mean is subtracted
    torch.testing.assert_close(found[1], embeddings[3])
    # the mean of the cosines, but for the model's length
    cosine = cosine_scores(torch.cat([found[:1], embeddings]), [0], [10])
    cosines = (unit[[0, 1, 2]] @ unit[9]).mean()
    factor = unit[[0, 1, 2]].mean(dim=0).norm()
    torch.testing.assert_close(cosine[0], cosines / factor)


def test_enrolment_rejects_what_has_no_direction():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 0.0], [math.nan, 1.0]])
    with pytest.raises(ValueError, match="got none at 1"):
        enrolment_embeddings(embeddings, [[0], []])
    with pytest.raises(ValueError, match="got 0.0 at rows 1"):
        enrolment_embeddings(embeddings, [[0, 1]])
