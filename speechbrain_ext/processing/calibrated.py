"""Scorings of a back end as log-likelihood ratios."""

import pandas as pd
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.trials import make_trials
from speechbrain_ext.processing.back_end import scoring_label
from speechbrain_ext.processing.calibration import fit_calibration

logger = get_logger(__name__)

FEWEST = 30  # trials of a kind, below which a fit is said to be rough
QUALITY = "_qmf"  # after the name of a scoring: calibrated with qualities
PER_SPEAKER = 20  # utterances of a speaker that trials are drawn of


def calibrate_scoring(
    name, back_end, manifest, trials=20000, seed=0, prior=0.5, speakers=None
):
    """Fits the calibration of a scoring on drawn trials of the cohort.

    Arguments
    ---------
    name : str
        The scoring, with ``_qmf`` after it to use quality measures too.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        It holds the embeddings of the manifest's utterances.
    manifest : pandas.DataFrame
        Columns ID, spk_id and duration, a row each of these.
    trials : int
        How many are drawn, half of them target trials; their own speakers
        are left out of the cohort, as those of a test are.
    seed : int
        Draws them.
    prior : float
        The share of target trials that the fit is for.
    speakers : sequence of str
        Whose utterances to draw of; None for all.

    Returns
    -------
    speechbrain_ext.processing.calibration.Calibration
        The map.

    Raises
    ------
    ValueError
        If there are too few speakers or utterances to draw trials of.

    Example
    -------
    >>> from speechbrain_ext.processing.back_end import BackEnd
    >>> generator = torch.Generator().manual_seed(0)
    >>> embeddings = torch.randn(30, 4, generator=generator)
    >>> names = [f"s{i // 3}" for i in range(30)]
    >>> ids = [f"{s}/{i}/1" for i, s in enumerate(names)]
    >>> table = pd.DataFrame({"ID": ids, "spk_id": names, "duration": 1.0})
    >>> back_end = BackEnd(embeddings, names)
    >>> calibrate_scoring("cosine", back_end, table, trials=40).features
    ['cosine']
    """
    few = manifest
    if speakers is not None:
        few = few[few["spk_id"].isin(set(speakers))]
    # of a huge corpus a part will do
    few = few.sort_values("ID").sample(frac=1, random_state=seed)
    few = few.groupby("spk_id").head(PER_SPEAKER)
    drawn = make_trials(few, trials, seed)
    rows = pd.Series(range(len(manifest)), index=manifest["ID"])
    numbers = [
        torch.from_numpy(rows[drawn[side]].to_numpy(copy=True))
        for side in ("enrol", "test")
    ]
    given = back_end.embeddings, *numbers
    own = manifest["spk_id"].tolist()
    base = name.removesuffix(QUALITY)
    scores = back_end.scores(base, *given, own).double().cpu().numpy()
    measures, names = None, []
    if name != base:
        seconds = manifest["duration"].to_numpy()
        measures, names = back_end.qualities(base, *given, seconds, own)
    targets = drawn["target"].to_numpy(dtype=bool)
    positive, negative = int(targets.sum()), int((~targets).sum())
    if min(positive, negative) < FEWEST:
        logger.warning(
            f"{name} is calibrated on {positive} target and {negative} "
            f"nontarget trials alone, which is rough; {FEWEST} of each kind "
            "are the least to go by."
        )
    return fit_calibration(scores, targets, measures, [base, *names], prior)


def fit_calibrations(
    names, back_end, manifest, trials=20000, seed=0, prior=0.5, speakers=None
):
    """Fits a calibration for each of some scorings.

    Where a fit is not possible, as in a small corpus, the log says why.

    Arguments
    ---------
    names : list of str
        Same as ``name`` in ``calibrate_scoring``, one each.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        Same as in ``calibrate_scoring``.
    manifest : pandas.DataFrame
        Same as in ``calibrate_scoring``.
    trials : int
        Same as in ``calibrate_scoring``.
    seed : int
        Same as in ``calibrate_scoring``.
    prior : float
        Same as in ``calibrate_scoring``.
    speakers : sequence of str
        Same as in ``calibrate_scoring``.

    Returns
    -------
    dict
        Maps names to the ``Calibration`` of those that could be fitted.

    Example
    -------
    >>> fit_calibrations([], None, None)
    {}
    """
    found = {}
    for name in names:
        try:
            found[name] = calibrate_scoring(
                name, back_end, manifest, trials, seed, prior, speakers
            )
        except ValueError as error:
            logger.warning(f"{name} is not calibrated: {error}")
    return found


def scores_by_name(
    scorings, calibrations, back_end, embeddings, enrol, test, seconds
):
    """Scores of a list by every scoring, then as ratios where calibrated.

    Arguments
    ---------
    scorings : list of str
        Names of scorings.
    calibrations : dict
        Maps names to the ``Calibration`` of ``calibrate_scoring``.
    back_end : speechbrain_ext.processing.back_end.BackEnd
        What scores.
    embeddings : torch.Tensor
        One row per utterance, [utterances, embedding].
    enrol : torch.Tensor | sequence
        Row number of each trial's enrolment utterance, [trials].
    test : torch.Tensor | sequence
        Row number of each trial's test utterance, [trials].
    seconds : np.ndarray
        Duration of each row, [utterances].

    Yields
    ------
    name : str
        Name of the scoring, for files.
    words : str
        Its words, for tables.
    scores : np.ndarray
        float64, [trials].
    calibrated : bool
        Whether these are natural log-likelihood ratios.
    """
    given, plain = (embeddings, enrol, test), {}
    for name in scorings:
        plain[name] = back_end.scores(name, *given).double().cpu().numpy()
        yield name, scoring_label(name), plain[name], False
    for name, calibration in calibrations.items():
        base = name.removesuffix(QUALITY)
        if base not in plain:
            plain[base] = back_end.scores(base, *given).double().cpu().numpy()
        words = f"{scoring_label(base)}, calibrated"
        if name == base:
            yield f"{base}_calibrated", words, calibration(plain[base]), True
        else:
            measures, _ = back_end.qualities(base, *given, seconds)
            ratios = calibration(plain[base], measures)
            yield name, f"{words} with quality", ratios, True
