"""Tests of error curves on probit axes."""

import numpy as np
import pytest
from scipy.stats import norm

from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.probits import (
    coincide,
    least_cost_rates,
    probit,
    probit_limits,
    thinned_probits,
)


def curve_of(distance, number=2000, seed=0):
    generator = np.random.default_rng(seed)
    return ErrorCurve.from_scores(
        generator.normal(distance, 1, number), generator.normal(0, 1, number)
    )


def test_probit_matches_scipy_within_the_curve():
    rates = np.array([0.0, 0.01, 0.2, 1.0])
    assert probit(0.2, rates) == pytest.approx(norm.ppf(0.2))
    # one error is as little as the curve can tell
    assert probit(0.0, rates) == pytest.approx(norm.ppf(0.01))
    assert probit(1.0, rates) == pytest.approx(norm.ppf(0.99))


def test_least_cost_rates_match_a_search():
    curve = curve_of(2.0)
    for p_target in (0.001, 0.05, 0.5):
        accepted, rejected = curve.rates()
        costs = p_target * rejected + (1 - p_target) * accepted
        a, r = least_cost_rates(curve, p_target)
        assert p_target * r + (1 - p_target) * a == pytest.approx(costs.min())
    with pytest.raises(ValueError, match="got 1.5"):
        least_cost_rates(curve, 1.5)


def test_coincide_is_about_what_is_seen():
    curve = curve_of(2.0).rates()
    assert coincide(curve, curve)
    assert coincide(curve, tuple(rates[::2] for rates in curve))
    # two trials of thousands that changed their places
    swapped = curve[0].copy(), curve[1].copy()
    swapped[0][1000] = swapped[0][999]
    assert not np.array_equal(swapped[0], curve[0])
    assert coincide(curve, swapped)
    assert not coincide(curve, curve_of(2.0, seed=1).rates())
    assert not coincide(curve, curve_of(2.1).rates())


def test_thinned_probits_keep_few_points():
    x, y = thinned_probits(*curve_of(2.0, 20_000).rates())
    assert len(x) <= 4000
    assert (np.diff(x) <= 0).all()
    assert (np.diff(y) >= 0).all()


def test_limits_take_in_costs_up_to_90_percent():
    curve = curve_of(3.0)
    given = [curve.rates()], [curve.eer()[0]]
    plain = probit_limits(*given)
    higher = probit_limits(*given, [[0.001, 0.85]])
    assert higher[1][1] > norm.ppf(0.85) > plain[1][1]
    # and the curve is seen as far as there
    accepted, rejected = curve.rates()
    assert (
        norm.cdf(higher[0][0])
        < accepted[(rejected <= 0.85) & (accepted > 0)].min()
    )
    assert probit_limits(*given, [[0.0, 0.95], [0.0, 1.0]]) == plain
