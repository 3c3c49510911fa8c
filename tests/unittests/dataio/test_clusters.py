"""Clusters of utterances: the file, the names of the labels, the figures."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_ext.dataio.clusters import (
    clustering_figures,
    label_names,
    read_clusters,
)

LABELS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("12345")), min_size=1
)
# names that a cluster of `a` could get
ODD = st.lists(
    st.tuples(
        st.sampled_from(["a", "a#1", "a#1#1"]),
        st.sampled_from(["1", "2", "1#1", "1#1#1"]),
    ),
    min_size=1,
)


def contingency(pairs):
    """Utterances of each speaker in each cluster."""
    return pd.crosstab(*map(list, zip(*pairs, strict=True))).to_numpy()


@given(LABELS)
@settings(max_examples=50, deadline=None)
def test_figures_match_their_definitions(pairs):
    counts = contingency(pairs)
    found = clustering_figures(*zip(*pairs, strict=True))
    share = counts / counts.sum()
    rows, columns = share.sum(1, keepdims=True), share.sum(0, keepdims=True)
    some = share > 0
    mutual = np.sum(share[some] * np.log((share / (rows * columns))[some]))
    total = -np.sum(rows * np.log(rows)) - np.sum(columns * np.log(columns))
    expected = 2 * mutual / total if total > 1e-12 else 1.0
    assert found["NMI"] == pytest.approx(expected, abs=1e-9)
    assert found["purity"] == pytest.approx(share.max(axis=0).sum())
    assert found["clusters"] == counts.shape[1]
    assert found["clusters_of_one"] == (counts.sum(axis=0) == 1).sum()
    assert found["largest_cluster"] == counts.sum(axis=0).max()


@given(LABELS)
@settings(max_examples=50, deadline=None)
def test_each_cluster_has_a_name_of_its_own(pairs):
    speakers, clusters = map(pd.Series, zip(*pairs, strict=True))
    names = label_names(speakers, clusters)
    assert set(names) == set(clusters)
    assert len(set(names.values())) == len(names)
    # the order of the rows changes nothing
    assert label_names(speakers[::-1], clusters[::-1]) == names
    for cluster, name in names.items():
        counts = speakers[clusters == cluster].value_counts()
        assert counts[name.partition("#")[0]] == counts.max()


@given(ODD)
@settings(max_examples=100, deadline=None)
def test_no_cluster_gets_the_name_of_another_speaker(pairs):
    speakers, clusters = map(pd.Series, zip(*pairs, strict=True))
    names = label_names(speakers, clusters)
    assert len(set(names.values())) == len(names)
    for cluster, name in names.items():
        counts = speakers[clusters == cluster].value_counts()
        if name in set(speakers):
            assert counts[name] == counts.max()


def test_a_perfect_clustering_changes_no_label():
    speakers = pd.Series(list("aabbc"))
    clusters = speakers.map({"a": "7", "b": "3", "c": "x"})
    assert label_names(speakers, clusters) == {"3": "b", "7": "a", "x": "c"}
    found = clustering_figures(speakers, clusters)
    assert found["purity"] == 1 and found["NMI"] == pytest.approx(1)


def test_ids_of_a_manifest_are_taken_as_they_are(tmp_path):
    path = tmp_path / "clusters.txt"
    path.write_text(
        "v1/wav/a/x/0 1\nv2/wav/a/x/0 2\nc/x/0.m4a 3\nd/x/0.wav 4\n"
    )
    ids = ["v1/wav/a/x/0", "v2/wav/a/x/0", "c/x/0.m4a", "d/x/0"]
    found = read_clusters(path, set(ids))
    assert list(found) == ids and list(found.values()) == list("1234")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "has no lines; a line is `utterance cluster`"),
        (b"a/b/1 1\na/b/2\n", "Line 2 of .*`a/b/2` must be"),
        (b"a/b/1 1 2\n", "Line 1 of .*`a/b/1 1 2` must be"),
        (b"a/b/1 1\nwav/a/b/1.wav 2\n", "a/b/1 twice, again in line 2"),
        (b"a/b/1 \xff\n", "is not UTF-8"),
        (b"a\0b 1\n", "zero byte"),
    ],
)
def test_a_broken_file_is_refused(text, message, tmp_path):
    path = tmp_path / "clusters.txt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_clusters(path)


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="cluster file .* not exist"):
        read_clusters(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="is a folder"):
        read_clusters(tmp_path)
