"""The scorings: what each name in ``scorings`` and ``calibrate`` means.

The functions of a scoring can be used without its name, as in WeSpeaker's
``score.py`` and ``score_norm.py``:

>>> import torch
>>> training, speakers = torch.eye(4)[:3], ["bo", "al", "al"]
>>> embeddings, enrol, test = torch.rand(5, 4), [0, 1, 2], [3, 4, 0]
>>> mean = training.mean(dim=0)  # of all training embeddings, or 0
>>> cohort = speaker_means(training, speakers)[0] - mean
>>> scores = cosine_scores(embeddings - mean, enrol, test)
>>> scores = adaptive_s_norm(scores, enrol, test, embeddings - mean, cohort)
"""

import difflib
from dataclasses import dataclass, replace

from speechbrain_ext.processing.cosine import cosine_scores, speaker_means
from speechbrain_ext.processing.score_normalization import (
    SIDES,
    adaptive_s_norm,
)

__all__ = [
    "CALIBRATED_SCORINGS",
    "SCORINGS",
    "CalibratedScoring",
    "Scoring",
    "adaptive_s_norm",
    "cosine_scores",
    "find_calibrated_scoring",
    "find_scoring",
    "needs_cohort",
    "speaker_means",
]


@dataclass(frozen=True)
class Scoring:
    """How trials are scored.

    Arguments
    ---------
    name : str
        What ``scorings`` in a YAML and the names of score files say.
    label : str
        What tables and plots say.
    sides : tuple of str
        The sides whose cohort scores normalize a score: ``enrol`` (z-norm),
        ``test`` (t-norm), both (s-norm), or none.
    top_n : bool
        Whether only the highest ``top_n`` cohort scores of a side count.
    selection : str
        Whose nearest cohort rows these are: the side's ``own``, or those of
        the ``other`` side.
    needs_cohort : bool
        Whether embeddings of training utterances are needed.
    mean_subtracted : bool
        Whether the mean of these is subtracted from all embeddings first.

    Example
    -------
    >>> Scoring("znorm", "z-norm", sides=("enrol",)).needs_cohort
    True
    """

    name: str
    label: str
    sides: tuple = ()
    top_n: bool = False
    selection: str = "own"
    needs_cohort: bool = True
    mean_subtracted: bool = False


@dataclass(frozen=True)
class CalibratedScoring:
    """A scoring whose scores a calibration makes log-likelihood ratios.

    Arguments
    ---------
    name : str
        What the names of score files say.
    label : str
        What tables and plots say.
    scoring : Scoring
        The scoring before the calibration.
    with_quality : bool
        Whether the calibration also uses quality measures.

    Example
    -------
    >>> find_calibrated_scoring("asnorm_qmf").scoring.name
    'asnorm'
    """

    name: str
    label: str
    scoring: Scoring
    with_quality: bool


SCORINGS = {
    scoring.name: scoring
    for scoring in (
        Scoring("cosine", "cosine", needs_cohort=False),
        Scoring("znorm", "z-norm", sides=("enrol",)),
        Scoring("tnorm", "t-norm", sides=("test",)),
        Scoring("snorm", "s-norm", sides=SIDES),
        Scoring("asnorm", "AS-norm", sides=SIDES, top_n=True),
        Scoring("asnorm2", "AS-norm2", SIDES, top_n=True, selection="other"),
        Scoring("plda", "PLDA"),  # subtracts the mean itself: no _mean
        Scoring("crops", "distance of crops", needs_cohort=False),
    )
}
ALONE = ("plda", "crops")  # these have no form with _mean
SCORINGS |= {
    f"{name}_mean": replace(
        scoring,
        name=f"{name}_mean",
        label=f"{scoring.label}, mean subtracted",
        needs_cohort=True,
        mean_subtracted=True,
    )
    for name, scoring in SCORINGS.items()
    if name not in ALONE
}

# What `calibrate` can name: each scoring, also with quality measures (_qmf).
# Calibrations are fitted on the cohort, whose crops are not embedded.
CALIBRATED_SCORINGS = {
    name: CalibratedScoring(
        name=f"{name}_calibrated",
        label=f"{scoring.label}, calibrated",
        scoring=scoring,
        with_quality=False,
    )
    for name, scoring in SCORINGS.items()
    if name != "crops"
} | {
    f"{name}_qmf": CalibratedScoring(
        name=f"{name}_qmf",
        label=f"{scoring.label}, calibrated with quality",
        scoring=scoring,
        with_quality=True,
    )
    for name, scoring in SCORINGS.items()
    if name != "crops"
}


def find_scoring(name):
    """The scoring of a name in ``scorings``.

    Arguments
    ---------
    name : str
        The name.

    Returns
    -------
    Scoring
        Its description.

    Raises
    ------
    ValueError
        If there is no such scoring; the error lists the names.

    Example
    -------
    >>> find_scoring("asnorm_mean").label
    'AS-norm, mean subtracted'
    """
    return _find(name, SCORINGS, "`scorings`", SCORINGS, "")


def find_calibrated_scoring(name):
    """The calibrated scoring of a name in ``calibrate``.

    Arguments
    ---------
    name : str
        The name.

    Returns
    -------
    CalibratedScoring
        Its description.

    Raises
    ------
    ValueError
        If there is no such scoring; the error lists the names.

    Example
    -------
    >>> find_calibrated_scoring("cosine").label
    'cosine, calibrated'
    """
    plain = [key for key in SCORINGS if key in CALIBRATED_SCORINGS]
    more = " (each also with _qmf)"
    return _find(name, CALIBRATED_SCORINGS, "`calibrate`", plain, more)


def needs_cohort(names):
    """Whether a scoring of several needs embeddings of the training set.

    Arguments
    ---------
    names : list of str
        Names in ``scorings``.

    Returns
    -------
    bool
        False if all of them are cosine or crops.

    Example
    -------
    >>> needs_cohort(["cosine"]), needs_cohort(["cosine", "plda"])
    (False, True)
    """
    return any(find_scoring(name).needs_cohort for name in names)


def _find(name, known, key, listed, more):
    """The value of a name, or an error that suggests the nearest name."""
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        if str(name).lower() in ("none", "no", "off", "false"):
            hint = "; for none, pass []."
        raise ValueError(
            f"{key} must be one of {', '.join(listed)}{more}, got "
            f"{name!r}{hint}"
        )
    return known[name]
