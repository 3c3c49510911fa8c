"""Detection metrics of speaker verification, read off one error curve.

A trial is accepted where ``score > threshold``, and equal scores are accepted
or rejected together. Infinite scores are allowed; how ``ErrorCurve`` counts
them stands in ``speechbrain_ext.utils.error_curve``, which also gives several
figures for one sorting of the scores.

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
        Scores of the target trials, of any shape and on any device; compared
        in float64.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Scores of the non-target trials.

    Returns
    -------
    thresholds : np.ndarray
        Increasing, [points]: -inf, which accepts all, then each distinct
        score; the highest rejects all.
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

    It is the chance that a positive score is above a negative one, equal
    scores counting half.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        As in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        As in ``error_curve``.

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

    (FAR + FRR) / 2 where |FAR - FRR| is least, at the lowest such score, as in
    ``speechbrain.utils.metric_stats.EER``; in O(n log n) and on exact counts
    where that takes O(n^2) on float32 rates. NIST's scripts interpolate
    between two points instead: less than one trial of the smaller class away
    where no scores are tied.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.

    Returns
    -------
    value : float
        Equal error rate, a fraction in [0, 1]; 0.5 where all scores are equal.
    threshold : float
        Accept where score > threshold.

    Raises
    ------
    ValueError
        Same as ``error_curve``.

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
    """Computes the least detection cost and its threshold.

    The cost is c_miss * p_target * FRR + c_fa * (1 - p_target) * FAR; of equal
    costs the lowest threshold counts. NIST and the literature divide by the
    cost of the better of accepting all and rejecting all, so that 1 is the
    cost of a system that knows nothing; ``speechbrain.utils.metric_stats``
    does not (``normalize=False``).

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
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
        Least cost.
    threshold : float
        Accept where score > threshold; -inf where accepting all is best.

    Raises
    ------
    ValueError
        If a cost is not positive and finite or ``p_target`` is outside (0, 1);
        else same as ``error_curve``.

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
    """Computes the detection cost at Bayes' threshold of calibrated scores.

    The scores are taken for natural log-likelihood ratios, and trials are
    accepted where they exceed log(c_fa * (1 - p_target) / (c_miss *
    p_target)). Never below ``minDCF``; the difference is the calibration's.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    c_miss : float
        Same as in ``minDCF``.
    c_fa : float
        Same as in ``minDCF``.
    p_target : float
        Same as in ``minDCF``.
    normalize : bool
        Same as in ``minDCF``.

    Returns
    -------
    value : float
        Cost, which has no upper bound of 1.
    threshold : float
        Bayes' threshold, a log-likelihood ratio.

    Raises
    ------
    ValueError
        Same as ``minDCF``.

    Example
    -------
    >>> actDCF([-1.0, 3.0], [-2.0, 1.0], p_target=0.5)
    (1.0, 0.0)
    """
    curve = ErrorCurve.from_scores(positive_scores, negative_scores)
    return curve.act_dcf(c_miss, c_fa, p_target, normalize)


def Cllr(positive_scores, negative_scores):
    """Computes the cost of log-likelihood ratios, in bits.

    (mean log2(1 + exp(-s)) of the positive + mean log2(1 + exp(s)) of the
    negative scores) / 2: the detection cost over all operating points. 0 is
    perfect, 1 is a system that says 0 to all. Brummer and du Preez,
    "Application-independent evaluation of speaker detection", Computer Speech
    and Language 2006.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Natural log-likelihood ratios; else same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as ``positive_scores``, of the non-target trials.

    Returns
    -------
    float
        Cost, inf where a score of -inf or inf is wrong.

    Raises
    ------
    ValueError
        Same as ``error_curve``.

    Example
    -------
    >>> Cllr([0.0, 0.0], [0.0])
    1.0
    """
    return ErrorCurve.from_scores(positive_scores, negative_scores).cllr()


def minCllr(positive_scores, negative_scores):
    """Computes the least ``Cllr`` that a monotone map of the scores can have.

    The best map is isotonic regression (pool adjacent violators) of the
    labels, whose log odds less those of the classes' sizes are the ratios.
    Brummer and du Preez 2006.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.

    Returns
    -------
    float
        Cost in bits, in [0, 1].

    Raises
    ------
    ValueError
        Same as ``error_curve``.

    Example
    -------
    >>> round(minCllr([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4]), 6)
    0.405639
    """
    return ErrorCurve.from_scores(positive_scores, negative_scores).min_cllr()


def FAR_at_FRR(positive_scores, negative_scores, frr):
    """Computes the least false acceptance rate for a bound on the other.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    frr : float
        Highest false rejection rate allowed, in [0, 1].

    Returns
    -------
    value : float
        Least false acceptance rate where the false rejection rate is at most
        ``frr``; nothing is interpolated.
    threshold : float
        Accept where score > threshold; the lowest such.

    Raises
    ------
    ValueError
        If ``frr`` is outside [0, 1]; else same as ``error_curve``.

    Example
    -------
    >>> FAR_at_FRR([0.2, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.4], frr=0.25)
    (0.0, 0.4)
    """
    curve = error_curve(positive_scores, negative_scores)
    return _least(*curve, bound=frr, name="frr")


def FRR_at_FAR(positive_scores, negative_scores, far):
    """Computes the least false rejection rate for a bound on the other.

    Arguments
    ---------
    positive_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    negative_scores : torch.Tensor | np.ndarray | sequence
        Same as in ``error_curve``.
    far : float
        Highest false acceptance rate allowed, in [0, 1].

    Returns
    -------
    value : float
        Least false rejection rate where the false acceptance rate is at most
        ``far``; nothing is interpolated.
    threshold : float
        Accept where score > threshold; the lowest such.

    Raises
    ------
    ValueError
        If ``far`` is outside [0, 1]; else same as ``error_curve``.

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
    """The least of ``rates`` where ``bounded`` is within bounds."""
    if not 0 <= bound <= 1:
        raise ValueError(
            f"`{name}` must be a rate in [0, 1], got {bound}; pass a "
            "fraction, not percent."
        )
    allowed = bounded <= bound
    if not allowed.any():  # positive scores of -inf: all must be accepted
        return 1.0, float(thresholds[0])
    best = int(np.argmin(np.where(allowed, rates, 2.0)))
    return float(rates[best]), float(thresholds[best])
