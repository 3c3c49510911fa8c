"""Tables of figures."""

import numpy as np
import pytest

from speechbrain_ext.utils.bootstrap import SpeakerBootstrap
from speechbrain_ext.utils.evaluation import (
    evaluate,
    evaluation_notes,
    log_notes,
    metric_functions,
)
from speechbrain_ext.utils.metrics import EER, Cllr, actDCF, minCllr, minDCF


def test_figures_are_the_metrics_with_intervals():
    generator = np.random.default_rng(0)
    enrol, test = generator.integers(12, size=(2, 400))
    test = np.where(np.arange(400) % 2, enrol, test)
    targets = enrol == test
    scores = generator.normal(size=400) + 3.0 * targets - 1.5
    bootstrap = SpeakerBootstrap(targets, enrol, test, replicates=50)
    functions = metric_functions([0.05], calibrated=True)
    row = evaluate(scores, targets, functions, bootstrap)
    pair = scores[targets], scores[~targets]
    assert row["EER %"] == 100 * EER(*pair)[0]
    assert row["EER threshold"] == EER(*pair)[1]
    assert row["minDCF 0.05"] == minDCF(*pair, p_target=0.05)[0]
    assert row["actDCF 0.05"] == actDCF(*pair, p_target=0.05)[0]
    assert row["Cllr"] == Cllr(*pair)
    assert row["minCllr"] == minCllr(*pair)
    for name in functions:
        low, high = row[f"{name} interval"]
        assert low <= high
    low, high = row["EER % interval"]
    assert low < row["EER %"] < high
    assert "Cllr" not in metric_functions([0.05])


def test_figures_without_bootstrap_have_no_intervals():
    targets = np.array([True, False])
    row = evaluate(np.array([1.0, 0.0]), targets, metric_functions())
    assert set(row) == {"EER %", "minDCF 0.01", "minDCF 0.05", "EER threshold"}
    with pytest.raises(ValueError, match="must not contain NaN"):
        evaluate(np.array([np.nan, 0.0]), targets, metric_functions())


def test_few_trials_or_speakers_are_noted():
    enough = np.arange(60) < 30
    assert evaluation_notes({}, enough, 10) == []
    assert evaluation_notes({}, enough, None) == []
    (note,) = evaluation_notes({}, enough[1:], 10)
    assert note.startswith("29 target and 30 nontarget trials of 10 speakers")
    (note,) = evaluation_notes({}, enough[:-1], None)
    assert note.startswith("30 target and 29 nontarget trials are too few")
    (note,) = evaluation_notes({}, enough, 9)
    assert "of 9 speakers are too few" in note


def test_cllr_far_above_its_least_is_noted():
    enough = np.arange(60) < 30
    assert evaluation_notes({"Cllr": 0.139, "minCllr": 0.1}, enough) == []
    (note,) = evaluation_notes({"Cllr": 0.141, "minCllr": 0.1}, enough)
    assert note.startswith("Cllr is 0.141, but minCllr is 0.100")


def test_a_note_is_logged_once(caplog):
    rows = [{"scoring": "cosine", "notes": ["Few."]}]
    rows += [{"scoring": "AS-norm", "notes": ["Few.", "Off."]}]
    log_notes("O", rows)
    assert caplog.messages == ["O: Few.", "O, AS-norm: Off."]
