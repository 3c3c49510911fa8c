"""Tests of the names of scorings."""

import dataclasses

import pytest

from speechbrain_ext.processing import cosine, score_normalization, scoring
from speechbrain_ext.processing.scoring import (
    CALIBRATED_SCORINGS,
    SCORINGS,
    find_calibrated_scoring,
    find_scoring,
    needs_cohort,
)


def test_scoring_has_what_its_name_stands_for():
    found = find_scoring("asnorm2_mean")
    assert dataclasses.asdict(found) == {
        "name": "asnorm2_mean",
        "label": "AS-norm2, mean subtracted",
        "sides": ("enrol", "test"),
        "top_n": True,
        "selection": "other",
        "needs_cohort": True,
        "mean_subtracted": True,
    }
    assert find_scoring("snorm_mean").label == "s-norm, mean subtracted"
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.top_n = False


def test_catalogues_have_every_name_once():
    for name, found in SCORINGS.items():
        assert found.name == name
    assert "asnorm_mean" in SCORINGS and "plda_mean" not in SCORINGS
    assert "crops_mean" not in SCORINGS
    assert len(CALIBRATED_SCORINGS) == 2 * (len(SCORINGS) - 1)  # not crops
    for catalogue in (SCORINGS, CALIBRATED_SCORINGS):
        for field in ("name", "label"):
            known = {getattr(found, field) for found in catalogue.values()}
            assert len(known) == len(catalogue)


def test_calibrated_scoring_knows_its_scoring():
    found = find_calibrated_scoring("asnorm_mean")
    assert found.name == "asnorm_mean_calibrated" and not found.with_quality
    found = find_calibrated_scoring("asnorm_mean_qmf")
    assert found.name == "asnorm_mean_qmf" and found.with_quality
    assert found.scoring is SCORINGS["asnorm_mean"]
    assert found.label == "AS-norm, mean subtracted, calibrated with quality"


def test_only_cosine_and_crops_need_no_cohort():
    assert not needs_cohort(["cosine"])
    assert needs_cohort(["cosine", "cosine_mean"])
    without = [n for n in SCORINGS if not needs_cohort([n])]
    assert without == ["cosine", "crops"]


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("plda_mean", "plda"),
        ("cosin", "cosine"),
        ("asnorm_means", "asnorm_mean"),
    ],
)
def test_unknown_scoring_lists_the_names_and_suggests_one(name, nearest):
    match = f"`scorings` .* got '{name}'; did you mean '{nearest}'?"
    with pytest.raises(ValueError, match=match) as error:
        find_scoring(name)
    assert ", ".join(SCORINGS) in str(error.value)
    match = "`calibrate` .*_qmf.* got 'asnorm_qfm'; did you mean 'asnorm_qmf'?"
    with pytest.raises(ValueError, match=match):
        find_calibrated_scoring("asnorm_qfm")
    with pytest.raises(ValueError, match=r"got 'none'; for none, pass \[\]\."):
        find_calibrated_scoring("none")


def test_distances_of_crops_are_not_calibrated():
    assert find_scoring("crops").label == "distance of crops"
    match = "`calibrate` must be one of cosine, .*, plda, [^(]*_mean .each"
    with pytest.raises(ValueError, match=match) as error:
        find_calibrated_scoring("crops")
    assert "crops, " not in str(error.value)


@pytest.mark.parametrize("name", ["xyz", 3, "asnorm_qmf"])
def test_names_that_are_nothing_like_a_scoring_are_rejected(name):
    with pytest.raises(ValueError, match=f"`scorings` .* got {name!r}"):
        find_scoring(name)


def test_functions_can_be_imported_from_here():
    assert scoring.cosine_scores is cosine.cosine_scores
    assert scoring.speaker_means is cosine.speaker_means
    assert scoring.adaptive_s_norm is score_normalization.adaptive_s_norm
