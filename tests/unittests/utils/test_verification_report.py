"""What a report on verification shows."""

import math
import pathlib

import numpy as np
import pandas as pd
import pytest
from test_report import HOSTILE, read

from speechbrain_ext.processing.calibration import Calibration
from speechbrain_ext.utils.bootstrap import SpeakerBootstrap
from speechbrain_ext.utils.plots import histogram_plot
from speechbrain_ext.utils.report import Picture, write_report
from speechbrain_ext.utils.verification_report import (
    calibration_note,
    decision_thresholds,
    interval_words,
    list_counts,
    list_section,
    report_sections,
    result_tables,
)


def row_of(scoring, **figures):
    """A row of results.json."""
    row = {"trials": "O", "scoring": scoring}
    row |= {"EER %": 1.0, "EER % interval": (0.5, 1.5), "minDCF 0.01": 0.2}
    return {**row, **figures, "scores": "x.txt", "EER threshold": 0.4}


def calibrated(scoring, cllr, least=0.1, **figures):
    """A row of calibrated scores."""
    figures |= {"actDCF 0.01": 0.3, "Cllr": cllr, "minCllr": least}
    return row_of(scoring, **figures)


@pytest.mark.parametrize(
    ("cllr", "least", "noted"),
    [
        (0.1399, 0.1, False),
        (0.1401, 0.1, True),
        (0.0199, 0.0, False),
        (0.0201, 0.0, True),
        (1.0, 1.0, False),
        (math.inf, 0.5, True),
    ],
)
def test_calibration_note_follows_its_rule(cllr, least, noted):
    note = calibration_note(
        [row_of("s-norm"), calibrated("cosine", cllr, least)]
    )
    assert (note is not None) == noted
    if noted:
        assert f"cosine ({cllr:.3f} against {least:.3f})" in note
        assert "default threshold" in note
        assert "s-norm" not in note


def test_tables_are_two_and_the_second_of_calibrated_scores_alone():
    rows = [row_of("cosine"), calibrated("cosine, calibrated", 0.11)]
    first, second = result_tables(rows, "Brackets.")
    assert list(first.frame) == ["scoring", "EER %", "minDCF 0.01"]
    assert first.frame["EER %"].tolist() == ["1.00 [0.50, 1.50]"] * 2
    assert first.caption.endswith("Brackets.")
    assert list(second.frame) == ["scoring", "actDCF 0.01", "Cllr", "minCllr"]
    assert second.frame["scoring"].tolist() == ["cosine, calibrated"]
    assert list(second.notes) == []
    assert len(result_tables(rows[:1])) == 1


def test_notes_of_rows_stand_below_the_table():
    misfit = "Cllr is 0.500, but minCllr is 0.100: it does not fit."
    rows = [
        row_of("cosine", notes=["Few trials."]),
        row_of("s-norm", notes=["Few trials.", "Odd."]),
        calibrated("cosine, calibrated", 0.5, notes=["Few trials.", misfit]),
    ]
    first, second = result_tables(rows)
    assert list(first.notes) == ["Few trials.", "s-norm: Odd."]
    # the misfit is said once
    assert list(second.notes) == [calibration_note(rows)]


def test_counts_of_a_list():
    trials = pd.DataFrame(
        {
            "enrol": ["a/1", "a/1", "b/1"],
            "test": ["a/2", "b/1", "c/1"],
            "target": [True, False, False],
        }
    )
    speakers = [["a", "a", "b"], ["a", "b", "c"]]
    assert list_counts("O", trials, speakers) == {
        "list": "O",
        "trials": 3,
        "target": 1,
        "nontarget": 2,
        "speakers": 3,
        "utterances": 4,
    }
    found = list_counts("O", trials, None, models=True)
    assert (found["models"], found["utterances"]) == (2, 3)
    assert found["speakers"] == "-"


def test_decision_thresholds():
    row = {"EER threshold": 0.4}
    calibration = Calibration([2.0], -1.0, ["cosine"])
    assert decision_thresholds(row, [0.01]) == row
    assert decision_thresholds(row, [0.01], ratios=True) == {
        **row,
        "threshold at prior 0.01": pytest.approx(math.log(99)),
    }
    assert decision_thresholds(row, [0.01, 0.5], False, calibration) == {
        **row,
        "threshold at prior 0.01": pytest.approx((math.log(99) + 1) / 2),
        "threshold at prior 0.5": 0.5,
    }
    # with quality there is no one threshold of the score
    quality = Calibration([2.0, 1.0], -1.0, ["cosine", "duration"])
    assert decision_thresholds(row, [0.01], False, quality) == row


def sections_of(tmp_path, names):
    """Results, counts and sections of some lists."""
    results, counted, sections = [], [], []
    picture = tmp_path / "picture.png"
    histogram_plot({"target": [0.5, 0.6]}, picture, "score")
    for name in names:
        rows = [
            {**row, "trials": name}
            for row in (row_of("cosine"), calibrated("cosine, calibrated", 0.5))
        ]
        trials = pd.DataFrame(
            {"enrol": ["a/1"] * 2, "test": ["a/2", "b/1"], "target": [1, 0]}
        )
        counted.append(list_counts(name, trials, [["a", "a"], ["a", "b"]]))
        conditions = ["By session.", pd.DataFrame({"condition": ["same"]})]
        sections.append(
            list_section(
                *(counted[-1], rows, picture, [picture, picture]),
                *(conditions, "In brackets: intervals.", ["None was seen."]),
            )
        )
        results += rows
    return results, counted, sections, picture


def test_report_of_several_lists(tmp_path):
    encoder = tmp_path / "run" / "pretrained"
    encoder.mkdir(parents=True)
    (encoder / "hyperparams.yaml").write_text("embedding_model: !new:a.Net\n")
    names = [*HOSTILE, "veri_" + 40 * "long_"]
    given = sections_of(tmp_path, names)
    path = tmp_path / "report.html"
    write_report(path, "Verification", report_sections(*given, encoder))
    reader = read(path)
    assert reader.of("h2") == [
        *("Trial lists", *names, "Encoder", "What the figures mean")
    ]
    assert reader.of("p").count("None was seen.") == len(names)
    said = "2 trials (1 target, 1 nontarget) of 2 speakers and 3 utterances."
    assert reader.of("p").count(said) == len(names)
    pictures = [values for tag, values in reader.attributes if tag == "img"]
    assert len(pictures) == 1 + 3 * len(names)
    for values in pictures:
        assert len(values["alt"]) > 20
    assert len(reader.of("figcaption")) == len(pictures)
    assert reader.tags.count("caption") == reader.tags.count("table")
    assert "Net" in reader.cells
    assert str(tmp_path) not in path.read_text()  # of no machine
    meaning = reader.cells[-10:]
    assert meaning[::2] == ["EER", "minDCF", "actDCF", "Cllr", "minCllr"]


def test_report_of_one_list_has_no_overview(tmp_path):
    *given, picture = sections_of(tmp_path, ["O"])
    found = report_sections(*given, picture, tmp_path)
    headings = [heading for heading, _ in found]
    assert headings == ["O", "Encoder", "What the figures mean"]
    beside = found[0][1][2]
    assert isinstance(beside[1], Picture)
    assert pathlib.Path(beside[1].path) == picture


def test_brackets_are_said_to_be_of_draws_and_speakers():
    targets = np.array([True, False, False])
    drawn = SpeakerBootstrap(targets, [*"aab"], [*"abc"], 7)
    words = interval_words(drawn, 0.9)
    assert words == (
        "In brackets: 90 % intervals, from 7 draws of the 3 speakers."
    )
    assert interval_words(None) == ""
