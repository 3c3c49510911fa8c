"""The bootstrap over speakers against trials copied by hand."""

import numpy as np
import pytest

from speechbrain_ext.utils.bootstrap import (
    SpeakerBootstrap,
    compare,
    interval,
    speaker_bootstrap,
)
from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.metrics import EER, minCllr, minDCF

FIGURES = {
    "EER": ErrorCurve.eer,
    "minDCF": ErrorCurve.min_dcf,
    "minCllr": ErrorCurve.min_cllr,
}


def trials(speakers=8, number=300, seed=0, decimals=1):
    """Speakers of both sides and scores, many of them tied."""
    generator = np.random.default_rng(seed)
    enrol, test = generator.integers(speakers, size=(2, number))
    test = np.where(np.arange(number) % 2, enrol, test)
    scores = generator.normal(size=number) + 1.5 * (enrol == test)
    return enrol == test, enrol, test, np.round(scores, decimals)


@pytest.mark.parametrize("decimals", [1, 12])
def test_draws_are_those_of_copied_trials(decimals):
    targets, enrol, test, scores = trials(decimals=decimals)
    bootstrap = SpeakerBootstrap(targets, enrol, test, replicates=20)
    found = bootstrap.evaluate(scores, FIGURES)
    for i, counts in enumerate(bootstrap.counts[:, :-1]):
        assert counts.sum() == 8
        copies = np.where(targets, counts[enrol], counts[enrol] * counts[test])
        positive = np.repeat(scores[targets], copies[targets])
        negative = np.repeat(scores[~targets], copies[~targets])
        assert found["EER"][i] == EER(positive, negative)[0]
        expected = minDCF(positive, negative)[0]
        assert found["minDCF"][i] == pytest.approx(expected)
        expected = minCllr(positive, negative)
        assert found["minCllr"][i] == pytest.approx(expected)


def test_draws_are_seeded_and_follow_no_order():
    targets, enrol, test, scores = trials(decimals=12)
    first = SpeakerBootstrap(targets, enrol, test, 10, seed=3)
    names = np.array([f"id{i}" for i in range(8)])
    order = np.random.default_rng(5).permutation(len(scores))
    second = SpeakerBootstrap(
        targets[order], names[enrol][order], names[test][order], 10, seed=3
    )
    expected = first.evaluate(scores, FIGURES)
    found = second.evaluate(scores[order], FIGURES)
    for name in FIGURES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    other = SpeakerBootstrap(targets, enrol, test, 10, seed=4)
    assert (other.counts != first.counts).any()


def test_interval_is_wider_for_fewer_speakers():
    widths = []
    for speakers in (10, 160):
        targets, enrol, test, scores = trials(speakers, 4000, decimals=12)
        generator = np.random.default_rng(1)
        scores = scores + generator.normal(size=speakers)[enrol]
        bootstrap = SpeakerBootstrap(targets, enrol, test, 200)
        low, high = interval(bootstrap.evaluate(scores, FIGURES)["EER"])
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1]


def test_draws_without_a_class_are_drawn_again():
    # three speakers, one pair alone: a third of the draws lack it
    targets = np.array([True, True, True, False])
    bootstrap = SpeakerBootstrap(targets, list("abca"), list("abcb"), 200)
    found = bootstrap.evaluate(np.array([3.0, 2.0, 1.0, 0.0]), FIGURES)
    assert (found["EER"] == 0).all()


def test_paired_difference_is_surer_than_two_intervals():
    targets, enrol, test, scores = trials(30, 3000, decimals=12)
    generator = np.random.default_rng(2)
    worse = scores + 0.7 * generator.normal(size=len(scores))
    bootstrap = SpeakerBootstrap(targets, enrol, test, 300)
    found = compare(bootstrap, worse, scores, FIGURES)["EER"]
    low, high = found["interval"]
    assert found["difference"] == found["first"] - found["second"]
    assert 0 < low < found["difference"] < high
    assert found["p"] < 0.05
    for name in ("first", "second"):
        ends = found[f"{name} interval"]
        assert ends[0] < found[name] < ends[1]
        assert high - low < ends[1] - ends[0]
    assert compare(bootstrap, scores, scores, FIGURES)["EER"]["p"] == 1.0


@pytest.mark.parametrize(
    "change, match",
    [
        ({"enrol_speakers": list("ab")}, "the same length, got 4, 2 and 4"),
        ({"targets": [1, 1, 1, 1]}, "two, got target True for .* a and b"),
        (
            {"targets": [0, 1, 1, 0]},
            "nontarget trials two, got target False for .* a and a .*correct the l",
        ),
        ({"replicates": 1}, "got 3 and 1"),
        (
            {"targets": [1, 1, 1, 1], "test_speakers": list("abca")},
            "got 4 targets of 4",
        ),
    ],
)
def test_bootstrap_rejects_bad_trials(change, match):
    given = {
        "targets": [1, 1, 1, 0],
        "enrol_speakers": list("abca"),
        "test_speakers": list("abcb"),
    }
    with pytest.raises(ValueError, match=match):
        SpeakerBootstrap(**{**given, **change})


def test_bootstrap_rejects_bad_scores():
    bootstrap = SpeakerBootstrap([1, 1, 1, 0], list("abca"), list("abcb"), 5)
    with pytest.raises(
        ValueError, match=r"shape \[4\] and no NaN, got \[4\], 1"
    ):
        bootstrap.evaluate([0.0, 1.0, np.nan, 2.0], FIGURES)
    with pytest.raises(ValueError, match="`confidence` must be .* got 95"):
        interval([1.0], confidence=95)


def test_list_without_intervals_is_said(caplog):
    targets, enrol, test, _ = trials()
    drawn = speaker_bootstrap(targets, enrol, test, 5, 1)
    expected = SpeakerBootstrap(targets, enrol, test, 5, 1).counts
    np.testing.assert_array_equal(drawn.counts, expected)
    assert speaker_bootstrap(targets, enrol, test, 0) is None
    assert caplog.messages == []
    two = np.array([True, False]), np.array([1, 1]), np.array([1, 2])
    assert speaker_bootstrap(*two, 5, 1, "toy") is None
    assert (
        "toy has no confidence intervals: A bootstrap needs 3 speakers"
        in caplog.text
    )
