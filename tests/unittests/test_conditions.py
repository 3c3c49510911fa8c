"""Error rates by condition."""

import numpy as np
import pandas as pd
import pytest

from speechbrain_ext.utils.conditions import (
    condition_table,
    condition_tables,
    pair_labels,
    session_labels,
)
from speechbrain_ext.utils.metrics import EER


def test_labels_do_not_depend_on_the_order_of_a_trial():
    one = ["f", "m", "", "f"]
    other = ["m", "m", "f", "f"]
    labels = pair_labels(one, other)
    assert labels.tolist() == ["f / m", "m", " / f", "f"]
    assert (pair_labels(other, one) == labels).all()


def test_sessions_are_told_by_the_ids():
    labels = session_labels(["a/s/1", "a/s/1", "x"], ["b/s/1", "a/s/2", "y"])
    same = "same session"
    # another speaker's session of the same name is another; bare IDs have one
    assert labels.tolist() == ["other session", same, same]


def test_conditions_add_up_to_the_whole():
    generator = np.random.default_rng(0)
    targets = generator.random(500) < 0.4
    scores = generator.normal(size=500) + 2 * targets
    labels = np.where(generator.random(500) < 0.3, "a", "b")
    labels[~targets & (generator.random(500) < 0.2)] = "c"
    table = condition_table(scores, targets, labels).set_index("condition")
    value, threshold = EER(scores[targets], scores[~targets])
    assert table["targets"].sum() == targets.sum()
    assert table["nontargets"].sum() == (~targets).sum()
    assert table.loc["c", "EER %"] is None
    assert table.loc["c", "FRR %"] is None
    accepted = (table["FAR %"] * table["nontargets"]).sum() / 100
    assert accepted == pytest.approx((scores[~targets] > threshold).sum())
    own = labels == "a"
    expected = 100 * EER(scores[own & targets], scores[own & ~targets])[0]
    assert table.loc["a", "EER %"] == expected


def test_every_condition_gets_its_table():
    ids = ["a/s/1", "a/t/1", "b/s/1", "c/s/1"]
    conditions = pd.DataFrame({"gender": ["f", "f", "m", "f"]}, index=ids)
    trials = pd.DataFrame(
        [(ids[0], ids[1], True), (ids[0], ids[2], False), (*ids[2:], False)],
        columns=["enrol", "test", "target"],
    )
    scores = np.array([0.9, 0.1, 0.2])
    parts = condition_tables(trials, conditions, "cosine", scores)
    assert [p.split(";")[0] for p in parts[::2]] == [
        *("cosine by session", "cosine by gender")
    ]
    assert parts[3]["condition"].tolist() == ["f", "f / m"]
    assert parts[3]["nontargets"].tolist() == [0, 2]
    assert condition_tables(trials, None, "cosine", scores) == []
