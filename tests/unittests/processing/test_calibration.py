"""Tests of calibration by logistic regression."""

import math

import numpy as np
import pytest

from speechbrain_ext.processing.calibration import (
    Calibration,
    fit_calibration,
    load_calibrations,
    quality_measures,
    save_calibrations,
)
from speechbrain_ext.utils.metrics import Cllr, minCllr


def ratios(number=4000, separation=2.0, seed=0):
    """Gaussian log-likelihood ratios, which are calibrated, and labels."""
    generator = np.random.default_rng(seed)
    targets = np.arange(number) % 4 == 0
    mean = np.where(targets, 1, -1) * separation**2 / 2
    return mean + separation * generator.normal(size=number), targets


def test_calibration_undoes_an_affine_map():
    scores, targets = ratios(40_000)
    for scale, shift in ((10.0, 3.0), (0.01, -50.0)):
        calibration = fit_calibration(scores / scale + shift, targets)
        found = calibration(scores / scale + shift)
        # as good as the best monotone map, nearly
        best = minCllr(scores[targets], scores[~targets])
        value = Cllr(found[targets], found[~targets])
        assert value == pytest.approx(best, rel=0.01)
        assert calibration.weights[0] / scale == pytest.approx(1.0, abs=0.05)
        assert calibration.threshold() == pytest.approx(shift, abs=0.1 / scale)


@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_fit_is_where_the_cost_is_least(prior):
    scores, targets = ratios()
    best = fit_calibration(scores, targets, prior=prior)
    logit = math.log(prior / (1 - prior))

    def cost(weight, bias):
        odds = weight * scores + bias + logit
        miss = np.logaddexp(0, -odds[targets]).mean()
        accept = np.logaddexp(0, odds[~targets]).mean()
        return prior * miss + (1 - prior) * accept

    least = cost(best.weights[0], best.bias)
    for weight, bias in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert cost(best.weights[0] + weight, best.bias + bias) > least - 1e-8


def test_duplicated_trials_change_nothing():
    scores, targets = ratios()
    first = fit_calibration(scores, targets)
    second = fit_calibration(
        np.append(scores, scores[targets]), np.append(targets, targets[targets])
    )
    assert second.weights == pytest.approx(first.weights, rel=1e-4)
    assert second.bias == pytest.approx(first.bias, abs=1e-4)


def test_quality_measures_help_where_they_matter():
    generator = np.random.default_rng(1)
    scores, targets = ratios(20_000)
    seconds = generator.uniform(1, 6, (2, len(scores)))
    shifted = scores + 2 * seconds.min(axis=0)
    measures, names = quality_measures(*seconds, "seconds")
    plain = fit_calibration(shifted, targets)(shifted)
    features = ["cosine", *names]
    fitted = fit_calibration(shifted, targets, measures, features)
    better = fitted(shifted, measures)
    assert Cllr(better[targets], better[~targets]) < 0.95 * Cllr(
        plain[targets], plain[~targets]
    )
    swapped, _ = quality_measures(*seconds[::-1], "seconds")
    np.testing.assert_array_equal(swapped, measures)
    with pytest.raises(ValueError, match="column for each of .* got 1"):
        fitted(shifted)
    with pytest.raises(ValueError, match="only feature"):
        fitted.threshold()


@pytest.mark.parametrize("seconds", [2.1, 3.3, 4.015])
def test_a_measure_that_only_rounding_varies_says_nothing(seconds):
    rng = np.random.default_rng(1)
    targets = np.arange(4000) % 2 == 0
    scores = rng.normal(size=4000) + np.where(targets, 1, -1)
    noisy = seconds * (1 + 1e-7 * rng.normal(size=(2, 4000)))
    for sides in (np.full((2, 4000), seconds), noisy):
        measures, names = quality_measures(*sides, "seconds")
        made = fit_calibration(scores, targets, measures, ["score", *names])
        alone = fit_calibration(scores, targets)
        other, _ = quality_measures(*(2 * sides), "seconds")
        # a duration that was never seen changes nothing
        np.testing.assert_allclose(
            made(scores, other), alone(scores), atol=1e-3
        )


def test_perfect_and_constant_scores_have_a_finite_fit():
    targets = np.array([False, False, True, True])
    perfect = fit_calibration(np.array([0.0, 1.0, 2.0, 3.0]), targets)
    assert np.isfinite(perfect.weights).all()
    assert perfect.weights[0] > 5
    constant = fit_calibration(np.full(4, 7.0), targets)
    np.testing.assert_allclose(constant(np.full(4, 7.0)), 0.0, atol=1e-6)


def test_threshold_follows_prior_and_costs():
    calibration = Calibration([2.0], 1.0, ["cosine"])
    assert calibration.threshold() == -0.5
    threshold = calibration.threshold(p_target=0.01, c_miss=2.0, c_fa=3.0)
    ratio = calibration(np.array([threshold]))[0]
    assert ratio == pytest.approx(math.log(3 * 0.99 / (2 * 0.01)))


@pytest.mark.parametrize(
    "change, match",
    [
        ({"prior": 1.0}, "`prior` must be .* got 1.0"),
        ({"targets": [True] * 4}, "got 4 targets of 4"),
        ({"targets": [True]}, r"`targets` must be \[4\]"),
        ({"scores": [0.0, math.nan, 1.0, 2.0]}, "finite, got .*nan.* trial 1"),
        ({"features": ["a", "b"]}, "column for each of"),
    ],
)
def test_fit_rejects_bad_arguments(change, match):
    trials = {"scores": [0.0, 1.0, 2.0, 3.0], "targets": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=match):
        fit_calibration(**{**trials, **change})


def test_file_gives_calibrations_back(tmp_path):
    path = tmp_path / "calibration.json"
    kept = {"cosine": Calibration([1 / 3], 0.1, ["cosine"], 0.01)}
    save_calibrations(path, kept)
    found = load_calibrations(path)["cosine"]
    assert found.to_dict() == kept["cosine"].to_dict()
    for text in ("[]", "{}x", '{"a": {"weight": 1}}', '{"a": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a file of calibrations"):
            load_calibrations(path)
    with pytest.raises(ValueError, match="must be finite"):
        Calibration([math.nan], 0.0, ["cosine"])
    with pytest.raises(ValueError, match="one for each feature"):
        Calibration([1.0, 2.0], 0.0, ["cosine"])


def test_score_that_counts_against_itself_is_refused(tmp_path):
    scores, targets = ratios(200)
    with pytest.raises(ValueError, match="200 trials a higher score means"):
        fit_calibration(-scores, targets)
    with pytest.raises(ValueError, match="must not be negative, got -2"):
        Calibration([-2.0], 0.0, ["cosine"])
    path = tmp_path / "calibration.json"
    path.write_text(
        '{"cosine": {"weights": [-2.0], "bias": 0.1, "features": ["cosine"]}}'
    )
    with pytest.raises(
        ValueError, match="calibration.json is not a file.*less"
    ):
        load_calibrations(path)


GOOD = '{"weights": [2.0], "bias": 0.1, "features": ["cosine"]'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        '"cosine"',
        '[{"cosine": 1}]',
        '{"cosine": []}',
        '{"cosine": {"weights": [1.0]}}',
        f'{{"cosine": {GOOD}, "more": 1}}}}'.replace("[2.0]", "[NaN]"),
        f'{{"cosine": {GOOD}}}}}'.replace("0.1", "Infinity"),
        f'{{"cosine": {GOOD}}}}}'.replace("0.1", "1" + 400 * "0"),
        f'{{"cosine": {GOOD}}}}}'.replace("0.1", "true"),
        f'{{"cosine": {GOOD}}}}}'.replace("0.1", '"0.1"'),
        f'{{"cosine": {GOOD}}}}}'.replace("[2.0]", "2.0"),
        f'{{"cosine": {GOOD}}}}}'.replace("[2.0]", "[[2.0]]"),
        f'{{"cosine": {GOOD}}}}}'.replace("[2.0]", "[]"),
        f'{{"cosine": {GOOD}}}}}'.replace('["cosine"]', '"c"'),
        f'{{"cosine": {GOOD}, "prior": 5}}}}',
        f'{{"cosine": {GOOD}, "prior": null}}}}',
        f'{{"cosine": {GOOD}, "fitted_range": [1, 0]}}}}',
        f'{{"cosine": {GOOD}, "fitted_range": "ab"}}}}',
        '{"a":' * 100_000,
    ],
)
def test_odd_files_of_calibrations_are_said(text, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="calibration.json is not a file of"):
        load_calibrations(path)


def test_file_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(f'{{"cosine": {GOOD}, "prior": 0.05}}}}')
    found = load_calibrations(path)["cosine"]
    assert found.threshold() == -0.05
    assert found.fitted_range is None
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a file of calibrations"):
        load_calibrations(path)


def test_fit_knows_which_scores_it_saw():
    scores, targets = ratios(200)
    ends = fit_calibration(scores, targets).fitted_range
    assert ends == [scores.min(), scores.max()]


@pytest.mark.parametrize("p_target", [0.0, 1.0, 5.0, math.nan])
def test_threshold_rejects_what_is_no_probability(p_target):
    with pytest.raises(ValueError, match=f"`p_target`.*got {p_target}"):
        Calibration([2.0], 1.0, ["cosine"]).threshold(p_target)
