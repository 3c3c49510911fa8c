"""How sure a figure is: bootstrap over the speakers of the trials."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.error_curve import ErrorCurve

logger = get_logger(__name__)


class SpeakerBootstrap:
    """Draws speakers with replacement and weighs the trials accordingly.

    Trials share speakers, so that drawing trials would give intervals far too
    narrow. A speaker drawn c times gives its target trials the weight c, and
    a nontarget trial has the product of both speakers' counts: trials between
    two copies of one speaker would be target trials and are left out.
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
        Draws, at least 2.
    seed : int
        Another seed draws others; the same draws serve every system.

    Raises
    ------
    ValueError
        If the lengths differ, a target trial has two speakers or a nontarget
        trial one, a class has no trial, or there are fewer than three
        speakers or two draws.

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
                "Targets and speakers must be equally many, got "
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
                "Target trials must have one speaker and others two, got "
                f"target {bool(self.targets[first])} of speakers "
                f"{enrol_speakers[first]} and {test_speakers[first]} at trial "
                f"{first}; name the speakers by which the labels were made."
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
        """Figures of each draw.

        Arguments
        ---------
        scores : np.ndarray
            Scores of the trials, [trials].
        functions : dict
            Maps a name to a function of an ``ErrorCurve`` that returns a
            number, or a tuple that begins with it.

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
                f"`scores` must be [{len(self.targets)}] and none NaN, got "
                f"{list(scores.shape)}, {int(np.isnan(scores).sum())} NaN."
            )
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        ends = np.append(ordered[1:] != ordered[:-1], True)
        # Without ties every point is one, and nothing is to be picked.
        ends = slice(None) if ends.all() else np.flatnonzero(ends)
        thresholds = np.append(-math.inf, ordered[ends])
        target = self.targets[order]
        # A target trial's second count is that of a speaker always drawn once.
        enrol = self.enrol[order].astype(np.intp)
        test = np.where(target, self.counts.shape[1] - 1, self.test[order])

        def of_draw(counts):
            """All figures of one draw."""
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
            return [np.ravel(figure(curve))[0] for figure in functions.values()]

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go
            drawn = np.array(list(pool.map(of_draw, self.counts)))
        return dict(zip(functions, drawn.T, strict=True))

    def _draw(self, speakers, replicates, seed):
        """Counts of each speaker and a last column of ones, [replicates, n]."""
        generator = np.random.default_rng(seed)
        pairs = np.unique(
            np.stack([self.enrol, self.test], 1)[~self.targets], axis=0
        )
        alone = np.unique(self.enrol[self.targets])
        counts = np.ones((replicates, speakers + 1), dtype=np.int64)
        for row in counts[:, :speakers]:
            while True:  # a draw without a class has no error rates
                drawn = generator.integers(speakers, size=speakers)
                row[:] = np.bincount(drawn, minlength=speakers)
                both = row[pairs[:, 0]] * row[pairs[:, 1]]
                if both.any() and row[alone].any():
                    break
        return counts


def speaker_bootstrap(
    targets, enrol_speakers, test_speakers, replicates=1000, seed=0, name=""
):
    """Draws the speakers of a trial list, or says why there is no interval.

    Arguments
    ---------
    targets : np.ndarray
        Same as in ``SpeakerBootstrap``.
    enrol_speakers : np.ndarray
        Same as in ``SpeakerBootstrap``.
    test_speakers : np.ndarray
        Same as in ``SpeakerBootstrap``.
    replicates : int
        Same as in ``SpeakerBootstrap``; 0 for no intervals.
    seed : int
        Same as in ``SpeakerBootstrap``.
    name : str
        The list, to be named in the log.

    Returns
    -------
    SpeakerBootstrap
        The draws; None where there are none, the log says why.

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
        logger.warning(f"{name} gets no intervals: {error}")
        return None


def interval(values, confidence=0.95):
    """The interval between two quantiles of bootstrapped figures.

    Arguments
    ---------
    values : np.ndarray
        A figure of each draw, [replicates].
    confidence : float
        Share of the draws in it, in (0, 1).

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
    """The difference of two systems on the same trials, with its interval.

    Arguments
    ---------
    bootstrap : SpeakerBootstrap
        The trials; both systems are measured on the same draws.
    first : np.ndarray
        Scores of the first system, [trials].
    second : np.ndarray
        Scores of the second system, [trials].
    functions : dict
        Same as in ``SpeakerBootstrap.evaluate``.
    confidence : float
        Same as in ``interval``.

    Returns
    -------
    dict
        Maps each name to a dict: ``first`` and ``second`` (the figures),
        ``first interval`` and ``second interval``, ``difference`` (first less
        second), its ``interval`` and ``p``, twice the smaller share of draws
        on one side of 0, at least 1 / replicates.

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
    for name, figure in functions.items():
        values = [np.ravel(figure(curve))[0].item() for curve in curves]
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
