"""Confidence intervals of error rates: a bootstrap over speakers."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.error_curve import ErrorCurve

logger = get_logger(__name__)


class SpeakerBootstrap:
    """Draws speakers with replacement and weights the trials accordingly.

    Trials share speakers, so intervals from drawn trials would be far too
    narrow. The target trials of a speaker that is drawn c times have the
    weight c. A nontarget trial has the product of the counts of its two
    speakers. Trials between two copies of one speaker would be target trials,
    so they are left out.
    References: Bisani and Ney, "Bootstrap estimates for confidence intervals
    in ASR performance evaluation", ICASSP 2004; Snijders and Borgatti,
    "Non-parametric standard errors and tests for network statistics",
    Connections 1999 (draws of nodes).

    Arguments
    ---------
    targets : np.ndarray | sequence
        True for target trials, [trials].
    enrol_speakers : np.ndarray | sequence
        Speaker of each trial's enrolment utterance, [trials].
    test_speakers : np.ndarray | sequence
        Speaker of each trial's test utterance, [trials].
    replicates : int
        Number of draws, at least 2.
    seed : int
        Seed of the draws. All systems are evaluated on the same draws.

    Raises
    ------
    ValueError
        If the lengths differ, a target trial has two speakers, a nontarget
        trial has only one, there are no target or no nontarget trials, there
        are fewer than three speakers, or ``replicates`` is below 2.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> enrol, test = rng.integers(20, size=(2, 500))
    >>> test = np.where(np.arange(500) % 2, enrol, test)
    >>> scores = (enrol == test) + rng.normal(size=500)
    >>> bootstrap = SpeakerBootstrap(enrol == test, enrol, test, 100)
    >>> drawn = bootstrap.evaluate(scores, {"EER": ErrorCurve.eer})
    >>> low, high = interval(drawn["EER"])
    >>> bool(low < drawn["EER"].mean() < high)
    True
    """

    def __init__(
        self, targets, enrol_speakers, test_speakers, replicates=1000, seed=0
    ):
        self.targets = np.asarray(targets, dtype=bool)
        number = len(self.targets)
        if {len(enrol_speakers), len(test_speakers)} != {number}:
            raise ValueError(
                "Targets and speakers must have the same length, got "
                f"{number}, {len(enrol_speakers)} and {len(test_speakers)}."
            )
        names, codes = np.unique(
            np.concatenate([enrol_speakers, test_speakers]),
            return_inverse=True,
        )
        self.enrol, self.test = codes[:number], codes[number:]
        wrong = np.flatnonzero((self.enrol == self.test) != self.targets)
        if len(wrong):
            first = wrong[0]
            raise ValueError(
                "Target trials must have one speaker and nontarget trials "
                f"two, got target {bool(self.targets[first])} for speakers "
                f"{enrol_speakers[first]} and {test_speakers[first]} at trial "
                f"{first}; correct the labels, or use the speakers that they "
                "were made from."
            )
        if self.targets.all() or not self.targets.any():
            raise ValueError(
                "Error rates need target and nontarget trials, got "
                f"{int(self.targets.sum())} targets of {number}."
            )
        if len(names) < 3 or replicates < 2:
            raise ValueError(
                "A bootstrap needs 3 speakers and 2 replicates, got "
                f"{len(names)} and {replicates}."
            )
        self.counts = self._draw(len(names), replicates, seed)

    def evaluate(self, scores, functions):
        """Computes metrics for each draw.

        Arguments
        ---------
        scores : np.ndarray
            Scores of the trials, [trials].
        functions : dict
            Maps a name to a function of an ``ErrorCurve`` that returns a
            number, or a tuple whose first element is that number.

        Returns
        -------
        dict
            Maps each name to its values, [replicates].

        Raises
        ------
        ValueError
            If a score is NaN or the number of scores is wrong.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != self.targets.shape or np.isnan(scores).any():
            raise ValueError(
                f"`scores` must have shape [{len(self.targets)}] and no NaN, "
                f"got {list(scores.shape)}, {int(np.isnan(scores).sum())} NaN."
            )
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        ends = np.append(ordered[1:] != ordered[:-1], True)
        # Without ties every score is a point of the curve.
        ends = slice(None) if ends.all() else np.flatnonzero(ends)
        thresholds = np.append(-math.inf, ordered[ends])
        target = self.targets[order]
        # A target trial counts its speaker once: its second count is 1.
        enrol = self.enrol[order].astype(np.intp)
        test = np.where(target, self.counts.shape[1] - 1, self.test[order])

        def evaluate_draw(counts):
            """All metrics of one draw."""
            weights = counts[enrol] * counts[test]
            rejected = np.zeros(len(thresholds), dtype=np.int64)
            accepted = np.zeros(len(thresholds), dtype=np.int64)
            seen = np.cumsum(weights)
            accepted[1:] = seen[ends]
            weights *= target
            rejected[1:] = np.cumsum(weights, out=weights)[ends]
            positives = int(rejected[-1])
            negatives = int(accepted[-1]) - positives
            np.subtract(rejected, accepted, out=accepted)
            accepted += negatives
            curve = ErrorCurve(
                thresholds, accepted, rejected, negatives, positives
            )
            return [np.ravel(metric(curve))[0] for metric in functions.values()]

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # no GIL in numpy
            drawn = np.array(list(pool.map(evaluate_draw, self.counts)))
        return dict(zip(functions, drawn.T, strict=True))

    def _draw(self, speakers, replicates, seed):
        """Counts of the speakers, last column 1, [replicates, speakers + 1]."""
        generator = np.random.default_rng(seed)
        pairs = np.unique(
            np.stack([self.enrol, self.test], 1)[~self.targets], axis=0
        )
        alone = np.unique(self.enrol[self.targets])
        counts = np.ones((replicates, speakers + 1), dtype=np.int64)
        for row in counts[:, :speakers]:
            while True:  # until both kinds of trials are drawn
                drawn = generator.integers(speakers, size=speakers)
                row[:] = np.bincount(drawn, minlength=speakers)
                both = row[pairs[:, 0]] * row[pairs[:, 1]]
                if both.any() and row[alone].any():
                    break
        return counts


def speaker_bootstrap(
    targets, enrol_speakers, test_speakers, replicates=1000, seed=0, name=""
):
    """Makes a ``SpeakerBootstrap``, or logs why that is impossible.

    Arguments
    ---------
    targets : np.ndarray
        True for target trials, [trials].
    enrol_speakers : np.ndarray
        Speaker of each trial's enrolment utterance, [trials].
    test_speakers : np.ndarray
        Speaker of each trial's test utterance, [trials].
    replicates : int
        Number of draws, at least 2; 0 turns the bootstrap off.
    seed : int
        Seed of the draws.
    name : str
        Name of the trial list, for the log.

    Returns
    -------
    SpeakerBootstrap
        The draws, or None if there is no bootstrap.

    Example
    -------
    >>> targets = np.array([True, False])
    >>> speaker_bootstrap(targets, ["a", "a"], ["a", "b"], 10, 0, "toy")
    """
    if not replicates:
        return None
    try:
        return SpeakerBootstrap(
            targets, enrol_speakers, test_speakers, replicates, seed
        )
    except ValueError as error:
        logger.warning(f"{name} has no confidence intervals: {error}")
        return None


def interval(values, confidence=0.95):
    """Percentile interval of a bootstrapped metric.

    Arguments
    ---------
    values : np.ndarray
        Metric of each draw, [replicates].
    confidence : float
        Share of the draws inside the interval, in (0, 1).

    Returns
    -------
    tuple of float
        Lower and upper end.

    Raises
    ------
    ValueError
        If ``confidence`` is outside (0, 1).

    Example
    -------
    >>> interval(np.arange(101), confidence=0.5)
    (25.0, 75.0)
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must be in (0, 1), got {confidence}; 0.95 is usual."
        )
    ends = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(ends[0]), float(ends[1])


def compare(bootstrap, first, second, functions, confidence=0.95):
    """Compares two systems on the same trials: differences and intervals.

    Arguments
    ---------
    bootstrap : SpeakerBootstrap
        The trials. Both systems are evaluated on the same draws.
    first : np.ndarray
        Scores of the first system, [trials].
    second : np.ndarray
        Scores of the second system, [trials].
    functions : dict
        Metrics, see ``SpeakerBootstrap.evaluate``.
    confidence : float
        Share of the draws inside an interval, in (0, 1).

    Returns
    -------
    dict
        Maps each name to a dict: ``first`` and ``second`` (the metric of each
        system), ``first interval`` and ``second interval``, ``difference``
        (first minus second), its ``interval``, and ``p``: twice the share of
        draws on the less frequent side of 0, at least 1 / replicates.

    Example
    -------
    >>> enrol, test = np.arange(40) // 4, np.arange(40) // 2 % 10
    >>> trials = SpeakerBootstrap(enrol == test, enrol, test, 50)
    >>> scores = np.arange(40.0)
    >>> found = compare(trials, scores, scores, {"EER": ErrorCurve.eer})
    >>> found["EER"]["difference"], found["EER"]["interval"]
    (0.0, (0.0, 0.0))
    """
    targets = bootstrap.targets
    curves = [
        ErrorCurve.from_scores(scores[targets], scores[~targets])
        for scores in (np.asarray(first), np.asarray(second))
    ]
    drawn = [
        bootstrap.evaluate(scores, functions) for scores in (first, second)
    ]
    found = {}
    for name, metric in functions.items():
        values = [np.ravel(metric(curve))[0].item() for curve in curves]
        one, other = (draws[name] for draws in drawn)
        smaller = min(np.mean(one >= other), np.mean(one <= other))
        found[name] = {
            "first": values[0],
            "first interval": interval(one, confidence),
            "second": values[1],
            "second interval": interval(other, confidence),
            "difference": values[0] - values[1],
            "interval": interval(one - other, confidence),
            "p": float(np.clip(2 * smaller, 1 / len(one), 1.0)),
        }
    return found
