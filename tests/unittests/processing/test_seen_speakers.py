"""Speakers of trial lists that training or the cohort has seen."""

import numpy as np

from speechbrain_ext.processing.seen_speakers import (
    calibration_sentence,
    seen_speakers,
    speaker_sentences,
)

TARGETS = np.array([True, True, False, False])
ENROL, TEST = ["a", "b", "a", "c"], ["a", "b", "b", "d"]


def test_speakers_and_trials_are_counted():
    found = seen_speakers(TARGETS, ENROL, TEST, {"a", "x"}, {"c", "d"})
    assert found == {
        "list": 4,
        "seen in training": 1,
        "trials seen in training": 2,
        "in the cohort": 2,
        "trials in the cohort": 1,
    }
    warnings, others = speaker_sentences(found, 4)
    assert warnings == [
        "1 of the list's 4 speakers was seen in training (2 of 4 trials have "
        "one): error rates of new speakers are higher.",
        "2 of the list's 4 speakers are in the cohort (1 of 4 trials has "
        "one): normalized and calibrated scores look too good.",
    ]
    assert others == []


def test_speakers_of_a_calibration_are_counted_where_there_is_one():
    found = seen_speakers(TARGETS, ENROL, TEST, set(), set(), {"a", "b", "x"})
    assert found["in the calibration"] == 2
    assert found["trials in the calibration"] == 3
    warnings, _ = speaker_sentences(found, 4)
    assert warnings == [
        "2 of the list's 4 speakers are in the calibration (3 of 4 trials "
        "have one): calibrated scores look too good."
    ]


def test_new_speakers_are_said_to_be_new():
    found = seen_speakers(TARGETS, ENROL, TEST, {"x"}, set())
    warnings, others = speaker_sentences(found, 4)
    assert warnings == []
    assert others == ["None of the list's 4 speakers was seen in training."]


def test_what_cannot_be_told_is_not_known():
    found = seen_speakers(TARGETS, ENROL, TEST, None, {"a"})
    assert found["seen in training"] is None
    assert found["in the cohort"] == 1
    warnings, others = speaker_sentences(found, 4)
    assert len(warnings) == 1
    assert others[0].startswith("It is not known whether the list's speakers")
    assert "encoder came without a map" in others[0]
    # a list of files without speakers: each file is its own
    found = seen_speakers(TARGETS, [*"1234"], [*"5678"], {"1"}, {"2"})
    assert set(found.values()) == {None}
    warnings, others = speaker_sentences(found, 4)
    assert warnings == []
    assert "do not match the manifest's speakers" in others[0]


def test_a_calibration_on_speakers_of_the_training_set_is_named():
    used = ["a", "a", "b", "c"]
    assert "trials of 2 speakers" in calibration_sentence(used, {"a", "b"})
    assert "trials of 1 speaker that" in calibration_sentence(used, {"a"})
    for unseen in (set(), None, {"x"}):
        assert calibration_sentence(used, unseen) is None
