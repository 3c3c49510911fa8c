"""One trial list's metrics, pictures and section of the report."""

import logging
import pathlib

import numpy as np
import pandas as pd
import pytest

from speechbrain_ext.processing.calibration import Calibration
from speechbrain_ext.utils import trial_list_report
from speechbrain_ext.utils.metrics import EER
from speechbrain_ext.utils.trial_list_report import (
    TrialListReport,
    overview_plot,
)

SEEN = {"list": 2}


@pytest.fixture
def trials():
    """Trials of two speakers, every other one a target trial."""
    ids = [f"{'ab'[i // 2 % 2]}/{i}" for i in range(80)]
    target = np.arange(80) % 2 == 0
    return pd.DataFrame({"enrol": "a/x", "test": ids, "target": target})


@pytest.fixture
def curves(monkeypatch):
    """The curves of each DET plot, which are not drawn."""
    drawn = {}

    def draw(systems, path, p_targets):
        drawn[path.name] = systems

    monkeypatch.setattr(trial_list_report, "det_plot", draw)
    monkeypatch.setattr(trial_list_report, "histogram_plot", lambda *_, **__: 0)
    return drawn


def scores_of(trials, seed):
    """Scores that overlap."""
    noise = np.random.default_rng(seed).normal(size=len(trials))
    return noise + trials["target"].to_numpy()


def report_of(folder, name, trials, scorings):
    """A report with some scorings, which have the seeds 0, 1, ..."""
    report = TrialListReport(
        folder,
        pathlib.Path(f"lists/{name}.txt"),
        trials,
        SEEN,
        ["Seen."],
    )
    for seed, label in enumerate(scorings):
        report.add(label.lower(), label, scores_of(trials, seed))
    return report


def test_rows_hold_the_metrics_the_file_and_the_notes(tmp_path, trials, curves):
    report = report_of(tmp_path, "O", trials, ["cosine", "Z"])
    assert [row["scoring"] for row in report.rows] == ["cosine", "Z"]
    target = trials["target"].to_numpy()
    for seed, row in enumerate(report.rows):
        scores = scores_of(trials, seed)
        eer, threshold = EER(scores[target], scores[~target])
        assert row["EER %"] == 100 * eer
        assert row["EER threshold"] == threshold
        assert row["trials"] == "O"
        assert row["speakers"] == SEEN
        assert row["notes"][0] == "Seen." and "too few" in row["notes"][1]
    assert report.rows[1]["scores"] == "scores_O_z.txt"


def test_main_scoring_is_as_norm_or_the_first(tmp_path, trials, curves):
    one = report_of(tmp_path, "O", trials, ["cosine", "AS-norm", "Z"])
    other = report_of(tmp_path, "E", trials, ["cosine", "Z"])
    assert (one.main[0], other.main[0]) == ("AS-norm", "cosine")
    overview_plot([one, other], tmp_path / "det.png")
    target = trials["target"].to_numpy()
    for name, seed in (("O", 1), ("E", 0)):
        for mask, found in zip(
            (target, ~target), curves["det.png"][name], strict=True
        ):
            assert (found == scores_of(trials, seed)[mask]).all()
    overview_plot([one], tmp_path / "det.png")
    assert list(curves["det.png"]) == ["cosine", "AS-norm", "Z"]


def test_section_and_log_say_what_was_noted(tmp_path, trials, curves, caplog):
    report = report_of(tmp_path, "O", trials, ["cosine"])
    report.add(
        "cosine_calibrated",
        "calibrated",
        scores_of(trials, 0),
        calibrated=True,
        calibration=Calibration([1.0], 0.0, ["cosine"]),
    )
    quality = Calibration([1.0, 1.0], 0.0, ["cosine", "seconds"])
    report.add("qmf", "QMF", scores_of(trials, 1), True, quality)
    assert "Cllr" in report.rows[1] and "Cllr" not in report.rows[0]
    speakers = [["a"] * 80, ["a", "b"] * 40]
    with caplog.at_level(logging.WARNING):
        report.finish(speakers, False, None, ["None was seen."])
    heading, parts = report.section
    assert report.counts["speakers"] == 2
    assert heading == "O"
    assert parts[1] == "None was seen."
    # a calibration of the score alone changes no curve
    assert list(curves["det_O.png"]) == ["cosine", "QMF"]
    assert "O.txt: Seen." in caplog.text


def test_pictures_are_written(tmp_path, trials):
    report = report_of(tmp_path, "O", trials, ["cosine"])
    report.finish([["a"], ["b"]])
    overview_plot([report], tmp_path / "det.png")
    written = sorted(path.name for path in tmp_path.rglob("*.png"))
    assert written == ["O_cosine.png", "det.png", "det_O.png"]
