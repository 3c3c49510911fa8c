"""Error curves on the probit axes of a detection error trade-off plot."""

import numpy as np
from scipy.special import ndtr, ndtri  # scipy.stats.norm.cdf and ppf

MOST_POINTS = 4000
LEAST_RATE = 1e-6
MOST_RATE = 0.9  # the axes are extended for minDCF points up to this rate
LEAST_SPAN = 1.5  # probits
LINE_WIDTH = 0.02  # probits, about the width of a drawn line
OUTSIDE = 6.0  # probits, for rates of 0 and 1, whose probits are infinite


def probit(rate, rates):
    """Probit of an error rate, limited to the range that its curve resolves.

    Arguments
    ---------
    rate : float
        Error rate, in [0, 1].
    rates : np.ndarray
        All rates of the same kind on the curve, [points].

    Returns
    -------
    float
        Finite, also for a rate of 0 or 1.

    Example
    -------
    >>> float(probit(0.5, np.array([0.0, 0.5, 1.0])))
    0.0
    """
    least = max(np.min(rates, where=rates > 0, initial=0.5), LEAST_RATE)
    return ndtri(np.clip(rate, least, 1 - least))


def least_cost_rates(curve, p_target):
    """Both error rates at the minimum detection cost, see ``minDCF``.

    Arguments
    ---------
    curve : speechbrain_ext.utils.error_curve.ErrorCurve
        The curve.
    p_target : float
        Prior probability of a target trial; both costs are 1.

    Returns
    -------
    list of float
        False acceptance and false rejection rate.

    Raises
    ------
    ValueError
        If ``p_target`` is outside (0, 1).

    Example
    -------
    >>> from speechbrain_ext.utils.error_curve import ErrorCurve
    >>> scores = [0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]
    >>> least_cost_rates(ErrorCurve.from_scores(*scores), 0.5)
    [0.0, 0.25]
    """
    threshold = curve.min_dcf(p_target=p_target)[1]
    point = np.searchsorted(curve.thresholds, threshold)
    return [float(rates[point]) for rates in curve.rates()]


def coincide(one, other):
    """Whether the distance of two curves is below the width of a line.

    Arguments
    ---------
    one : tuple of np.ndarray
        False acceptance and false rejection rates, [points] each.
    other : tuple of np.ndarray
        The rates of another curve, [other points] each.

    Returns
    -------
    bool
        Whether they look like one curve in a plot.

    Example
    -------
    >>> curve = np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0])
    >>> coincide(curve, curve), coincide(curve, (curve[0], curve[1] ** 2))
    (True, False)
    """
    # y - x increases along a curve, so x + y is a function of it
    turned = [(y - x, x + y) for x, y in (_probits(*one), _probits(*other))]
    along = np.union1d(turned[0][0], turned[1][0])
    across = [np.interp(along, *curve) for curve in turned]
    return bool(np.abs(across[0] - across[1]).max() < LINE_WIDTH)


def thinned_probits(acceptance_rates, rejection_rates):
    """A curve in probits, without points that are too close to be seen.

    Arguments
    ---------
    acceptance_rates : np.ndarray
        False acceptance rates, [points].
    rejection_rates : np.ndarray
        False rejection rates, [points].

    Returns
    -------
    tuple of np.ndarray
        Both rates in probits, at most ``MOST_POINTS`` points. Rates of 0 and 1
        lie outside of any plot.

    Example
    -------
    >>> x, y = thinned_probits(np.array([1.0, 0.5, 0.0]), np.array([0, 0.5, 1]))
    >>> x.tolist()
    [6.0, 0.0, -6.0]
    """
    x, y = _probits(acceptance_rates, rejection_rates)
    if len(x) <= MOST_POINTS:
        return x, y
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    kept = np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS // 2))
    # Keep both ends of every jump; otherwise it would become a slope.
    kept = np.unique(np.clip([kept - 1, kept], 0, len(x) - 1))
    return x[kept], y[kept]


def probit_limits(curves, equal, costs=()):
    """Limits of both axes of a plot.

    Arguments
    ---------
    curves : iterable of tuple
        False acceptance and false rejection rates of each curve, [points].
    equal : iterable of float
        Equal error rate of each curve.
    costs : iterable of list
        Further points (both rates) to include, if they are below 90 %.

    Returns
    -------
    list of tuple
        Lower and upper limit of either axis, in probits.

    Example
    -------
    >>> curve = np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0])
    >>> probit_limits([curve], [0.5])
    [(-0.75, 0.75), (-0.75, 0.75)]
    """
    equal, costs = list(equal), list(costs)
    # Half a probit beyond the worst equal error rate, at least 50 %.
    worst = ndtr(ndtri(min(max(equal), 1 - LEAST_RATE)) + 0.5)
    near = [rate for point in costs for rate in point if rate <= MOST_RATE]
    most = max(0.5, worst, *near)
    seen = ([], [])
    for curve, rate in zip(curves, equal, strict=True):
        shown = np.ones(curve[0].shape, dtype=bool)
        for rates in curve:
            shown &= (rates >= LEAST_RATE) & (rates <= most)
        for values, rates in zip(seen, curve, strict=True):
            values.append(probit(rate, rates))
            if shown.any():
                values.append(ndtri(rates[shown].min()))
                values.append(ndtri(rates[shown].max()))
    for point in costs:
        for values, rate in zip(seen, point, strict=True):
            if LEAST_RATE <= rate <= MOST_RATE:
                values.append(ndtri(rate))
    limits = []
    for values in seen:
        low, high = float(min(values)), float(max(values))
        margin = max(0.04 * (high - low), (LEAST_SPAN - (high - low)) / 2)
        limits.append((low - margin, high + margin))
    return limits


def _probits(acceptance_rates, rejection_rates):
    """A curve in probits, [points]."""
    x = np.clip(ndtri(acceptance_rates), -OUTSIDE, OUTSIDE)
    y = np.clip(ndtri(rejection_rates), -OUTSIDE, OUTSIDE)
    return x, y
