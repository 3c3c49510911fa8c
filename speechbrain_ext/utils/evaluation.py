"""The metrics of a results table, by name."""

from functools import partial

import numpy as np
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.bootstrap import interval
from speechbrain_ext.utils.error_curve import ErrorCurve

logger = get_logger(__name__)

# Below these counts a metric is rough and its interval is not reliable
FEWEST_TRIALS = 30  # of each kind: one error is more than 3 %
FEWEST_SPEAKERS = 10  # that the bootstrap draws


def metric_functions(p_targets=(0.01, 0.05), calibrated=False):
    """The metrics of a results table, as functions of an ``ErrorCurve``.

    Arguments
    ---------
    p_targets : sequence of float
        Priors of the detection costs; both costs are 1.
    calibrated : bool
        Whether the scores are log-likelihood ratios. Only then actDCF, Cllr
        and minCllr are included.

    Returns
    -------
    dict
        Maps names to functions that return a number, or a tuple whose first
        element is that number.

    Example
    -------
    >>> list(metric_functions([0.01]))
    ['EER %', 'minDCF 0.01']
    """
    found = {"EER %": _percent}
    for p_target in p_targets:
        found[f"minDCF {p_target}"] = partial(
            ErrorCurve.min_dcf, p_target=p_target
        )
    if calibrated:
        for p_target in p_targets:
            found[f"actDCF {p_target}"] = partial(
                ErrorCurve.act_dcf, p_target=p_target
            )
        found["Cllr"] = ErrorCurve.cllr
        found["minCllr"] = ErrorCurve.min_cllr
    return found


def evaluate(scores, targets, functions, bootstrap=None, confidence=0.95):
    """Computes the metrics of one trial list, with their intervals.

    Arguments
    ---------
    scores : np.ndarray
        Scores, [trials].
    targets : np.ndarray
        True for target trials, [trials].
    functions : dict
        Metrics, see ``metric_functions``.
    bootstrap : SpeakerBootstrap
        Draws of the list's speakers; None for no intervals.
    confidence : float
        Confidence level of the intervals, in (0, 1).

    Returns
    -------
    dict
        Each metric, followed by ``<name> interval`` if there is a bootstrap,
        and ``EER threshold``.

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> scores, targets = np.array([0.9, 0.8, 0.1]), np.array([1, 1, 0]) > 0
    >>> evaluate(scores, targets, metric_functions([]))
    {'EER %': 0.0, 'EER threshold': 0.1}
    """
    curve = ErrorCurve.from_scores(scores[targets], scores[~targets])
    drawn = bootstrap.evaluate(scores, functions) if bootstrap else {}
    row = {}
    for name, function in functions.items():
        row[name] = float(np.ravel(function(curve))[0])
        if name in drawn:
            row[f"{name} interval"] = interval(drawn[name], confidence)
    return {**row, "EER threshold": curve.eer()[1]}


def evaluation_notes(row, targets, speakers=None):
    """Warns about results that are not reliable.

    There are two rules. Fewer than 30 target trials, 30 nontarget trials or 10
    speakers are too few for an interval: if no error occurs, the interval of
    any system is ``[0, 0]``. A Cllr above 1.2 * minCllr + 0.02 shows that the
    calibration does not fit.

    Arguments
    ---------
    row : dict
        Result of ``evaluate``.
    targets : np.ndarray
        True for target trials, [trials].
    speakers : int
        Number of speakers in the trials; None if it is not known.

    Returns
    -------
    list of str
        Warnings; empty if neither rule applies.

    Example
    -------
    >>> row = {"EER %": 0.0, "Cllr": 0.8, "minCllr": 0.1}
    >>> for note in evaluation_notes(row, np.array([True, False]), 2):
    ...     print(note)
    1 target and 1 nontarget trials of 2 speakers are too few: metrics and \
their intervals need 30 trials of each kind and 10 speakers.
    Cllr is 0.800, but minCllr is 0.100: the calibration does not fit these \
trials; fit it on similar speech (`calibration_manifest`).
    """
    notes = []
    positive, negative = int(np.sum(targets)), int(np.sum(~targets))
    few = speakers is not None and speakers < FEWEST_SPEAKERS
    if few or min(positive, negative) < FEWEST_TRIALS:
        of = "" if speakers is None else f" of {speakers} speakers"
        notes.append(
            f"{positive} target and {negative} nontarget trials{of} are too "
            f"few: metrics and their intervals need {FEWEST_TRIALS} trials of "
            f"each kind and {FEWEST_SPEAKERS} speakers."
        )
    if is_miscalibrated(row):
        notes.append(
            f"Cllr is {row['Cllr']:.3f}, but minCllr is {row['minCllr']:.3f}: "
            "the calibration does not fit these trials; fit it on similar "
            "speech (`calibration_manifest`)."
        )
    return notes


def is_miscalibrated(row):
    """Whether Cllr is above 1.2 * minCllr + 0.02.

    Arguments
    ---------
    row : dict
        Result of ``evaluate``.

    Returns
    -------
    bool
        False also for scores that are not calibrated.

    Example
    -------
    >>> is_miscalibrated({"Cllr": 0.3, "minCllr": 0.1})
    True
    """
    return "Cllr" in row and row["Cllr"] > 1.2 * row["minCllr"] + 0.02


def log_notes(name, rows):
    """Logs each note on a list once, with the scorings that it applies to.

    Arguments
    ---------
    name : str
        Name of the list.
    rows : list of dict
        Rows of the list, each with ``scoring`` and ``notes`` (list of str).

    Example
    -------
    >>> log_notes("O", [{"scoring": "cosine", "notes": ["Too few."]}])
    """
    scorings = {}
    for row in rows:
        for note in row["notes"]:
            scorings.setdefault(note, []).append(row["scoring"])
    for note, words in scorings.items():
        which = "" if len(words) == len(rows) else f", {', '.join(words)}"
        logger.warning(f"{name}{which}: {note}")


def _percent(curve):
    """Equal error rate in percent."""
    return 100 * curve.eer()[0]
