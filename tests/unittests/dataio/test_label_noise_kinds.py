"""Kinds of label noise that change single utterances or sessions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_tables import mixed_sizes, table

from speechbrain_ext.dataio.label_noise import corrupt_labels
from speechbrain_ext.dataio.label_noise_kinds import exact_count


def test_symmetric_draws_over_all_classes():
    # the share that is wrong is rho (1 - 1 / K), since the true one counts
    manifest = table(speakers=4, sessions=1, utterances=5000)
    noisy, report = corrupt_labels(manifest, "symmetric", 0.6, 10086)
    assert report["rate_reached"] == pytest.approx(0.6 * 3 / 4, abs=0.01)
    wrong = noisy[noisy["spk_id"] != noisy["spk_id_clean"]]
    counts = wrong.groupby(["spk_id_clean", "spk_id"]).size()
    assert len(counts) == 12
    assert counts.min() > 0.9 * counts.mean()


def test_pair_confuses_with_the_next_or_the_nearest():
    noisy, _ = corrupt_labels(table(3), "pair", 1.0, 0)
    assert set(zip(noisy["spk_id_clean"], noisy["spk_id"], strict=True)) == {
        ("id0", "id1"),
        ("id1", "id2"),
        ("id2", "id0"),
    }
    near = {"id0": [1, 0.1], "id1": [0, 5], "id2": [3, 0]}
    noisy, _ = corrupt_labels(table(3), "pair", 1.0, 0, embeddings=near)
    assert set(zip(noisy["spk_id_clean"], noisy["spk_id"], strict=True)) == {
        ("id0", "id2"),
        ("id1", "id0"),
        ("id2", "id0"),
    }


def test_sessions_need_speakers_with_two():
    flat = table(sessions=1)
    flat["ID"] = flat["ID"].str.replace("/s0/", "/")
    for manifest in (flat, table(sessions=1)):
        with pytest.raises(ValueError, match="needs speakers with two sess"):
            corrupt_labels(manifest, "session", 0.5, 1)
        assert corrupt_labels(manifest, "session", 0.0, 1)[1]["corrupted"] == 0


def test_open_set_adds_a_share_of_what_results():
    outside = table(9, prefix="x")
    noisy, report = corrupt_labels(
        table(), "open_set", 0.25, 3, outside=outside
    )
    added = noisy.iloc[len(table()) :]
    assert len(added) == round(len(table()) / 3)
    assert report["rate_reached"] == pytest.approx(0.25, abs=0.01)
    assert set(added["spk_id_clean"]) <= set(outside["spk_id"])
    assert set(added["spk_id"]) <= set(table()["spk_id"])


@given(st.integers(1, 100), st.integers(1, 10**6))
@settings(max_examples=100, deadline=None)
def test_shares_are_rounded_as_decimal_numbers(percent, count):
    assert exact_count(percent / 100, count) == (percent * count + 50) // 100
    assert exact_count(0.29, 50) == 15  # 0.29 * 50 is below 14.5 in binary


@given(st.integers(20, 100), st.integers(0, 2**31), st.booleans())
@settings(max_examples=15, deadline=None)
def test_sessions_are_whole_and_their_share_of_a_speaker_exact(
    percent, seed, confine
):
    manifest = mixed_sizes()
    least = 2 if confine else 1
    noisy, report = corrupt_labels(
        manifest, "session", percent / 100, seed, min_sessions=least
    )
    noisy["session"] = noisy["ID"].str.rpartition("/")[0]
    noisy["wrong"] = noisy["spk_id"] != noisy["spk_id_clean"]
    by_session = noisy.groupby("session")
    assert (by_session["spk_id"].nunique() == 1).all()
    wrong = noisy.drop_duplicates("session").groupby("spk_id_clean")["wrong"]
    for name, (some, count) in wrong.agg(["sum", "size"]).iterrows():
        share = (percent * count + 50) // 100
        assert some == (share if count >= least else 0), name
    assert report["sessions"] == by_session.ngroups
    assert report["sessions_corrupted"] == wrong.sum().sum()
    assert report["corrupted"] == noisy["wrong"].sum()
