"""Tests of the further normalisations and of enrolment embeddings."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.processing import scoring
from speechbrain_ext.processing.score_normalization import (
    enrolment_embeddings,
    normalise_scores,
)
from speechbrain_ext.processing.scoring import adaptive_s_norm, cosine_scores


def make_trials(utterances=30, size=8, trials=120, cohort=25):
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(utterances, size, generator=generator).double()
    enrol, test = torch.randint(utterances, (2, trials), generator=generator)
    cohort = torch.randn(cohort, size, generator=generator).double()
    scores = cosine_scores(embeddings, enrol, test)
    return scores, enrol, test, embeddings, cohort


def naive(trial, top_n, kind, selection, names=None):
    """One trial from the formula; names: speakers of rows and of cohort."""
    score, enrol, test, embeddings, cohort = trial
    unit = torch.nn.functional.normalize
    cosines = {
        side: (unit(embeddings[[row]]) @ unit(cohort).T)[0].numpy()
        for side, row in (("enrol", enrol), ("test", test))
    }
    kept = np.ones(len(cohort), dtype=bool)
    if names is not None:
        own = {names[0][enrol], names[0][test]}
        kept = np.array([name not in own for name in names[1]])
    found = []
    for side, other in (("enrol", "test"), ("test", "enrol")):
        by = cosines[side if selection == "own" else other][kept]
        nearest = np.argsort(-by, kind="stable")[:top_n]
        picked = cosines[side][kept][nearest]
        found.append((score - picked.mean()) / picked.std())
    return {"z": found[0], "t": found[1], "s": sum(found) / 2}[kind]


@pytest.mark.parametrize("kind", ["z", "t", "s"])
@pytest.mark.parametrize("selection", ["own", "other"])
@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("top_n", [5, None])
def test_normalise_scores_matches_a_loop(
    kind, selection, leave_out, top_n, monkeypatch
):
    trials = make_trials()
    names = None
    if leave_out:
        names = [f"s{i % 7}" for i in range(30)], [f"s{i}" for i in range(25)]
    options = dict(
        zip(("speakers", "cohort_speakers"), names or (None, None), strict=True)
    )
    found = normalise_scores(
        *trials, top_n=top_n, kind=kind, selection=selection, **options
    )
    expected = [
        naive((score, *rows, *trials[3:]), top_n, kind, selection, names)
        for score, *rows in zip(*(t.tolist() for t in trials[:3]), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(scoring, "MOST_COSINES", 200)  # blocks of a few
    blocks = normalise_scores(
        *trials, top_n=top_n, kind=kind, selection=selection, **options
    )
    torch.testing.assert_close(blocks, found, rtol=0, atol=1e-9)


def test_own_nearest_of_both_sides_is_as_norm():
    trials = make_trials()
    torch.testing.assert_close(
        normalise_scores(*trials, top_n=6), adaptive_s_norm(*trials, top_n=6)
    )


def test_speakers_that_are_not_in_the_cohort_leave_nothing_out():
    trials = make_trials()
    found = normalise_scores(
        *trials, speakers=["x"] * 30, cohort_speakers=["y"] * 25, top_n=6
    )
    torch.testing.assert_close(found, adaptive_s_norm(*trials, top_n=6))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"kind": "u"}, "`kind` must be .* got 'u'"),
        ({"selection": "none"}, "`selection` must be own or other, got 'none'"),
        ({"speakers": ["a"] * 30}, "go together"),
        (
            {"speakers": ["a"] * 30, "cohort_speakers": ["a"] * 24 + ["b"]},
            "keep 2 rows .* got 1",
        ),
        ({"top_n": 1}, "must be 2 or more, got 1"),
    ],
)
def test_normalise_scores_rejects_bad_arguments(change, match):
    with pytest.raises(ValueError, match=match):
        normalise_scores(*make_trials(), **change)


def test_enrolment_is_the_mean_of_unit_embeddings():
    embeddings = make_trials()[3]
    models = [[0, 1, 2], [3], [2, 4]]
    found = enrolment_embeddings(embeddings, models)
    unit = torch.nn.functional.normalize(embeddings)
    for mean, rows in zip(found, models, strict=True):
        torch.testing.assert_close(mean, unit[rows].mean(dim=0))
    # the mean of the cosines, but for the model's length
    cosine = cosine_scores(torch.cat([found[:1], embeddings]), [0], [10])
    cosines = (unit[[0, 1, 2]] @ unit[9]).mean()
    torch.testing.assert_close(cosine[0], cosines / found[0].norm())


def test_enrolment_rejects_what_has_no_direction():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 0.0], [math.nan, 1.0]])
    with pytest.raises(ValueError, match="got none at 1"):
        enrolment_embeddings(embeddings, [[0], []])
    with pytest.raises(ValueError, match="got 0.0 at rows 1"):
        enrolment_embeddings(embeddings, [[0, 1]])
