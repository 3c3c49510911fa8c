"""The error curve from which every detection metric is computed.

A trial is accepted if ``score > threshold``. Equal scores are accepted or
rejected together, so no metric depends on the order of the trials.

Every threshold is one of the scores, or -inf to accept all trials. Applied to
the same scores, in their float type, a threshold gives exactly the stated
rates. Infinite scores are allowed, since log-likelihood ratios can be
infinite. A score of +inf is accepted at every finite threshold. A score of
-inf is never accepted, so a curve with such scores starts at the point where
all others are accepted.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.optimize import isotonic_regression


class ErrorCurve(NamedTuple):
    """Errors at every distinct operating point, counted or weighted.

    ``speechbrain_ext.utils.metrics`` defines each metric in a function of its
    own. The methods here compute several metrics after sorting the scores
    only once.

    Arguments
    ---------
    thresholds : np.ndarray
        Increasing, [points]: -inf, then each distinct score.
    accepted : np.ndarray
        Negative trials above each threshold, [points].
    rejected : np.ndarray
        Positive trials at or below each threshold, [points].
    negatives : int
        Number of negative trials, or their total weight.
    positives : int
        Number of positive trials, or their total weight.

    Example
    -------
    >>> curve = ErrorCurve.from_scores([0.2, 0.8], [0.1, 0.2])
    >>> curve.accepted.tolist(), curve.rejected.tolist()
    ([2, 1, 0, 0], [0, 0, 1, 2])
    >>> curve.eer()
    (0.25, 0.1)
    """

    thresholds: np.ndarray
    accepted: np.ndarray
    rejected: np.ndarray
    negatives: int
    positives: int

    @classmethod
    def from_scores(cls, positive_scores, negative_scores):
        """Sorts the scores and counts the errors.

        Arguments
        ---------
        positive_scores : torch.Tensor | np.ndarray | sequence
            Scores of the target trials, of any shape and on any device;
            compared in float64.
        negative_scores : torch.Tensor | np.ndarray | sequence
            Scores of the non-target trials.

        Returns
        -------
        ErrorCurve
            The exact counts.

        Raises
        ------
        ValueError
            If a class has no score, or a score is NaN.
        """
        positive = _sorted_scores(positive_scores, "positive_scores")
        negative = _sorted_scores(negative_scores, "negative_scores")
        # Both are sorted: one search merges them.
        total = positive.size + negative.size
        below = np.searchsorted(negative, positive, side="right")
        is_positive = np.zeros(total, dtype=bool)
        is_positive[below + np.arange(positive.size)] = True
        merged = np.empty(total)
        merged[is_positive], merged[~is_positive] = positive, negative
        ends = np.flatnonzero(np.append(merged[1:] != merged[:-1], True))
        # The first point accepts all trials, unless there are scores of -inf.
        first = int(merged[0] != -math.inf)
        thresholds, accepted, rejected = (
            np.empty(len(ends) + first, dtype=kind)
            for kind in (float, np.int64, np.int64)
        )
        thresholds[:first], rejected[:first] = -math.inf, 0
        thresholds[first:] = merged[ends]
        rejected[first:] = np.cumsum(is_positive)[ends]
        accepted[:first] = negative.size
        accepted[first:] = negative.size - 1 - ends + rejected[first:]
        return cls(thresholds, accepted, rejected, negative.size, positive.size)

    def rates(self):
        """False acceptance and false rejection rates.

        Returns
        -------
        tuple of np.ndarray
            Both of shape [points].
        """
        return self.accepted / self.negatives, self.rejected / self.positives

    def eer(self):
        """Equal error rate, see ``metrics.EER``.

        Returns
        -------
        tuple of float
            Equal error rate and threshold.
        """
        # FAR - FRR decreases along the curve: bisect for the least |gap|.
        last = len(self.thresholds) - 1
        after = self._first_at_most(0, last)
        best = after
        if after > 0:
            before = self._first_at_most(self._gap(after - 1), after)
            lower = self._gap(before) <= -self._gap(after)
            # in a tie with the first point, take the finite threshold
            if lower and (before or self._gap(before) != -self._gap(after)):
                best = before
        accepted = self.accepted[best] / self.negatives
        rejected = self.rejected[best] / self.positives
        return float((accepted + rejected) / 2), float(self.thresholds[best])

    def min_dcf(self, c_miss=1.0, c_fa=1.0, p_target=0.01, normalize=True):
        """Minimum detection cost, see ``metrics.minDCF``.

        Arguments
        ---------
        c_miss : float
            Cost of a false rejection.
        c_fa : float
            Cost of a false acceptance.
        p_target : float
            Prior probability of a target trial.
        normalize : bool
            Whether to divide by the cost of the better trivial system.

        Returns
        -------
        tuple of float
            Least cost and threshold.
        """
        miss, accept = _operating_point(c_miss, c_fa, p_target)
        costs = self.rejected * (miss / self.positives)
        costs += self.accepted * (accept / self.negatives)
        # costs that only rounding tells apart are equal: the lowest threshold
        best = int(np.argmax(costs <= costs.min() * (1 + 1e-12)))
        scale = min(miss, accept) if normalize else 1.0
        return float(costs[best] / scale), float(self.thresholds[best])

    def act_dcf(self, c_miss=1.0, c_fa=1.0, p_target=0.01, normalize=True):
        """Actual detection cost, see ``metrics.actDCF``.

        Arguments
        ---------
        c_miss : float
            Cost of a false rejection.
        c_fa : float
            Cost of a false acceptance.
        p_target : float
            Prior probability of a target trial.
        normalize : bool
            Whether to divide by the cost of the better trivial system.

        Returns
        -------
        tuple of float
            Cost and Bayes threshold.
        """
        miss, accept = _operating_point(c_miss, c_fa, p_target)
        threshold = math.log(accept / miss)
        at = np.searchsorted(self.thresholds, threshold, side="right") - 1
        cost = miss * self.rejected[at] / self.positives
        cost += accept * self.accepted[at] / self.negatives
        scale = min(miss, accept) if normalize else 1.0
        return float(cost / scale), threshold

    def cllr(self):
        """Log-likelihood-ratio cost, see ``metrics.Cllr``.

        Returns
        -------
        float
            Cost in bits.
        """
        return self._cost_of_ratios(self.thresholds, *self._masses())

    def min_cllr(self):
        """Minimum log-likelihood-ratio cost, see ``metrics.minCllr``.

        Returns
        -------
        float
            Cost in bits.
        """
        positive, negative = self._masses()
        occurs = positive + negative > 0
        positive, negative = positive[occurs], negative[occurs]
        total = positive + negative
        shares = isotonic_regression(positive / total, weights=total).x
        with np.errstate(divide="ignore"):
            ratios = np.log(shares) - np.log1p(-shares)
        ratios -= math.log(self.positives / self.negatives)
        return self._cost_of_ratios(ratios, positive, negative)

    def area(self):
        """Area under the ROC curve, see ``metrics.ROC_AUC``.

        Returns
        -------
        float
            Area under the receiver operating characteristic.
        """
        accepted, rejected = self.rates()
        # -inf is never accepted, so the end may be missing in the curve
        true_rates = np.append(1 - rejected[::-1], 1.0)
        return float(trapezoid(true_rates, np.append(accepted[::-1], 1.0)))

    def _gap(self, point):
        """(FAR - FRR) * negatives * positives, an exact integer."""
        accepted = int(self.accepted[point]) * int(self.positives)
        return accepted - int(self.rejected[point]) * int(self.negatives)

    def _first_at_most(self, gap, high):
        """The first point whose gap is at most ``gap``; not after ``high``."""
        low = 0
        while low < high:
            middle = (low + high) // 2
            if self._gap(middle) <= gap:
                high = middle
            else:
                low = middle + 1
        return low

    def _masses(self):
        """Positive and negative trials at each threshold, [points]."""
        positive = np.diff(self.rejected, prepend=0)
        negative = -np.diff(self.accepted, prepend=self.negatives)
        return positive, negative

    def _cost_of_ratios(self, ratios, positive, negative):
        """Mean cost in bits of log-likelihood ratios, [points]."""
        # skip ratios without trials: their product may be 0 * inf
        targets, others = positive > 0, negative > 0
        miss = np.logaddexp(0, -ratios[targets]) @ positive[targets]
        accept = np.logaddexp(0, ratios[others]) @ negative[others]
        cost = miss / self.positives + accept / self.negatives
        return float(cost / (2 * math.log(2)))


def _operating_point(c_miss, c_fa, p_target):
    """Checked weights of both error rates."""
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
    return c_miss * p_target, c_fa * (1 - p_target)


def _sorted_scores(scores, name):
    """A sorted float64 copy of the scores of one class, [trials]."""
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().to("cpu", torch.float64).numpy()
    scores = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not scores.size:
        raise ValueError(
            f"`{name}` must have at least one score, got 0: error rates need "
            "both positive and negative trials."
        )
    undefined = int(np.count_nonzero(np.isnan(scores)))
    if undefined:
        raise ValueError(
            f"`{name}` must not contain NaN, got {undefined} of {scores.size}; "
            "look for silent or broken utterances among the trials."
        )
    return scores
