"""Decisions on embeddings: the same speaker, or which one of the enrolled."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax

from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.scoring import ALONE, find_scoring

THRESHOLD = 0.25  # SpeechBrain's, on the cosine


@dataclass(frozen=True)
class Verification:
    """The comparison of a file with an enrolled speaker.

    Arguments
    ---------
    name : str
        Name of the enrolled speaker.
    same_speaker : bool
        The decision; None if there is no threshold for the scoring.
    score : float
        Score of the scoring.
    scoring : str
        ``asnorm``, ``cosine`` or another key of ``SCORINGS``.
    threshold : float
        The speaker is the same if the score is greater; or None.
    log_likelihood_ratio : float
        Natural logarithm; None without a calibration.
    p_target : float
        Prior probability of the same speaker; None without a calibration.
    extrapolated : bool
        Whether the score is outside the range of the calibration's fit.
    """

    name: str
    same_speaker: bool
    score: float
    scoring: str
    threshold: float
    log_likelihood_ratio: float = None
    p_target: float = None
    extrapolated: bool = False


@dataclass(frozen=True)
class Candidate:
    """One enrolled speaker in an identification.

    Arguments
    ---------
    name : str
        Name of the speaker.
    score : float
        Score of the scoring.
    log_likelihood_ratio : float
        Natural logarithm; None without a calibration.
    probability : float
        Posterior probability; None without a calibration.
    """

    name: str
    score: float
    log_likelihood_ratio: float = None
    probability: float = None


@dataclass(frozen=True)
class Identification:
    """The speaker of a file among the enrolled ones.

    Arguments
    ---------
    name : str
        Name of the speaker; None if it is nobody enrolled.
    candidates : list of Candidate
        The best ones, highest score first.
    p_nobody : float
        Posterior probability that the speaker is not enrolled; None without a
        calibration.
    """

    name: str
    candidates: list
    p_nobody: float = None


class Decisions:
    """Scores embeddings and decides by calibrations, if there are any.

    Arguments
    ---------
    back_end : speechbrain_ext.processing.back_end.BackEnd
        Scores trials; None for one without a cohort, which has the cosine.
    calibrations : dict
        Maps names of scorings to their ``Calibration``; or None.

    Example
    -------
    >>> decisions = Decisions()
    >>> one, other = np.float32([1, 0]), np.float32([3, 4])
    >>> decisions.verify("ada", one, other).score
    0.6000000238418579
    >>> decisions.identify({"ada": one, "bob": other}, other).name
    'bob'
    """

    def __init__(self, back_end=None, calibrations=None):
        self.back_end = BackEnd() if back_end is None else back_end
        self.calibrations = calibrations or {}

    def scoring(self, name=None):
        """The name of a scoring that is available.

        Arguments
        ---------
        name : str
            A key of ``SCORINGS``; None for ``asnorm`` if there are a cohort
            and a calibration of it, else ``cosine``.

        Returns
        -------
        str
            The name.

        Raises
        ------
        ValueError
            If the scoring is unknown, is ``plda`` or ``crops``, or needs a
            cohort and there is none.
        """
        cohort = self.back_end.cohort
        if name is None:
            if cohort is not None and "asnorm" in self.calibrations:
                return "asnorm"
            return "cosine"
        lacking = find_scoring(name).needs_cohort and cohort is None
        if name in ALONE or lacking:
            raise ValueError(
                f"The scoring {name} is not available: the pretrained folder "
                "has no cohort for it; run speaker_verification_cosine.py, "
                "which writes normalization.npz (not for plda and crops), or "
                "use cosine."
            )
        return name

    def threshold(self, scoring, prior=None):
        """The threshold on a score, and the prior that it belongs to.

        Arguments
        ---------
        scoring : str
            A key of ``SCORINGS``.
        prior : float
            Prior probability of the same speaker; None for 0.5 with a
            calibration.

        Returns
        -------
        threshold : float
            Without a calibration 0.25 for the cosine (SpeechBrain's), None
            for other scorings.
        prior : float
            The prior; None without a calibration.

        Raises
        ------
        ValueError
            If the prior is not a probability, or there is no calibration for
            it.
        """
        calibration = self.calibrations.get(scoring)
        if prior is not None and not 0 < prior < 1:
            raise ValueError(
                "A prior (`p_target`, `p_known`) must be a probability in "
                f"(0, 1), got {prior}; pass a fraction, not percent."
            )
        if calibration is not None:
            prior = 0.5 if prior is None else prior
            return calibration.threshold(prior), prior
        if prior is not None:
            raise ValueError(
                f"A decision at a prior of {prior} needs a calibration of "
                f"{scoring}, and the pretrained folder has none; run "
                "speaker_verification_cosine.py, which writes it, or leave "
                "the prior out."
            )
        return (THRESHOLD if scoring == "cosine" else None), None

    def verify(self, name, enrolled, test, p_target=None, scoring=None):
        """Decides whether two embeddings have the same speaker.

        Arguments
        ---------
        name : str
            Name of the enrolled speaker.
        enrolled : np.ndarray
            Embedding of the enrolled speaker, float32, [embedding].
        test : np.ndarray
            The other embedding, float32, [embedding].
        p_target : float
            Prior probability of the same speaker, see ``threshold``.
        scoring : str
            See ``scoring``.

        Returns
        -------
        Verification
            Score, log-likelihood ratio and decision.

        Raises
        ------
        ValueError
            If an embedding is not valid, the scoring is not available, or
            there is no calibration for the prior.
        """
        scoring = self.scoring(scoring)
        threshold, p_target = self.threshold(scoring, p_target)
        scores = self._scores(scoring, enrolled[None], test)
        score, ratio, extrapolated = scores[0].item(), None, False
        calibration = self.calibrations.get(scoring)
        if calibration is not None:
            ratio = calibration(scores)[0].item()
            low, high = calibration.fitted_range or (score, score)
            extrapolated = not low <= score <= high
        return Verification(
            name=name,
            same_speaker=None if threshold is None else score > threshold,
            score=score,
            scoring=scoring,
            threshold=threshold,
            log_likelihood_ratio=ratio,
            p_target=p_target,
            extrapolated=extrapolated,
        )

    def require_candidates(self, enrolled, top=5, p_known=None, scoring=None):
        """Raises if ``identify`` is not possible, whatever the test is.

        Arguments
        ---------
        enrolled : dict
            Maps names to embeddings.
        top : int
            Number of candidates to return.
        p_known : float
            Prior probability that the speaker is enrolled.
        scoring : str
            See ``scoring``.

        Returns
        -------
        scoring : str
            The name of the scoring.
        threshold : float
            Its threshold.
        p_known : float
            The prior; None without a calibration.

        Raises
        ------
        ValueError
            If nobody is enrolled, ``top`` is less than 1, the scoring is not
            available, or there is no calibration for the prior.
        """
        if not enrolled:
            raise ValueError("Nobody is enrolled; enrol a speaker first.")
        if top < 1:
            raise ValueError(f"`top` must be 1 or more, got {top}.")
        scoring = self.scoring(scoring)
        threshold, p_known = self.threshold(scoring, p_known)
        if threshold is None:
            raise ValueError(
                f"Identification by {scoring} needs a calibration, and the "
                "pretrained folder has none; run "
                "speaker_verification_cosine.py, which writes it, or use "
                "cosine."
            )
        return scoring, threshold, p_known

    def identify(self, enrolled, test, top=5, p_known=None, scoring=None):
        """Finds the speaker of an embedding among the enrolled, or nobody.

        With a calibration the answer is the most probable of the enrolled
        speakers and nobody. A priori the enrolled speakers are equally
        probable, and share ``p_known``. Without a calibration it is the best
        speaker, if the cosine is above SpeechBrain's 0.25.

        Arguments
        ---------
        enrolled : dict
            Maps names to embeddings, float32, [embedding].
        test : np.ndarray
            The embedding to identify, float32, [embedding].
        top : int
            Number of candidates to return.
        p_known : float
            Prior probability that the speaker is enrolled; None for 0.5 with
            a calibration.
        scoring : str
            See ``scoring``.

        Returns
        -------
        Identification
            The name, or None for nobody, and the best candidates.

        Raises
        ------
        ValueError
            As ``require_candidates``, or if an embedding is not valid.
        """
        scoring, threshold, p_known = self.require_candidates(
            enrolled, top, p_known, scoring
        )
        names = list(enrolled)
        scores = self._scores(scoring, np.stack(list(enrolled.values())), test)
        order = np.argsort(-scores, kind="stable")[:top]
        first = order[0]
        if p_known is None:
            best = names[first] if scores[first] > threshold else None
            found = [Candidate(names[i], scores[i].item()) for i in order]
            return Identification(best, found)
        ratios = self.calibrations[scoring](scores)
        logits = ratios + np.log(p_known / len(names))
        *chances, p_nobody = softmax([*logits, np.log1p(-p_known)]).tolist()
        best = names[first] if chances[first] > p_nobody else None
        found = [
            Candidate(names[i], scores[i].item(), ratios[i].item(), chances[i])
            for i in order
        ]
        return Identification(best, found, p_nobody)

    def _scores(self, scoring, enrolled, test):
        """Scores of embeddings [enrolled, embedding] with one, float64."""
        rows = torch.from_numpy(np.vstack([enrolled, test]))
        count = len(enrolled)
        found = self.back_end.scores(
            scoring, rows, torch.arange(count), torch.full((count,), count)
        )
        return found.double().numpy()
