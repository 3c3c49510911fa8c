"""Detection metrics of speaker verification.

A trial is accepted if ``score > threshold``; equal scores are accepted or
rejected together. Scores may be infinite, see
``speechbrain_ext.utils.error_curve``. Its ``ErrorCurve`` computes several
metrics and sorts the scores only once:

>>> positive, negative = [0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]
>>> curve = ErrorCurve.from_scores(positive, negative)
>>> curve.eer(), curve.min_dcf(p_target=0.5)
((0.25, 0.3), (0.25, 0.4))
"""

import numpy as np

from speechbrain_ext.utils.error_curve import ErrorCurve


def error_curve(positive_scores, negative_scores):
    """Computes both error rates at every distinct operating point.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, of any shape and on any device. They are
        compared in float64.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.

    Returns
    -------
    thresholds : np.ndarray
        Increasing, [points]: -inf, which accepts all trials, then each
        distinct score. The highest rejects all trials.
    false_acceptance_rates : np.ndarray
        Share of the negative scores > thresholds[i], [points].
    false_rejection_rates : np.ndarray
        Share of the positive scores <= thresholds[i], [points].

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> curve = error_curve([0.2, 0.8], [0.1, 0.2])
    >>> for values in curve:
    ...     print(values.tolist())
    [-inf, 0.1, 0.2, 0.8]
    [1.0, 0.5, 0.0, 0.0]
    [0.0, 0.0, 0.5, 1.0]
    """
    curve = ErrorCurve.from_scores(positive_scores, negative_scores)
    return curve.thresholds, *curve.rates()


def ROC_AUC(positive_scores, negative_scores):
    """Computes the area under the receiver operating characteristic.

    It is the probability that a positive score is above a negative one. Equal
    scores count half.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance.

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> ROC_AUC([0.2, 0.8], [0.1, 0.2])
    0.875
    """
    return ErrorCurve.from_scores(positive_scores, negative_scores).area()


def EER(positive_scores, negative_scores):
    """Computes the equal error rate and its threshold.

    It is (FAR + FRR) / 2 at the lowest score where |FAR - FRR| is least, as in
    ``speechbrain.utils.metric_stats.EER``. This function takes O(n log n) time
    and uses exact counts; SpeechBrain's takes O(n^2) and uses float32 rates.
    NIST's scripts interpolate between two points. Without tied scores, the
    difference is less than one trial of the smaller class.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.

    Returns
    -------
    value : float
        Equal error rate, a fraction in [0, 1]; 0.5 if all scores are equal.
    threshold : float
        Accept where score > threshold.

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> EER([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4])
    (0.25, 0.3)
    """
    return ErrorCurve.from_scores(positive_scores, negative_scores).eer()


def minDCF(
    positive_scores,
    negative_scores,
    c_miss=1.0,
    c_fa=1.0,
    p_target=0.01,
    normalize=True,
):
    """Computes the minimum detection cost and its threshold.

    The cost is c_miss * p_target * FRR + c_fa * (1 - p_target) * FAR. If
    several thresholds have the least cost, the lowest is returned. NIST and
    the literature divide by the cost of the better trivial system, which
    accepts all trials or rejects all; then a useless system has cost 1.
    ``speechbrain.utils.metric_stats`` does not (``normalize=False``).

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.
    c_miss : float
        Cost of a false rejection, positive.
    c_fa : float
        Cost of a false acceptance, positive.
    p_target : float
        Prior probability of a target trial, in (0, 1).
    normalize : bool
        Whether to divide by min(c_miss * p_target, c_fa * (1 - p_target)).

    Returns
    -------
    value : float
        Minimum cost.
    threshold : float
        Accept where score > threshold; -inf if it is best to accept all.

    Raises
    ------
    ValueError
        If a cost is not positive and finite, ``p_target`` is outside (0, 1),
        a class has no score, or a score is NaN.

    Example
    -------
    >>> positive, negative = [0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]
    >>> minDCF(positive, negative, p_target=0.5)
    (0.25, 0.4)
    >>> minDCF(positive, negative, p_target=0.5, normalize=False)
    (0.125, 0.4)
    """
    curve = ErrorCurve.from_scores(positive_scores, negative_scores)
    return curve.min_dcf(c_miss, c_fa, p_target, normalize)


def actDCF(
    positive_scores,
    negative_scores,
    c_miss=1.0,
    c_fa=1.0,
    p_target=0.01,
    normalize=True,
):
    """Computes the detection cost of calibrated scores at the Bayes threshold.

    The scores must be natural log-likelihood ratios. Trials are accepted where
    they exceed log(c_fa * (1 - p_target) / (c_miss * p_target)). The cost is
    never below ``minDCF``; the difference is the calibration loss.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.
    c_miss : float
        Cost of a false rejection, positive.
    c_fa : float
        Cost of a false acceptance, positive.
    p_target : float
        Prior probability of a target trial, in (0, 1).
    normalize : bool
        Whether to divide by min(c_miss * p_target, c_fa * (1 - p_target)).

    Returns
    -------
    value : float
        Cost. It may exceed 1.
    threshold : float
        Bayes threshold, a log-likelihood ratio.

    Raises
    ------
    ValueError
        If a cost is not positive and finite, ``p_target`` is outside (0, 1),
        a class has no score, or a score is NaN.

    Example
    -------
    >>> actDCF([-1.0, 3.0], [-2.0, 1.0], p_target=0.5)
    (1.0, 0.0)
    """
    curve = ErrorCurve.from_scores(positive_scores, negative_scores)
    return curve.act_dcf(c_miss, c_fa, p_target, normalize)


def Cllr(positive_scores, negative_scores):
    """Computes the cost of log-likelihood ratios, in bits.

    It is (mean log2(1 + exp(-s)) of the positive + mean log2(1 + exp(s)) of
    the negative scores) / 2, the detection cost averaged over all operating
    points. A perfect system has 0; a system whose scores are all 0 has 1.
    Brummer and du Preez, "Application-independent evaluation of speaker
    detection", Computer Speech and Language 2006.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Natural log-likelihood ratios of the target trials.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Natural log-likelihood ratios of the nontarget trials.

    Returns
    -------
    float
        Cost; inf if a target trial has -inf or a nontarget trial has +inf.

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> Cllr([0.0, 0.0], [0.0])
    1.0
    """
    return ErrorCurve.from_scores(positive_scores, negative_scores).cllr()


def minCllr(positive_scores, negative_scores):
    """Computes the least ``Cllr`` over all monotone maps of the scores.

    The best map is isotonic regression of the labels (pool adjacent
    violators). The log-likelihood ratios are its log odds minus the log odds
    of the class sizes. Brummer and du Preez 2006.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.

    Returns
    -------
    float
        Cost in bits, in [0, 1].

    Raises
    ------
    ValueError
        If a class has no score, or a score is NaN.

    Example
    -------
    >>> round(minCllr([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]), 6)
    0.405639
    """
    return ErrorCurve.from_scores(positive_scores, negative_scores).min_cllr()


def FAR_at_FRR(positive_scores, negative_scores, frr):
    """Computes the least FAR for a bound on the false rejection rate.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.
    frr : float
        Highest false rejection rate allowed, in [0, 1].

    Returns
    -------
    value : float
        Least false acceptance rate where the false rejection rate is at most
        ``frr``, without interpolation.
    threshold : float
        The lowest threshold with these rates; accept where score > threshold.

    Raises
    ------
    ValueError
        If ``frr`` is outside [0, 1], a class has no score, or a score is NaN.

    Example
    -------
    >>> FAR_at_FRR([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4], frr=0.25)
    (0.0, 0.4)
    """
    curve = error_curve(positive_scores, negative_scores)
    return _least(*curve, bound=frr, name="frr")


def FRR_at_FAR(positive_scores, negative_scores, far):
    """Computes the least FRR for a bound on the false acceptance rate.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Scores of the target trials, see ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the nontarget trials.
    far : float
        Highest false acceptance rate allowed, in [0, 1].

    Returns
    -------
    value : float
        Least false rejection rate where the false acceptance rate is at most
        ``far``, without interpolation.
    threshold : float
        The lowest threshold with these rates; accept where score > threshold.

    Raises
    ------
    ValueError
        If ``far`` is outside [0, 1], a class has no score, or a score is NaN.

    Example
    -------
    >>> FRR_at_FAR([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4], far=0.25)
    (0.25, 0.3)
    """
    thresholds, accepted, rejected = error_curve(
        positive_scores, negative_scores
    )
    return _least(thresholds, rejected, accepted, bound=far, name="far")


def _least(thresholds, rates, bounded, bound, name):
    """The least of ``rates`` where ``bounded`` is at most ``bound``."""
    if not 0 <= bound <= 1:
        raise ValueError(
            f"`{name}` must be a rate in [0, 1], got {bound}; pass a "
            "fraction, not percent."
        )
    allowed = bounded <= bound
    if not allowed.any():  # positive scores of -inf are never accepted
        return 1.0, float(thresholds[0])
    best = int(np.argmin(np.where(allowed, rates, 2.0)))
    return float(rates[best]), float(thresholds[best])
