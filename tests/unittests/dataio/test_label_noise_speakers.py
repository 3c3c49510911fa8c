"""Speakers that are split or merged, and labels of a clustering."""

import pytest
from noisy_tables import mixed_sizes, table

from speechbrain_ext.dataio.label_noise import corrupt_labels


@pytest.mark.parametrize("by", ["random", "session"])
def test_split_makes_labels_of_one_speaker(by):
    noisy, report = corrupt_labels(table(), "split", 0.5, 7, by=by)
    assert report["classes_after"] == 6 + 3
    labels = noisy.groupby("spk_id_clean")["spk_id"].nunique()
    assert sorted(labels) == [1, 1, 1, 2, 2, 2]
    if by == "session":
        session = noisy["ID"].str.rpartition("/")[0]
        assert (noisy.groupby(session)["spk_id"].nunique() == 1).all()


@pytest.mark.parametrize("least", [1, 2])
def test_a_part_never_gets_the_label_of_another_speaker(least):
    manifest = table(4)
    manifest["spk_id"] = manifest["spk_id"].replace("id3", "id0#1")
    if least == 2:  # the other speaker is not among those that are split
        one = manifest["ID"].str.startswith("id3/s1")
        manifest = manifest[~one].reset_index(drop=True)
    noisy, report = corrupt_labels(
        manifest, "split", 1.0, 7, parts=3, min_sessions=least
    )
    labels = noisy.groupby("spk_id_clean")["spk_id"].unique().map(set)
    assert labels["id0"] == {"id0", "id0#2", "id0#3"}
    assert labels["id1"] == {"id1", "id1#1", "id1#2"}
    assert report["classes_after"] == (12 if least == 1 else 10)


def test_a_second_split_makes_labels_of_its_own():
    twice = 2 * [{"kind": "split", "rate": 1.0}]
    noisy, report = corrupt_labels(table(), "mixture", seed=1, kinds=twice)
    labels = noisy.groupby("spk_id_clean")["spk_id"].unique().map(set)
    assert labels["id0"] == {"id0", "id0#1", "id0#2"}
    assert report["classes_after"] == 18


def test_merge_makes_one_label_of_speakers():
    noisy, report = corrupt_labels(table(), "merge", 1.0, 7, parts=3)
    assert report["classes_after"] == 2
    speakers = noisy.groupby("spk_id")["spk_id_clean"].nunique()
    assert list(speakers) == [3, 3]


@pytest.mark.parametrize("kind", ["split", "merge"])
def test_only_speakers_with_several_sessions_are_split_or_merged(kind):
    manifest = mixed_sizes()
    noisy, report = corrupt_labels(manifest, kind, 1.0, 3, min_sessions=2)
    one = noisy[noisy["spk_id_clean"].isin(["id0", "id5"])]
    assert (one["spk_id"] == one["spk_id_clean"]).all()
    assert report["classes_after"] == (2 + 12 if kind == "split" else 2 + 3)


def test_labels_of_a_clustering():
    manifest = table(4)
    # id0 in two clusters, id1 with a few of id2, id2 whole, id3 pure
    cluster = manifest["spk_id"].copy()
    cluster[:3] = "first"
    cluster[10:12] = "id2"
    clusters = dict(zip(manifest["ID"], "c" + cluster, strict=True))
    noisy, report = corrupt_labels(manifest, "clusters", clusters=clusters)
    assert report["rate_asked"] is None
    assert report["transitions"] == [
        ["id0", "id0#cfirst", 3],
        ["id1", "id2", 2],
    ]
    found = report["clustering"]
    assert found["clusters"] == 5
    assert found["purity"] == 1 - 2 / len(manifest)
    assert 0.8 < found["NMI"] < 1
    assert list(noisy["spk_id_clean"]) == list(manifest["spk_id"])
    del clusters["id3/s1/000"]
    with pytest.raises(ValueError, match=r"lacks 1 of .*'id3/s1/000'.*add a"):
        corrupt_labels(manifest, "clusters", clusters=clusters)
