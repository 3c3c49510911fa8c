"""From embeddings to scores: every scoring by its name."""

import numpy as np
import torch

from speechbrain_ext.processing.calibration import quality_measures
from speechbrain_ext.processing.plda import PLDAScorer
from speechbrain_ext.processing.score_normalization import (
    cohort_measures,
    normalise_scores,
)
from speechbrain_ext.processing.scoring import (
    adaptive_s_norm,
    cosine_scores,
    speaker_means,
)

# Each scoring: its words, the sides that a cohort normalises (none, z, t or
# s), whether the nearest rows alone, and whose
SCORINGS = {
    "cosine": ("cosine", None, False, "own"),
    "znorm": ("z-norm", "z", False, "own"),
    "tnorm": ("t-norm", "t", False, "own"),
    "snorm": ("s-norm", "s", False, "own"),
    "asnorm": ("AS-norm", "s", True, "own"),
    "asnorm2": ("AS-norm by the other's nearest", "s", True, "other"),
    "plda": ("PLDA", None, False, "own"),
}
MEAN = "_mean"  # after a name: the training set's mean is subtracted first
LONGEST = 20.0  # seconds, of a quality measure


def scoring_label(name):
    """What a scoring is called in tables.

    Arguments
    ---------
    name : str
        A key of SCORINGS, with ``_mean`` after it or without.

    Returns
    -------
    str
        Its words.

    Raises
    ------
    ValueError
        If there is no such scoring.

    Example
    -------
    >>> scoring_label("asnorm_mean")
    'AS-norm, mean subtracted'
    """
    base = name.removesuffix(MEAN)
    if base not in SCORINGS or name == "plda" + MEAN:
        raise ValueError(
            f"`scorings` must be of {sorted(SCORINGS)}, all but plda also with "
            f"{MEAN}, got {name!r}."
        )
    return SCORINGS[base][0] + ", mean subtracted" * (base != name)


def needs_cohort(names):
    """Whether any of some scorings needs embeddings of the training set.

    Arguments
    ---------
    names : list of str
        Names of scorings.

    Returns
    -------
    bool
        False where all are the cosine as it is.

    Example
    -------
    >>> needs_cohort(["cosine"]), needs_cohort(["cosine", "plda"])
    (False, True)
    """
    return any(name != "cosine" for name in names)


def require_cohort(manifest, path, by="speaker"):
    """Raises where a cohort has a single row, and so no spread of scores.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    path : str | pathlib.Path
        The manifest's file, to be named.
    by : str
        Same as in ``BackEnd``.

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
            "another as `cohort_manifest`, or ask for `scorings` and "
            "`calibrate` of the cosine alone."
        )


class BackEnd:
    """Scores trials by the name of the scoring.

    Arguments
    ---------
    embeddings : torch.Tensor
        Of the cohort's utterances, [utterances, embedding]; None where only
        the plain cosine is wanted. Scores are computed on their device.
    speakers : sequence of str
        Speaker of each, [utterances].
    top_n : int
        Cohort rows of the scorings that take the nearest.
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
        If ``by`` is neither of the two.

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
        self.plda = None
        self.cohort = None
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
            The scoring.
        embeddings : torch.Tensor
            One row per utterance, [utterances, embedding].
        enrol : torch.Tensor | sequence
            Same as in ``cosine_scores``.
        test : torch.Tensor | sequence
            Same as in ``cosine_scores``.
        speakers : sequence of str
            Speaker of each row of ``embeddings``, where trials' own speakers
            are to be left out of the cohort; None leaves none out.

        Returns
        -------
        torch.Tensor
            Shape [trials].

        Raises
        ------
        ValueError
            If the scoring is unknown or lacks a cohort.
        """
        base, embeddings, cohort, top_n = self._parts(name, embeddings)
        _, kind, nearest, selection = SCORINGS[base]
        if base == "plda":
            if self.plda is None:
                self.plda = PLDAScorer(
                    self.embeddings, self.speakers, self.plda_rank
                )
            return self.plda.scores(embeddings, enrol, test)
        scores = cosine_scores(embeddings, enrol, test)
        if kind is None:
            return scores
        trials = (scores, enrol, test, embeddings, cohort, top_n)
        if kind == "s" and selection == "own" and speakers is None:
            return adaptive_s_norm(*trials, block_size=self.block_size)
        names = None if speakers is None else self.cohort_speakers
        return normalise_scores(
            *trials, kind, selection, speakers=speakers, cohort_speakers=names
        )

    def qualities(self, name, embeddings, enrol, test, seconds, speakers=None):
        """Quality measures of trials: durations, norms and cohort means.

        Those of WeSpeaker's ``score_calibration.py``, after Thienpondt et
        al., "The Idlab VoxSRC-20 submission", ICASSP 2021; durations count up
        to 20 s. Without a cohort there are no cohort means.

        Arguments
        ---------
        name : str
            The scoring that they go with.
        embeddings : torch.Tensor
            Same as in ``scores``.
        enrol : torch.Tensor | sequence
            Same as in ``scores``.
        test : torch.Tensor | sequence
            Same as in ``scores``.
        seconds : np.ndarray
            Duration of each row of ``embeddings``, [utterances].
        speakers : sequence of str
            Same as in ``scores``.

        Returns
        -------
        measures : np.ndarray
            Shape [trials, measures].
        names : list of str
            What the columns are.
        """
        _, embeddings, cohort, _ = self._parts(name, embeddings)
        enrol, test = (torch.as_tensor(rows).cpu() for rows in (enrol, test))
        norms = embeddings.double().norm(dim=1).cpu().numpy()
        pairs = {"seconds": np.minimum(seconds, LONGEST), "norm": norms}
        pairs = {key: (v[enrol], v[test]) for key, v in pairs.items()}
        if cohort is not None:
            names = None if speakers is None else self.cohort_speakers
            nothing = torch.zeros(len(enrol), device=embeddings.device)
            found = cohort_measures(
                *(nothing, enrol, test, embeddings, cohort, self.top_n),
                speakers=speakers,
                cohort_speakers=names,
            )
            means = (found[side][0].cpu().numpy() for side in found)
            pairs["cohort mean"] = tuple(means)
        found = [quality_measures(*both, key) for key, both in pairs.items()]
        columns, names = zip(*found, strict=True)
        return np.column_stack(columns), sum(names, [])

    def _parts(self, name, embeddings):
        """Base name, embeddings and cohort less the mean, and top_n."""
        scoring_label(name)
        base = name.removesuffix(MEAN)
        if needs_cohort([name]) and self.cohort is None:
            raise ValueError(
                f"The scoring {name} needs a cohort, but there is none; give "
                "one, or ask for the cosine alone."
            )
        cohort = self.cohort
        if base != name:
            embeddings, cohort = embeddings - self.mean, cohort - self.mean
        top_n = self.top_n if SCORINGS[base][2] else None
        return base, embeddings, cohort, top_n
