"""Detection metrics of speaker verification, read off one error curve.

A trial is accepted where ``score > threshold``. Equal scores are accepted or
rejected together, so no metric depends on the order of the trials.

Every threshold is one of the scores, or -inf to accept all: applied to the
same scores, in the float type they had, it gives exactly the stated rates.
Infinite scores are allowed (log-likelihood ratios have them): +inf is accepted
at every finite threshold, and -inf nowhere, so that a curve with scores of
-inf starts where all that can be accepted is.
"""

import math

import numpy as np
import torch
from scipy.integrate import trapezoid


def error_curve(positive_scores, negative_scores):
    """Computes both error rates at every distinct operating point.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, of any shape and on any device; compared
        in float64.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the non-target trials.

    Returns
    -------
    thresholds : np.ndarray
        Increasing, [points]: -inf, which accepts all, then each distinct
        score; the highest rejects all.
    false_acceptance_rates : np.ndarray
        Share of the negative scores > thresholds[i], [points].
    false_rejection_rates : np.ndarray
        Share of the positive scores <= thresholds[i], [points].

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> curve = error_curve([0.2, 0.8], [0.1, 0.2])
    >>> for values in curve:
    ...     print(values.tolist())
    [-inf, 0.1, 0.2, 0.8]
    [1.0, 0.5, 0.0, 0.0]
    [0.0, 0.0, 0.5, 1.0]
    """
    positive = _sorted_scores(positive_scores, "positive_scores")
    negative = _sorted_scores(negative_scores, "negative_scores")
    thresholds, accepted, rejected = _count_errors(positive, negative)
    return thresholds, accepted / negative.size, rejected / positive.size


def ROC_AUC(positive_scores, negative_scores):
    """Computes the area under the receiver operating characteristic.

    It is the chance that a positive score is above a negative one, equal
    scores counting half.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        As in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        As in ``error_curve``.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance.

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> ROC_AUC([0.2, 0.8], [0.1, 0.2])
    0.875
    """
    _, accepted, rejected = error_curve(positive_scores, negative_scores)
    # scores of -inf are accepted at no threshold: the end is not on the curve
    true_rates = np.append(1 - rejected[::-1], 1.0)
    return float(trapezoid(true_rates, np.append(accepted[::-1], 1.0)))


def EER(positive_scores, negative_scores):
    """Computes the equal error rate and its threshold.

    (FAR + FRR) / 2 where |FAR - FRR| is least, at the lowest such score, as in
    ``speechbrain.utils.metric_stats.EER``; in O(n log n) and on exact counts
    where that takes O(n^2) on float32 rates. NIST's scripts interpolate
    between two points instead: less than one trial of the smaller class away
    where no scores are tied.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.

    Returns
    -------
    value : float
        Equal error rate, a fraction in [0, 1]; 0.5 where all scores are equal.
    threshold : float
        Accept where score > threshold.

    Raises
    ------
    ValueError
        Same as ``error_curve``.

    Example
    -------
    >>> EER([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4])
    (0.25, 0.3)
    """
    positive = _sorted_scores(positive_scores, "positive_scores")
    negative = _sorted_scores(negative_scores, "negative_scores")
    thresholds, accepted, rejected = _count_errors(positive, negative)
    # |FAR - FRR| times both class sizes, in integers: a tie is a tie.
    gaps = np.abs(accepted * positive.size - rejected * negative.size)
    best = int(np.argmin(gaps))
    if best == 0 and gaps[0] == gaps[1:].min(initial=gaps[0] + 1):
        # A tie of -inf with a score: prefer a threshold that is finite.
        best = 1 + int(np.argmin(gaps[1:]))
    value = accepted[best] / negative.size + rejected[best] / positive.size
    return float(value / 2), float(thresholds[best])


def minDCF(
    positive_scores,
    negative_scores,
    c_miss=1.0,
    c_fa=1.0,
    p_target=0.01,
    normalize=True,
):
    """Computes the least detection cost and its threshold.

    The cost is c_miss * p_target * FRR + c_fa * (1 - p_target) * FAR; of equal
    costs the lowest threshold counts. NIST and the literature divide by the
    cost of the better of accepting all and rejecting all, so that 1 is the
    cost of a system that knows nothing; ``speechbrain.utils.metric_stats``
    does not (``normalize=False``).

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    c_miss : float
        Cost of a false rejection, positive.
    c_fa : float
        Cost of a false acceptance, positive.
    p_target : float
        Prior probability of a target trial, in (0, 1).
    normalize : bool
        Whether to divide by min(c_miss * p_target, c_fa * (1 - p_target)).

    Returns
    -------
    value : float
        Least cost.
    threshold : float
        Accept where score > threshold; -inf where accepting all is best.

    Raises
    ------
    ValueError
        If a cost is not positive and finite or ``p_target`` is outside (0, 1);
        else same as ``error_curve``.

    Example
    -------
    >>> positive, negative = [0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]
    >>> minDCF(positive, negative, p_target=0.5)
    (0.25, 0.4)
    >>> minDCF(positive, negative, p_target=0.5, normalize=False)
    (0.125, 0.4)
    """
    for name, cost in (("c_miss", c_miss), ("c_fa", c_fa)):
        if not 0 < cost < math.inf:
            raise ValueError(
                f"`{name}` must be positive and finite, got {cost}."
            )
    if not 0 < p_target < 1:
        raise ValueError(
            f"`p_target` must be a probability in (0, 1), got {p_target}; "
            "pass a fraction, not percent."
        )
    thresholds, accepted_rates, rejected_rates = error_curve(
        positive_scores, negative_scores
    )
    miss_weight, accept_weight = c_miss * p_target, c_fa * (1 - p_target)
    costs = miss_weight * rejected_rates + accept_weight * accepted_rates
    best = int(np.argmin(costs))
    scale = min(miss_weight, accept_weight) if normalize else 1.0
    return float(costs[best] / scale), float(thresholds[best])


def _sorted_scores(scores, name):
    """Scores of one class as a sorted float64 array of its own, [trials]."""
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().to("cpu", torch.float64).numpy()
    scores = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not scores.size:
        raise ValueError(
            f"`{name}` must hold at least one score, got 0: error rates need "
            "both positive and negative trials."
        )
    undefined = int(np.count_nonzero(np.isnan(scores)))
    if undefined:
        raise ValueError(
            f"`{name}` must not hold NaN, got {undefined} of {scores.size}; "
            "look for silent or broken utterances among the trials."
        )
    return scores


def _count_errors(positive, negative):
    """Distinct thresholds, false acceptances and false rejections, [points]."""
    thresholds = np.concatenate([[-math.inf], positive, negative])
    thresholds.sort(kind="stable")  # timsort: linear on sorted runs
    distinct = np.append(True, thresholds[1:] != thresholds[:-1])
    thresholds = thresholds[distinct]
    rejected = np.searchsorted(positive, thresholds, side="right")
    accepted = np.searchsorted(negative, thresholds, side="right")
    return thresholds, negative.size - accepted, rejected
