"""From embeddings to scores and log-likelihood ratios, by name of the scoring.

Names are those of ``speechbrain_ext.processing.scoring``. The arguments
``embeddings``, ``enrol`` and ``test`` mean the same everywhere: one embedding
per utterance, and for each trial the row numbers of its two utterances.
"""

import numpy as np
import pandas as pd
import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.trials import make_trials
from speechbrain_ext.processing.calibration import (
    fit_calibration,
    quality_measures,
)
from speechbrain_ext.processing.cosine import cosine_scores, speaker_means
from speechbrain_ext.processing.crop_scores import crop_scores
from speechbrain_ext.processing.plda import PLDAScorer
from speechbrain_ext.processing.score_normalization import (
    normalize_scores,
    trial_statistics,
)
from speechbrain_ext.processing.scoring import (
    find_calibrated_scoring,
    find_scoring,
)

logger = get_logger(__name__)

LONGEST = 20.0  # seconds; longer utterances have no higher quality
FEWEST = 30  # trials of a kind, below which a calibration is rough
PER_SPEAKER = 20  # utterances per speaker in the trials of a calibration


def require_cohort(manifest, path, by="speaker"):
    """Raises where a cohort has a single row, and so no spread of scores.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    path : str | pathlib.Path
        The manifest's file, for the error.
    by : str
        What a cohort row is: ``speaker`` or ``utterance``.

    Raises
    ------
    ValueError
        If there are fewer than 2 speakers, or utterances.

    Example
    -------
    >>> import pandas as pd
    >>> one = pd.DataFrame({"ID": ["a/1", "a/2"], "spk_id": ["a", "a"]})
    >>> require_cohort(one, "cohort.csv", "utterance")
    >>> require_cohort(one, "cohort.csv")
    Traceback (most recent call last):
    ValueError: The cohort cohort.csv must have 2 speakers or more, got 1...
    """
    number = manifest["spk_id" if by == "speaker" else "ID"].nunique()
    if number < 2:
        raise ValueError(
            f"The cohort {path} must have 2 {by}s or more, got {number}; give "
            "another as `cohort_manifest`, or set `scorings` and `calibrate` "
            "to [cosine]."
        )


class BackEnd:
    """Scores trials by the name of the scoring.

    Arguments
    ---------
    embeddings : torch.Tensor
        Of the cohort's utterances, [utterances, embedding]; None if only the
        plain cosine is needed. Scores are computed on their device.
    speakers : sequence of str
        Speaker of each, [utterances].
    top_n : int
        Cohort rows that count in scorings with ``top_n``.
    by : str
        ``speaker``: a cohort row is a speaker's mean; ``utterance``: every
        utterance is one.
    block_size : int
        Utterances compared with the cohort at a time.
    plda_rank : int
        Dimensions of PLDA's speaker space.

    Raises
    ------
    ValueError
        If ``by`` is not valid.

    Example
    -------
    >>> rng = torch.Generator().manual_seed(0)
    >>> cohort = torch.randn(20, 4, generator=rng)
    >>> back_end = BackEnd(cohort, [str(i // 2) for i in range(20)], top_n=5)
    >>> embeddings = torch.randn(3, 4, generator=rng)
    >>> back_end.scores("asnorm_mean", embeddings, [0, 1], [1, 2]).shape
    torch.Size([2])
    """

    def __init__(
        self,
        embeddings=None,
        speakers=None,
        top_n=300,
        by="speaker",
        block_size=1024,
        plda_rank=100,
    ):
        if by not in ("speaker", "utterance"):
            raise ValueError(f"`by` must be speaker or utterance, got {by!r}.")
        self.embeddings, self.speakers = embeddings, speakers
        self.top_n, self.block_size = top_n, block_size
        self.plda_rank = plda_rank
        self.plda = self.cohort = None
        if embeddings is not None:
            self.mean = embeddings.double().mean(dim=0).to(embeddings)
            self.cohort, self.cohort_speakers = embeddings, speakers
            if by == "speaker":
                self.cohort, self.cohort_speakers = speaker_means(
                    embeddings, speakers
                )

    def scores(self, name, embeddings, enrol, test, speakers=None):
        """Scores of trials.

        Arguments
        ---------
        name : str
            The scoring, a key of ``SCORINGS``.
        embeddings : torch.Tensor
            One row per utterance, [utterances, embedding]; for the scoring
            crops [utterances, crops, embedding].
        enrol : torch.Tensor | sequence
            Row numbers, [trials].
        test : torch.Tensor | sequence
            Row numbers, [trials].
        speakers : sequence of str
            Speaker of each row of ``embeddings``: both speakers of a trial are
            left out of its cohort. None leaves none out.

        Returns
        -------
        torch.Tensor
            Shape [trials].

        Raises
        ------
        ValueError
            If the scoring is unknown, or needs a cohort and there is none.
        """
        scoring = find_scoring(name)
        if scoring.name == "crops":
            return crop_scores(embeddings, enrol, test)
        if scoring.name == "plda":
            self._require_cohort(scoring)
            if self.plda is None:
                self.plda = PLDAScorer(
                    self.embeddings, self.speakers, self.plda_rank
                )
            return self.plda.scores(embeddings, enrol, test)
        embeddings, cohort = self._centered(scoring, embeddings)
        scores = cosine_scores(embeddings, enrol, test)
        if not scoring.sides:
            return scores
        statistics = trial_statistics(
            enrol,
            test,
            embeddings,
            cohort,
            top_n=self.top_n if scoring.top_n else None,
            selection=scoring.selection,
            speakers=speakers,
            cohort_speakers=None if speakers is None else self.cohort_speakers,
            block_size=self.block_size,
        )
        return normalize_scores(scores, statistics, scoring.sides)

    def qualities(self, name, embeddings, enrol, test, seconds, speakers=None):
        """Quality measures of trials: durations, norms and cohort means.

        They are those of WeSpeaker's ``score_calibration.py``, after Thienpondt
        et al., "The Idlab VoxSRC-20 submission", ICASSP 2021. Durations above
        20 s count as 20 s. Without a cohort there are no cohort means.

        Arguments
        ---------
        name : str
            The scoring that the measures belong to.
        embeddings : torch.Tensor
            One row per utterance, [utterances, embedding].
        enrol : torch.Tensor | sequence
            Row numbers, [trials].
        test : torch.Tensor | sequence
            Row numbers, [trials].
        seconds : np.ndarray
            Duration of each row of ``embeddings``, [utterances].
        speakers : sequence of str
            As in ``scores``.

        Returns
        -------
        measures : np.ndarray
            Shape [trials, measures].
        names : list of str
            What the columns are.
        """
        embeddings, cohort = self._centered(find_scoring(name), embeddings)
        enrol, test = (torch.as_tensor(rows).cpu() for rows in (enrol, test))
        norms = embeddings.double().norm(dim=1).cpu().numpy()
        seconds = np.minimum(seconds, LONGEST)
        measures = {
            "seconds": (seconds[enrol], seconds[test]),
            "norm": (norms[enrol], norms[test]),
        }
        if cohort is not None:
            found = trial_statistics(
                enrol,
                test,
                embeddings,
                cohort,
                top_n=self.top_n,
                speakers=speakers,
                cohort_speakers=None
                if speakers is None
                else self.cohort_speakers,
                block_size=self.block_size,
            )
            means = (found[side][0].cpu().numpy() for side in found)
            measures["cohort mean"] = tuple(means)
        found = [quality_measures(*v, key) for key, v in measures.items()]
        columns, names = zip(*found, strict=True)
        return np.column_stack(columns), sum(names, [])

    def _require_cohort(self, scoring):
        """Raises where a scoring needs a cohort that is not there."""
        if scoring.needs_cohort and self.cohort is None:
            raise ValueError(
                f"The scoring {scoring.name} needs a cohort, but there is "
                "none; give one, or use only the scoring cosine."
            )

    def _centered(self, scoring, embeddings):
        """Embeddings and cohort, without the mean where a scoring says so."""
        self._require_cohort(scoring)
        if scoring.mean_subtracted:
            return embeddings - self.mean, self.cohort - self.mean
        return embeddings, self.cohort


def calibrate_scoring(
    name, back_end, manifest, trials=20000, seed=0, prior=0.5, embeddings=None
):
    """Fits the calibration of a scoring on trials drawn from a manifest.

    Arguments
    ---------
    name : str
        A key of ``CALIBRATED_SCORINGS``.
    back_end : BackEnd
        It computes the scores.
    manifest : pandas.DataFrame
        The utterances to draw trials from: columns ID, spk_id and duration.
    trials : int
        Number of trials, half of them target trials. The speakers of a trial
        are left out of its cohort, since test speakers are not in it either.
    seed : int
        Seed of the draw.
    prior : float
        Share of target trials that the fit is for.
    embeddings : torch.Tensor
        Of the manifest's utterances, [utterances, embedding]; None if the
        manifest is that of the back end's cohort.

    Returns
    -------
    speechbrain_ext.processing.calibration.Calibration
        The fitted calibration.

    Raises
    ------
    ValueError
        If there are too few speakers or utterances to draw trials from.

    Example
    -------
    >>> generator = torch.Generator().manual_seed(0)
    >>> embeddings = torch.randn(30, 4, generator=generator)
    >>> names = [f"s{i // 3}" for i in range(30)]
    >>> ids = [f"{s}/{i}/1" for i, s in enumerate(names)]
    >>> table = pd.DataFrame({"ID": ids, "spk_id": names, "duration": 1.0})
    >>> back_end = BackEnd(embeddings, names)
    >>> calibrate_scoring("cosine", back_end, table, trials=40).features
    ['cosine']
    """
    calibrated = find_calibrated_scoring(name)
    base = calibrated.scoring.name
    # A part of a large corpus is enough.
    few = manifest.sort_values("ID").sample(frac=1, random_state=seed)
    few = few.groupby("spk_id").head(PER_SPEAKER)
    drawn = make_trials(few, trials, seed)
    rows = pd.Series(range(len(manifest)), index=manifest["ID"])
    enrol, test = (
        torch.from_numpy(rows[drawn[side]].to_numpy(copy=True))
        for side in ("enrol", "test")
    )
    if embeddings is None:
        embeddings = back_end.embeddings
    given = embeddings, enrol, test
    own = manifest["spk_id"].tolist()
    scores = back_end.scores(base, *given, own).double().cpu().numpy()
    measures, names = None, []
    if calibrated.with_quality:
        seconds = manifest["duration"].to_numpy()
        measures, names = back_end.qualities(base, *given, seconds, own)
    targets = drawn["target"].to_numpy(dtype=bool)
    positive, negative = int(targets.sum()), int((~targets).sum())
    if min(positive, negative) < FEWEST:
        logger.warning(
            f"{name} is calibrated on only {positive} target and {negative} "
            f"nontarget trials; use at least {FEWEST} of each."
        )
    return fit_calibration(scores, targets, measures, [base, *names], prior)


def fit_calibrations(names, *given):
    """Fits a calibration for each of several scorings.

    Where a fit is not possible, as in a small corpus, the log says why.

    Arguments
    ---------
    names : list of str
        Keys of ``CALIBRATED_SCORINGS``.
    *given : sequence
        The other arguments of ``calibrate_scoring``.

    Returns
    -------
    dict
        Maps each name that could be fitted to its ``Calibration``.

    Example
    -------
    >>> fit_calibrations([], None, None)
    {}
    """
    found = {}
    for name in names:
        try:
            found[name] = calibrate_scoring(name, *given)
        except ValueError as error:
            logger.warning(f"{name} is not calibrated: {error}")
    return found


def scores_by_name(
    scorings,
    calibrations,
    back_end,
    embeddings,
    enrol,
    test,
    seconds,
    crops=None,
):
    """Scores of a trial list by every scoring, then the calibrated ones.

    Arguments
    ---------
    scorings : list of str
        Keys of ``SCORINGS``.
    calibrations : dict
        What ``fit_calibrations`` returned.
    back_end : BackEnd
        It computes the scores.
    embeddings : torch.Tensor
        One row per utterance, [utterances, embedding].
    enrol : torch.Tensor | sequence
        Row numbers, [trials].
    test : torch.Tensor | sequence
        Row numbers, [trials].
    seconds : np.ndarray
        Duration of each row, [utterances].
    crops : torch.Tensor
        Embeddings of the crops of each row, for the scoring crops,
        [utterances, crops, embedding].

    Yields
    ------
    name : str
        Name of the scoring, for files.
    label : str
        Its label, for tables.
    scores : np.ndarray
        float64, [trials].
    calibration : speechbrain_ext.processing.calibration.Calibration
        The calibration by which the scores are natural log-likelihood ratios;
        None if they are not calibrated.
    """
    trials, plain = (embeddings, enrol, test), {}
    of_crops = crops, enrol, test

    def uncalibrated(scoring):
        name = scoring.name
        if name not in plain:
            given = of_crops if name == "crops" else trials
            scores = back_end.scores(name, *given)
            plain[name] = scores.double().cpu().numpy()
        return plain[name]

    for name in scorings:
        scoring = find_scoring(name)
        yield name, scoring.label, uncalibrated(scoring), None
    for name, calibration in calibrations.items():
        found, measures = find_calibrated_scoring(name), None
        scores = uncalibrated(found.scoring)
        if found.with_quality:
            measures, _ = back_end.qualities(
                found.scoring.name, *trials, seconds
            )
        yield (
            found.name,
            found.label,
            calibration(scores, measures),
            calibration,
        )
