"""The figures of a table of systems, by their names."""

from functools import partial

import numpy as np
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.bootstrap import interval
from speechbrain_ext.utils.error_curve import ErrorCurve

logger = get_logger(__name__)

# Below these counts a figure is rough and its interval is no guide
FEWEST_TRIALS = 30  # of a kind: one trial is more than 3 % of them
FEWEST_SPEAKERS = 10  # the bootstrap draws them


def metric_functions(p_targets=(0.01, 0.05), calibrated=False):
    """The figures that a table has, each as a function of an error curve.

    Arguments
    ---------
    p_targets : sequence of float
        Priors of the detection costs, both costs being 1.
    calibrated : bool
        Whether the scores are log-likelihood ratios, so that actDCF and Cllr
        mean something.

    Returns
    -------
    dict
        Maps names to functions that return a number, or a tuple that begins
        with it.

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
    """Figures of the scores of one list, with their intervals.

    Arguments
    ---------
    scores : np.ndarray
        Scores, [trials].
    targets : np.ndarray
        True for target trials, [trials].
    functions : dict
        See ``metric_functions``.
    bootstrap : SpeakerBootstrap
        Draws of the list's speakers; None for no intervals.
    confidence : float
        Of the intervals.

    Returns
    -------
    dict
        Each figure, after it ``<name> interval`` where there is a bootstrap,
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
    """Says what limits the meaning of a row of figures.

    Two rules. Fewer than 30 target trials, 30 nontarget trials or 10 speakers
    are too few for a figure with an interval: without an error among them
    the interval is ``[0, 0]``, whatever the system. A Cllr above 1.2 times
    minCllr and 0.02 is far above what another calibration would give.

    Arguments
    ---------
    row : dict
        What ``evaluate`` returned.
    targets : np.ndarray
        True for target trials, [trials].
    speakers : int
        Speakers of the trials; None where they are not known.

    Returns
    -------
    list of str
        Sentences; none where neither rule applies.

    Example
    -------
    >>> row = {"EER %": 0.0, "Cllr": 0.8, "minCllr": 0.1}
    >>> for note in evaluation_notes(row, np.array([True, False]), 2):
    ...     print(note)
    1 target and 1 nontarget trials of 2 speakers are too few: figures need \
30 trials of each kind and 10 speakers, and intervals mean nothing here.
    Cllr is 0.800, but minCllr is 0.100: the calibration does not fit these \
trials; fit it on speech like theirs (`calibration_manifest`).
    """
    notes = []
    positive, negative = int(np.sum(targets)), int(np.sum(~targets))
    few = speakers is not None and speakers < FEWEST_SPEAKERS
    if few or min(positive, negative) < FEWEST_TRIALS:
        of = "" if speakers is None else f" of {speakers} speakers"
        notes.append(
            f"{positive} target and {negative} nontarget trials{of} are too "
            f"few: figures need {FEWEST_TRIALS} trials of each kind and "
            f"{FEWEST_SPEAKERS} speakers, and intervals mean nothing here."
        )
    if "Cllr" in row and row["Cllr"] > 1.2 * row["minCllr"] + 0.02:
        notes.append(
            f"Cllr is {row['Cllr']:.3f}, but minCllr is {row['minCllr']:.3f}: "
            "the calibration does not fit these trials; fit it on speech like "
            "theirs (`calibration_manifest`)."
        )
    return notes


def log_notes(name, rows):
    """Logs each note on a list once, with the scorings that it is on.

    Arguments
    ---------
    name : str
        The list.
    rows : list of dict
        Its rows, each with ``scoring`` and ``notes`` (list of str).

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
