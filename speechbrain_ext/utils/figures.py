"""The figures of a table of systems, by their names."""

from functools import partial

import numpy as np

from speechbrain_ext.utils.bootstrap import interval
from speechbrain_ext.utils.error_curve import ErrorCurve


def figure_functions(p_targets=(0.01, 0.05), calibrated=False):
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
    >>> list(figure_functions([0.01]))
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


def figures(scores, targets, functions, bootstrap=None, confidence=0.95):
    """Figures of the scores of one list, with their intervals.

    Arguments
    ---------
    scores : np.ndarray
        Scores, [trials].
    targets : np.ndarray
        True for target trials, [trials].
    functions : dict
        See ``figure_functions``.
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
    >>> figures(scores, targets, figure_functions([]))
    {'EER %': 0.0, 'EER threshold': 0.1}
    """
    curve = ErrorCurve.from_scores(scores[targets], scores[~targets])
    drawn = bootstrap.figures(scores, functions) if bootstrap else {}
    row = {}
    for name, function in functions.items():
        row[name] = float(np.ravel(function(curve))[0])
        if name in drawn:
            row[f"{name} interval"] = interval(drawn[name], confidence)
    return {**row, "EER threshold": curve.eer()[1]}


def _percent(curve):
    """Equal error rate in percent."""
    return 100 * curve.eer()[0]
