"""Calibration: scores become log-likelihood ratios by logistic regression.

At a calibrated score of 0 both hypotheses explain the trial equally well. The
threshold of Bayes' decision follows from the prior and the costs alone.
"""

import json
import math
import pathlib

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from speechbrain_ext.utils.files import atomic_write

# What varies by a smaller share of its size varies by rounding
ROUNDING = 1e-6
# What is computed of a pair of measures, as named in files
QUALITY_FORMS = ("min", "max", "difference", "ratio")


class Calibration:
    """An affine map of a score and quality measures to a log ratio.

    Arguments
    ---------
    weights : list of float
        One weight per feature.
    bias : float
        Added to the weighted sum.
    features : list of str
        Names of the features, the score first.
    prior : float
        The share of target trials that the weights were fitted for.
    fitted_range : list of float
        The lowest and the highest score of the fit, or None.

    Raises
    ------
    ValueError
        If the numbers of weights and features differ, a number is not finite,
        the score's weight is negative, or ``prior`` or ``fitted_range`` is
        not valid.

    Example
    -------
    >>> calibration = Calibration([2.0], -1.0, ["cosine"])
    >>> calibration(np.array([0.5, 1.0])).tolist()
    [0.0, 1.0]
    >>> calibration.threshold()
    0.5
    """

    def __init__(self, weights, bias, features, prior=0.5, fitted_range=None):
        self.weights = np.asarray(weights, dtype=np.float64)
        self.bias = float(bias)
        self.features = list(features)
        self.prior = float(prior)
        self.fitted_range = fitted_range and [float(x) for x in fitted_range]
        if self.weights.shape != (len(self.features),):
            raise ValueError(
                "`weights` must be one for each feature, got "
                f"{list(self.weights.shape)} for {self.features}."
            )
        if not np.isfinite([*self.weights, self.bias]).all():
            raise ValueError(
                f"`weights` and `bias` must be finite, got {weights}, {bias}."
            )
        if not 0 < self.prior < 1:
            raise ValueError(
                f"`prior` must be a probability in (0, 1), got {prior}."
            )
        ends = self.fitted_range or [0.0, 0.0]
        if len(ends) != 2 or not -math.inf < ends[0] <= ends[1] < math.inf:
            raise ValueError(
                "`fitted_range` must be the lowest and the highest score, got "
                f"{fitted_range}."
            )
        if self.weights[0] < 0:
            raise ValueError(
                "The weight of the score must not be negative, got "
                f"{self.weights[0]:.4g}: a higher score would mean that the "
                "speakers are less alike. Fit the calibration on more trials, "
                "or on speakers like those of the application."
            )

    def __call__(self, scores, qualities=None):
        """Log-likelihood ratios of trials.

        Arguments
        ---------
        scores : np.ndarray
            Scores, [trials].
        qualities : np.ndarray
            The other features, [trials, features - 1]; None if there are
            none.

        Returns
        -------
        np.ndarray
            Natural logarithms, [trials].

        Raises
        ------
        ValueError
            If the features are not as many as were fitted, or not finite.
        """
        return _table(scores, qualities, self.features) @ self.weights + (
            self.bias
        )

    def threshold(self, p_target=0.5, c_miss=1.0, c_fa=1.0):
        """The threshold of Bayes' decision on the uncalibrated score.

        Arguments
        ---------
        p_target : float
            Prior probability of a target trial.
        c_miss : float
            Cost of a false rejection.
        c_fa : float
            Cost of a false acceptance.

        Returns
        -------
        float
            On the score before calibration. On the calibrated score it is
            log(c_fa * (1 - p_target) / (c_miss * p_target)).

        Raises
        ------
        ValueError
            If there are features besides the score, its weight is 0, or the
            prior or a cost is out of range.
        """
        if not 0 < p_target < 1 or not 0 < c_miss or not 0 < c_fa:
            raise ValueError(
                "`p_target` must be a probability in (0, 1) and the costs "
                f"positive, got {p_target}, {c_miss} and {c_fa}; pass "
                "fractions, not percent."
            )
        if len(self.features) != 1 or self.weights[0] == 0:
            raise ValueError(
                "One threshold needs the score as the only feature, with a "
                f"positive weight, got {self.features} with "
                f"{self.weights.tolist()}."
            )
        ratio = math.log(c_fa * (1 - p_target) / (c_miss * p_target))
        return float((ratio - self.bias) / self.weights[0])

    def to_dict(self):
        """Plain values for a file.

        Returns
        -------
        dict
            The arguments of the constructor.
        """
        return {
            "weights": self.weights.tolist(),
            "bias": self.bias,
            "features": self.features,
            "prior": self.prior,
            "fitted_range": self.fitted_range,
        }


def fit_calibration(
    scores, targets, qualities=None, features=("score",), prior=0.5
):
    """Fits a calibration by logistic regression at a prior.

    Minimizes prior * mean log(1 + exp(-(s + logit))) over the target trials +
    (1 - prior) * mean log(1 + exp(s + logit)) over the others, where logit is
    the log odds of the prior. At a prior of 0.5 this is Cllr. Brummer and du
    Preez, "Application-independent evaluation of speaker detection", Computer
    Speech and Language 2006.

    Features are scaled to variance 1 for the fit, and the squared weights have
    a penalty of 1e-6. With it, dependent features have one solution, and
    trials without errors a finite one.

    Arguments
    ---------
    scores : np.ndarray
        Scores, [trials].
    targets : np.ndarray
        True for target trials, [trials].
    qualities : np.ndarray
        Further features, [trials, features - 1], see ``quality_measures``.
    features : sequence of str
        Names of the score and of the further features.
    prior : float
        Share of target trials that the fit is for, in (0, 1).

    Returns
    -------
    Calibration
        The fitted calibration.

    Raises
    ------
    ValueError
        If ``prior`` is out of range, a class has no trial, a feature is not
        finite, numbers differ, or the score's weight comes out negative.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> targets = np.arange(20000) % 2 == 0
    >>> ratios = 2 * rng.normal(size=20000) + np.where(targets, 2, -2)
    >>> calibration = fit_calibration(ratios / 10 + 3, targets)
    >>> bool(abs(calibration.weights[0] - 10) < 0.3)
    True
    """
    targets = np.asarray(targets, dtype=bool)
    if not 0 < prior < 1:
        raise ValueError(
            f"`prior` must be a probability in (0, 1), got {prior}."
        )
    table = _table(scores, qualities, list(features))
    if targets.shape != table.shape[:1]:
        raise ValueError(
            f"`targets` must be [{len(table)}], one per trial, got "
            f"{list(targets.shape)}."
        )
    if targets.all() or not targets.any():
        raise ValueError(
            "A calibration needs target and nontarget trials, got "
            f"{int(targets.sum())} targets of {len(targets)}."
        )
    ends = [table[:, 0].min(), table[:, 0].max()]
    mean, scale = table.mean(axis=0), table.std(axis=0)
    # a measure that only rounding varies says nothing
    flat = scale <= ROUNDING * np.abs(table).max(axis=0)
    flat[0] = scale[0] == 0
    scale[flat] = 1.0
    scaled = np.where(flat, 0.0, (table - mean) / scale)
    table = np.column_stack([scaled, np.ones(len(table))])
    sign = np.where(targets, 1.0, -1.0)
    shares = np.where(
        targets, prior / targets.sum(), (1 - prior) / (~targets).sum()
    )
    logit = math.log(prior / (1 - prior))
    penalty = np.append(np.full(len(mean), 1e-6), 0.0)

    def cost(weights):
        """Cost and gradient."""
        margin = sign * (table @ weights + logit)
        value = shares @ np.logaddexp(0, -margin)
        gradient = -(shares * sign * expit(-margin)) @ table
        value += penalty @ weights**2 / 2
        return value, gradient + penalty * weights

    found = minimize(
        cost,
        np.zeros(table.shape[1]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9},
    ).x
    weights = found[:-1] / scale
    if weights[0] < 0:
        raise ValueError(
            f"On these {len(targets)} trials a higher score means that the "
            "speakers are less alike: the trials are too few, or the encoder "
            "does not tell these speakers apart. Fit on more trials "
            "(`calibration_trials`) or on other speakers "
            "(`calibration_manifest`)."
        )
    bias = found[-1] - weights @ mean
    return Calibration(weights, bias, features, prior, ends)


def quality_measures(enrol, test, name):
    """Features from a measure of both sides of a trial.

    They are the smaller and the larger value, their difference and their
    ratio, so the order of the sides does not matter. WeSpeaker's
    ``score_calibration.py`` has the same, for durations (at most 20 s there),
    embedding norms and cohort means. The ratio divides by the magnitude of the
    smaller value and is limited to 1e3, because a cohort mean can be close to
    0.

    Arguments
    ---------
    enrol : np.ndarray
        The measure of each trial's enrolment, [trials].
    test : np.ndarray
        The measure of each trial's test, [trials].
    name : str
        Name of the measure.

    Returns
    -------
    measures : np.ndarray
        Shape [trials, 4].
    names : list of str
        What the columns are.

    Example
    -------
    >>> quality_measures(np.array([2.0]), np.array([6.0]), "seconds")[0]
    array([[2., 6., 4., 3.]])
    """
    low, high = np.minimum(enrol, test), np.maximum(enrol, test)
    floor = np.maximum(np.abs(low), 1e-12)
    ratio = np.clip(high / floor, -1e3, 1e3)
    gap = high - low
    same = gap <= ROUNDING * np.abs(high)
    gap, ratio = np.where(same, 0.0, gap), np.where(same, np.sign(high), ratio)
    columns = np.column_stack([low, high, gap, ratio])
    return columns, [f"{name} {form}" for form in QUALITY_FORMS]


def save_calibrations(path, calibrations):
    """Writes calibrations by the names of their scorings, as JSON.

    Arguments
    ---------
    path : str | pathlib.Path
        File to write; it is written completely or not at all.
    calibrations : dict
        Maps names in ``calibrate`` to their ``Calibration``.
    """
    values = {name: c.to_dict() for name, c in calibrations.items()}
    with atomic_write(path) as file:
        json.dump(values, file, indent=2)


def load_calibrations(path):
    """Reads the calibrations that ``save_calibrations`` wrote.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.

    Returns
    -------
    dict
        Maps names in ``calibrate`` to their ``Calibration``.

    Raises
    ------
    ValueError
        If the file has another form.
    OSError
        If it cannot be read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "calibration.json"
    >>> save_calibrations(path, {"cosine": Calibration([2.0], 0, ["score"])})
    >>> load_calibrations(path)["cosine"].threshold()
    0.0
    """
    try:
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        return {name: _from_dict(kept) for name, kept in values.items()}
    except (
        TypeError,
        AttributeError,
        ValueError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{path} is not a file of calibrations ({error}); delete it and "
            "run speaker_verification_cosine.py again, which writes it."
        ) from error


def _from_dict(kept):
    """The calibration whose ``Calibration.to_dict`` was saved."""
    if not isinstance(kept, dict):
        raise ValueError(f"each must be an object, got {str(kept)[:40]}")
    lacking = {"weights", "bias", "features"} - set(kept)
    if lacking:
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    names, numbers = kept["features"], kept["weights"]
    if not isinstance(names, list) or not names:
        raise ValueError(f"`features` must be names, got {str(names)[:40]}")
    if not isinstance(numbers, list) or not all(
        type(number) in (int, float) for number in [*numbers, kept["bias"]]
    ):
        raise ValueError("`weights` and `bias` must be numbers")
    return Calibration(
        numbers,
        kept["bias"],
        names,
        kept.get("prior", 0.5),
        kept.get("fitted_range"),
    )


def _table(scores, qualities, features):
    """Features as columns, checked. [trials, features]"""
    columns = [np.asarray(scores, dtype=np.float64)]
    if qualities is not None:
        columns += list(np.asarray(qualities, dtype=np.float64).T)
    table = np.column_stack(columns)
    if table.shape[1] != len(features):
        raise ValueError(
            f"There must be a column for each of {features}, got "
            f"{table.shape[1]}."
        )
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise ValueError(
            f"Features must be finite, got {table[bad[0]].tolist()} at trial "
            f"{bad[0]}."
        )
    return table
