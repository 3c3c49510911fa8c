"""Decisions from embeddings, against formulas computed by hand."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.calibration import Calibration
from speechbrain_ext.processing.decisions import Decisions

COSINE = {"cosine": Calibration([10.0], -5.0, ["cosine"], 0.5, [-1.0, 0.7])}
ONE, OTHER = np.float32([1, 0]), np.float32([3, 4])  # cosine 0.6


@pytest.fixture
def cohort():
    """A back end with a cohort of four."""
    rows = torch.tensor([[0.0, 2.0], [5.0, 0.0], [1.0, 1.0], [1.0, 3.0]])
    return BackEnd(rows, list("abcd"))


def test_calibrated_decision_matches_bayes():
    decisions = Decisions(None, COSINE)
    found = decisions.verify("ada", ONE, OTHER, 0.5)
    assert found.scoring == "cosine" and found.name == "ada"
    assert found.score == pytest.approx(0.6)
    assert found.log_likelihood_ratio == pytest.approx(1.0, abs=1e-6)
    assert found.same_speaker and found.threshold == pytest.approx(0.5)
    assert not found.extrapolated
    # posterior odds exp(1) * p / (1 - p) are 1 at a prior of 1 / (1 + e)
    even = 1 / (1 + math.e)
    assert decisions.verify("ada", ONE, OTHER, even + 1e-3).same_speaker
    assert not decisions.verify("ada", ONE, OTHER, even - 1e-3).same_speaker
    assert decisions.verify("ada", ONE, ONE).extrapolated
    assert decisions.verify("ada", ONE, ONE).p_target == 0.5


def test_without_calibration_the_threshold_is_speechbrains():
    decisions = Decisions()
    found = decisions.verify("ada", ONE, OTHER)
    assert found.threshold == 0.25 and found.same_speaker
    assert found.log_likelihood_ratio is None and found.p_target is None
    with pytest.raises(ValueError, match="prior of 0.1 needs a calibration"):
        decisions.verify("ada", ONE, OTHER, 0.1)


def test_scoring_is_the_best_that_is_calibrated(cohort):
    both = {**COSINE, "asnorm": Calibration([1.0], 0.0, ["asnorm"])}
    assert Decisions(cohort, both).scoring() == "asnorm"
    assert Decisions(cohort, COSINE).scoring() == "cosine"
    assert Decisions(None, both).scoring() == "cosine"
    found = Decisions(cohort, both).verify("ada", ONE, OTHER)
    rows = torch.from_numpy(np.stack([ONE, OTHER]))
    expected = cohort.scores("asnorm", rows, [0], [1]).item()
    assert found.score == found.log_likelihood_ratio == expected


def test_scorings_that_are_not_available_are_rejected(cohort):
    for decisions, name in (
        (Decisions(), "asnorm"),
        (Decisions(), "cosine_mean"),
        (Decisions(cohort), "plda"),
        (Decisions(cohort), "crops"),
    ):
        with pytest.raises(ValueError, match=f"{name} is not available"):
            decisions.verify("ada", ONE, OTHER, scoring=name)
    with pytest.raises(ValueError, match="did you mean 'asnorm'"):
        Decisions(cohort).scoring("asnrm")


def test_uncalibrated_asnorm_has_a_score_and_no_decision(cohort):
    found = Decisions(cohort).verify("ada", ONE, OTHER, scoring="asnorm")
    assert found.same_speaker is None and found.threshold is None
    with pytest.raises(ValueError, match="asnorm needs a calibration"):
        Decisions(cohort).identify({"ada": ONE}, OTHER, scoring="asnorm")


def test_identification_matches_posterior_by_hand():
    decisions = Decisions(None, COSINE)
    enrolled = {"ada": ONE, "bob": OTHER, "cleo": np.float32([-1, 1])}
    found = decisions.identify(enrolled, OTHER, top=2, p_known=0.4)
    cosines = np.array([0.6, 1.0, 1 / (5 * math.sqrt(2))])
    masses = 0.4 / 3 * np.exp(10 * cosines - 5)
    total = masses.sum() + 0.6
    assert found.name == "bob"
    assert [c.name for c in found.candidates] == ["bob", "ada"]
    chances = [c.probability for c in found.candidates]
    np.testing.assert_allclose(chances, masses[[1, 0]] / total, rtol=1e-5)
    assert found.p_nobody == pytest.approx(0.6 / total, rel=1e-5)
    ratio = found.candidates[0].log_likelihood_ratio
    assert ratio == pytest.approx(5.0, abs=1e-5)
    # the prior decides
    assert decisions.identify(enrolled, OTHER, p_known=1e-4).name is None
    # many more candidates share the prior
    strangers = {str(i): np.float32([-3, -4]) for i in range(10000)}
    found = decisions.identify({**enrolled, **strangers}, OTHER)
    assert found.name is None and len(found.candidates) == 5


def test_identification_without_calibration_uses_the_threshold():
    decisions = Decisions()
    enrolled = {"ada": ONE, "bob": np.float32([0, 1])}
    assert decisions.identify(enrolled, OTHER).name == "bob"
    assert decisions.identify(enrolled, OTHER).p_nobody is None
    found = decisions.identify(enrolled, np.float32([-1, -1]))
    assert found.name is None and len(found.candidates) == 2


@pytest.mark.parametrize(
    "options, words",
    [
        ({"top": 0}, "`top` must be 1 or more, got 0"),
        ({"p_known": 0}, "got 0"),
        ({"p_known": 50}, "`p_known`.* pass a fraction, not percent"),
        ({"enrolled": {}}, "Nobody is enrolled"),
    ],
)
def test_identification_rejects_what_cannot_be(options, words):
    options = {"enrolled": {"ada": ONE}, **options}
    with pytest.raises(ValueError, match=words):
        Decisions(None, COSINE).identify(test=OTHER, **options)
