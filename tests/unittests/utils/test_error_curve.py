"""The error curve with weights; its figures are tested as metrics."""

import numpy as np
import pytest

from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.metrics import EER, Cllr, minCllr, minDCF


def test_whole_weights_are_copies_of_the_trials():
    generator = np.random.default_rng(0)
    scores = np.sort(generator.normal(size=60))
    weights = generator.integers(0, 4, 60)
    target = generator.random(60) < 0.4
    positive, negative = weights * target, weights * ~target
    curve = ErrorCurve(
        np.append(-np.inf, scores),
        np.append(0, np.cumsum(negative)).max()
        - np.append(0, np.cumsum(negative)),
        np.append(0, np.cumsum(positive)),
        int(negative.sum()),
        int(positive.sum()),
    )
    copies = np.repeat(scores, positive), np.repeat(scores, negative)
    assert curve.eer()[0] == EER(*copies)[0]
    assert curve.min_dcf()[0] == pytest.approx(minDCF(*copies)[0])
    assert curve.cllr() == pytest.approx(Cllr(*copies))
    assert curve.min_cllr() == pytest.approx(minCllr(*copies))


def test_reading_a_figure_leaves_the_curve_alone():
    curve = ErrorCurve.from_scores([0.2, 0.6, 0.7], [0.1, 0.2])
    before = [np.copy(values) for values in curve]
    for figure in ("eer", "min_dcf", "act_dcf", "cllr", "min_cllr", "area"):
        getattr(curve, figure)()
    for values, copy in zip(curve, before, strict=True):
        np.testing.assert_array_equal(values, copy)
