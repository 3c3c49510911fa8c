"""Tests of the error curve and the metrics on it."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.utils import metric_stats

from speechbrain_ext.utils import metrics
from speechbrain_ext.utils.metrics import (
    EER,
    ROC_AUC,
    Cllr,
    FAR_at_FRR,
    FRR_at_FAR,
    actDCF,
    error_curve,
    minCllr,
    minDCF,
)

METRICS = {"EER": EER, "minDCF": minDCF}
# Those that read the scores as log-likelihood ratios or have no threshold.
OTHERS = {
    "ROC_AUC": ROC_AUC,
    "Cllr": Cllr,
    "minCllr": minCllr,
    "actDCF": lambda p, n: actDCF(p, n, p_target=0.3)[0],
    "FAR_at_FRR": lambda p, n: FAR_at_FRR(p, n, frr=0.1)[0],
    "FRR_at_FAR": lambda p, n: FRR_at_FAR(p, n, far=0.1)[0],
}
every_metric = pytest.mark.parametrize(
    "metric", METRICS.values(), ids=METRICS.keys()
)
few = settings(deadline=None, derandomize=True, max_examples=60, database=None)
# Few distinct values: most scores are tied, within and across the classes.
tied = st.lists(st.integers(-3, 3).map(lambda i: i / 7), min_size=1, max_size=9)
floats = st.floats(allow_nan=False, width=32)
any_scores = st.lists(floats, min_size=1, max_size=9)


def rates(positive, negative, threshold):
    """The definition, by counting."""
    accepted = sum(score > threshold for score in negative)
    rejected = sum(not score > threshold for score in positive)
    return accepted / len(negative), rejected / len(positive)


def brute_force(positive, negative):
    """(threshold, FAR, FRR) of each threshold that could matter."""
    thresholds = sorted({-math.inf, *positive, *negative})
    return [(t, *rates(positive, negative, t)) for t in thresholds]


def gaussian_scores(positives=200, negatives=300, seed=0):
    generator = np.random.default_rng(seed)
    positive = generator.normal(1.5, 1.0, positives)
    return positive, generator.normal(0.0, 1.0, negatives)


def test_registry_holds_every_metric():
    public = {
        name
        for name, value in vars(metrics).items()
        if inspect.isfunction(value)
        and value.__module__ == metrics.__name__
        and not name.startswith("_")
    }
    assert public == {*METRICS, *OTHERS, "error_curve"}


@few
@given(st.one_of(tied, any_scores), st.one_of(tied, any_scores))
def test_area_is_the_chance_of_the_right_order(positive, negative):
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    expected = sum(pairs) / len(pairs)
    assert ROC_AUC(positive, negative) == pytest.approx(expected, abs=1e-12)


@few
@given(st.one_of(tied, any_scores), st.one_of(tied, any_scores))
def test_error_curve_matches_brute_force(positive, negative):
    found = list(zip(*error_curve(positive, negative), strict=True))
    assert found == brute_force(positive, negative)


@few
@given(st.one_of(tied, any_scores), st.one_of(tied, any_scores))
def test_metrics_match_brute_force(positive, negative):
    points = brute_force(positive, negative)
    value, threshold = EER(positive, negative)
    accepted, rejected = rates(positive, negative, threshold)
    assert value == (accepted + rejected) / 2
    gap = min(abs(a - r) for _, a, r in points)
    assert abs(accepted - rejected) == pytest.approx(gap, abs=1e-12)

    for p_target in (0.01, 0.4, 0.9):
        weights = 2.0 * (1 - p_target), 3.0 * p_target
        costs = [weights[0] * a + weights[1] * r for _, a, r in points]
        raw, threshold = minDCF(positive, negative, 3.0, 2.0, p_target, False)
        assert raw == pytest.approx(min(costs), abs=1e-12)
        accepted, rejected = rates(positive, negative, threshold)
        cost = weights[0] * accepted + weights[1] * rejected
        assert cost == pytest.approx(raw, abs=1e-12)
        value = minDCF(positive, negative, 3.0, 2.0, p_target)[0]
        assert value == pytest.approx(raw / min(weights), abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 6])
def test_metrics_match_speechbrain(decimals):
    pair = [np.round(s, decimals) for s in gaussian_scores()]
    pair = [torch.tensor(scores) for scores in pair]
    value, threshold = EER(*pair)
    expected = metric_stats.EER(*pair)
    assert value == pytest.approx(expected[0], abs=1e-6)
    assert threshold == expected[1]
    expected, _ = metric_stats.minDCF(*pair, p_target=0.05)
    value, _ = minDCF(*pair, p_target=0.05, normalize=False)
    assert value == pytest.approx(expected, abs=1e-6)


def test_eer_follows_the_gaussian_law():
    # Equal variances, means d apart: EER = Phi(-d / 2); here Phi(-0.75).
    value, threshold = EER(*gaussian_scores(100_000, 100_000))
    assert value == pytest.approx(0.226627, abs=3e-3)
    assert threshold == pytest.approx(0.75, abs=2e-2)


TABLE = [
    # positive, negative, EER, its threshold
    ([2.0, 3.0], [0.0, 1.0], 0.0, 1.0),
    ([0.0, 1.0], [2.0, 3.0], 1.0, 1.0),
    ([1.0], [1.0], 0.5, 1.0),
    ([5.0, 5.0, 5.0], [5.0], 0.5, 5.0),
    ([1.0, 3.0], [0.0, 2.0], 0.5, 1.0),
    # FAR 1/2 and FRR 0, then 0 and 1/2: the lower threshold.
    ([1.0, 2.0], [0.0, 1.0], 0.25, 0.0),
    # Ties across the classes: (0.5, 0.25) is nearer than (0, 0.75).
    ([0.0, 2.0, 2.0, 3.0], [1.0, 2.0], 0.375, 1.0),
    ([math.inf, 1.0], [-math.inf, 0.0], 0.0, 0.0),
    ([-math.inf], [-math.inf], 0.5, -math.inf),
]


@pytest.mark.parametrize("positive, negative, value, threshold", TABLE)
def test_eer_matches_hand_table(positive, negative, value, threshold):
    assert EER(positive, negative) == (value, threshold)


@pytest.mark.parametrize(
    "p_target, value, threshold",
    [
        (0.01, 0.75, 2.0),  # no false acceptance: FRR 3/4
        (0.4, 0.625, 1.0),  # FRR 1/4 and FAR 1/4, which costs 1.5
        (0.5, 0.5, -1.0),  # FAR 1/2, or 1/4 each: the lower threshold
        (0.99, 0.5, -1.0),  # no false rejection: FAR 1/2 costs 0.01 / 2
    ],
)
def test_mindcf_matches_hand_table(p_target, value, threshold):
    scores = [0.0, 2.0, 2.0, 3.0], [-1.0, 2.0, -1.0, 1.0]
    found = minDCF(*scores, p_target=p_target)
    assert found == (pytest.approx(value), threshold)


@pytest.mark.parametrize("p_target, threshold", [(0.01, 4.0), (0.9, -math.inf)])
def test_mindcf_of_constant_scores_is_one(p_target, threshold):
    assert minDCF([4.0] * 3, [4.0] * 5, p_target=p_target) == (1.0, threshold)


def test_mindcf_defaults_to_nist_2016_costs():
    scores = gaussian_scores()
    expected = minDCF(*scores, c_miss=1, c_fa=1, p_target=0.01, normalize=True)
    assert minDCF(*scores) == expected
    assert 0.0 < expected[0] < 1.0


@every_metric
def test_metric_ignores_order(metric):
    positive, negative = (np.round(s, 1) for s in gaussian_scores())
    expected = metric(positive, negative)
    assert metric(positive[::-1], np.sort(negative)) == expected


@every_metric
def test_metric_ignores_duplication(metric):
    positive, negative = gaussian_scores()
    expected = metric(positive, negative)
    assert metric(np.tile(positive, 3), negative) == expected
    assert metric(np.tile(positive, 3), np.tile(negative, 2)) == expected


@every_metric
def test_metric_follows_monotone_maps(metric):
    scores = gaussian_scores()
    value, threshold = metric(*scores)
    for change in (np.exp, np.arctan, lambda s: 3.0 * s - 1.0):
        mapped = metric(*map(change, scores))
        assert mapped == (value, pytest.approx(float(change(threshold))))


@every_metric
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_metric_threshold_gives_its_value_in_the_scores_own_type(metric, dtype):
    positive, negative = (torch.tensor(s).to(dtype) for s in gaussian_scores())
    value, threshold = metric(positive, negative)
    assert type(value) is float and type(threshold) is float
    accepted = (negative > threshold).double().mean().item()
    rejected = 1 - (positive > threshold).double().mean().item()
    found = {
        "EER": (accepted + rejected) / 2,
        "minDCF": rejected + 99 * accepted,
    }
    assert value == pytest.approx(found[metric.__name__], abs=1e-12)


@every_metric
def test_metric_takes_tensors_arrays_and_lists(metric):
    pair = gaussian_scores(20, 30)
    expected = metric(*pair)
    assert (
        metric(*(torch.tensor(s, requires_grad=True) for s in pair)) == expected
    )
    assert metric(*(s.tolist() for s in pair)) == expected
    assert metric(*(s.reshape(2, -1) for s in pair)) == expected
    if torch.cuda.is_available():
        assert metric(*(torch.tensor(s).cuda() for s in pair)) == expected


@every_metric
def test_metric_leaves_the_scores_alone(metric):
    pair = gaussian_scores()
    copies = [scores.copy() for scores in pair]
    metric(*map(torch.from_numpy, pair))
    metric(*pair)
    np.testing.assert_array_equal(np.concatenate(pair), np.concatenate(copies))


def test_error_curve_spans_accept_all_to_reject_all():
    scores = gaussian_scores()
    thresholds, accepted, rejected = error_curve(*scores)
    assert (thresholds[0], accepted[0], rejected[0]) == (-math.inf, 1.0, 0.0)
    highest = np.concatenate(scores).max()
    assert (thresholds[-1], accepted[-1], rejected[-1]) == (highest, 0.0, 1.0)
    assert (np.diff(thresholds) > 0).all()


@pytest.mark.parametrize(
    "function", [error_curve, *METRICS.values(), *OTHERS.values()]
)
def test_metrics_reject_one_class(function):
    with pytest.raises(ValueError, match="`positive_scores` .* got 0"):
        function([], [1.0])
    with pytest.raises(ValueError, match="`negative_scores` .* got 0"):
        function(torch.ones(3), torch.ones(0))


@pytest.mark.parametrize(
    "function", [error_curve, *METRICS.values(), *OTHERS.values()]
)
def test_metrics_reject_nan(function):
    with pytest.raises(ValueError, match="`negative_scores` .* got 2 of 3"):
        function([1.0], [math.nan, 0.0, math.nan])


@pytest.mark.parametrize(
    "name, value",
    [
        *[(cost, v) for cost in ("c_miss", "c_fa") for v in (0.0, -2.5)],
        ("c_fa", math.inf),
        ("c_miss", math.nan),
        *[("p_target", v) for v in (0.0, 1.0, 5.0, math.nan)],
    ],
)
def test_mindcf_rejects_bad_costs(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .* got {value}"):
        minDCF([1.0], [0.0], **{name: value})


def test_metrics_stay_fast_with_many_trials():
    # Quadratic code would need hours and terabytes.
    positive, negative = gaussian_scores(100_000, 900_000)
    assert EER(positive, negative)[0] == pytest.approx(0.226627, abs=3e-3)
    assert 0.5 < minDCF(positive, negative)[0] < 1.0


@few
@given(st.one_of(tied, any_scores), st.one_of(tied, any_scores))
def test_rates_at_a_bound_match_brute_force(positive, negative):
    points = brute_force(positive, negative)
    for bound in (0.0, 0.2, 0.5, 1.0):
        value, threshold = FAR_at_FRR(positive, negative, bound)
        allowed = [(a, t) for t, a, r in points if r <= bound]
        assert (value, threshold) == min(allowed, default=(1.0, -math.inf))
        value, threshold = FRR_at_FAR(positive, negative, bound)
        allowed = [(r, t) for t, a, r in points if a <= bound]
        assert (value, threshold) == min(allowed)


@few
@given(st.one_of(tied, any_scores), st.one_of(tied, any_scores))
def test_costs_of_ratios_match_brute_force(positive, negative):
    expected = [
        np.mean([np.logaddexp(0, -s) for s in positive]),
        np.mean([np.logaddexp(0, s) for s in negative]),
    ]
    expected = sum(expected) / (2 * math.log(2))
    assert Cllr(positive, negative) == pytest.approx(expected, rel=1e-9)
    for p_target in (0.01, 0.6):
        value, threshold = actDCF(positive, negative, 2.0, 3.0, p_target)
        assert threshold == math.log(3 * (1 - p_target) / (2 * p_target))
        accepted, rejected = rates(positive, negative, threshold)
        weights = 2.0 * p_target, 3.0 * (1 - p_target)
        cost = weights[0] * rejected + weights[1] * accepted
        assert value == pytest.approx(cost / min(weights), abs=1e-9)
        least, _ = minDCF(positive, negative, 2.0, 3.0, p_target)
        assert value >= least - 1e-12


@few
@given(tied, tied)
def test_least_cost_of_ratios_is_the_convex_hulls(positive, negative):
    # The definition by the ROC's convex hull: each hull segment's slope is
    # the ratio of the trials in it.
    points = sorted({(a, 1 - r) for _, a, r in brute_force(positive, negative)})
    hull = []
    for x, y in points:
        while (
            len(hull) > 1
            and (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1])
            >= (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) - 1e-12
        ):
            hull.pop()
        hull.append((x, y))
    cost = 0.0
    for (x0, y0), (x1, y1) in zip(hull, hull[1:], strict=False):
        f, t = x1 - x0, y1 - y0
        if t > 0:
            cost += t * math.log2(1 + f / t)
        if f > 0:
            cost += f * math.log2(1 + t / f)
    assert minCllr(positive, negative) == pytest.approx(cost / 2, abs=1e-9)


def test_least_cost_of_ratios_of_known_scores():
    assert minCllr([2.0, 3.0], [0.0, 1.0]) == 0.0
    assert minCllr([4.0] * 3, [4.0] * 5) == pytest.approx(1.0)
    # Gaussian log-likelihood ratios are calibrated: mean d^2 / 2, variance d^2
    generator = np.random.default_rng(0)
    positive = generator.normal(2.0, 2.0, 50_000)
    negative = generator.normal(-2.0, 2.0, 50_000)
    assert Cllr(positive, negative) == pytest.approx(
        minCllr(positive, negative), rel=0.01
    )
    assert Cllr([math.inf], [-math.inf]) == 0.0
    assert Cllr([-math.inf], [0.0]) == math.inf


@pytest.mark.parametrize("metric", OTHERS.values(), ids=OTHERS)
def test_metric_without_threshold_ignores_order_and_duplication(metric):
    positive, negative = (np.round(s, 1) for s in gaussian_scores())
    expected = pytest.approx(metric(positive, negative), abs=1e-12)
    assert metric(positive[::-1], np.sort(negative)) == expected
    assert metric(np.tile(positive, 3), np.tile(negative, 2)) == expected


@pytest.mark.parametrize("name", [*OTHERS])
def test_metric_of_order_follows_monotone_maps(name):
    if name in ("Cllr", "actDCF"):
        return  # the scores' values count
    scores = gaussian_scores()
    expected = pytest.approx(OTHERS[name](*scores), abs=1e-12)
    for change in (np.exp, np.arctan, lambda s: 3.0 * s - 1.0):
        assert OTHERS[name](*map(change, scores)) == expected


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_rates_at_a_bound_reject_no_rate(value):
    with pytest.raises(ValueError, match=f"`frr` must .* got {value}"):
        FAR_at_FRR([1.0], [0.0], value)
    with pytest.raises(ValueError, match=f"`far` must .* got {value}"):
        FRR_at_FAR([1.0], [0.0], value)
