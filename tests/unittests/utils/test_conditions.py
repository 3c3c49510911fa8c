"""Error rates by condition."""

import numpy as np
import pandas as pd
import pytest

from speechbrain_ext.utils.conditions import (
    condition_table,
    condition_tables,
    pair_labels,
    session_labels,
    utterance_conditions,
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


MANIFEST = pd.DataFrame({"ID": ["a/1", "b/1"], "spk_id": ["a", "b"]})


@pytest.mark.parametrize(
    "text",
    [
        "speaker\tgender\na\tf\nb\tm\n",
        "ID;gender\r\na/1;f\r\n\r\nb/1;m\r\n",
        "\ufeffspk_id,gender\na,f\nb,m\na,f\n",
        "spk_id gender\na f\nb m\n",
    ],
)
def test_tables_of_several_forms_are_read(text, tmp_path):
    path = tmp_path / "genders"
    path.write_bytes(text.encode())
    found = utterance_conditions(MANIFEST, path)
    assert found["gender"].to_dict() == {"a/1": "f", "b/1": "m"}


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "column ID or spk_id, but .* has none"),
        (b"\n\n", "has none"),
        (b"name,gender\na,f\n", "has name, gender"),
        (b"spk_id,gender\n", "has 0 rows"),
        (b"spk_id,speaker\na,a\n", "columns spk_id, spk_id"),
        (b"spk_id,gender\na,f,x\n", "row 2 of .* has 3: a,f,x"),
        (b"spk_id,gender\na,f\nb\n", "row 3 of .* has 1: b"),
        (b"spk_id,gender\na,f\na,m\n", "different rows for 1, for example a"),
        (b"spk_id,gender\nc,f\n", "all 1 values .* are unknown, for example c"),
        (b"\xff\xfe\x00\x00", "cannot be read as one"),
        (b"spk_id,\x00\na,f\n" + b"x" * 200_000, "conditions"),
    ],
)
def test_tables_that_are_broken_are_said(content, match, tmp_path):
    path = tmp_path / "conditions.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        utterance_conditions(MANIFEST, path)
    assert "conditions.csv" in str(error.value)
    with pytest.raises(OSError, match="Is a directory"):
        utterance_conditions(MANIFEST, tmp_path)


def test_attributes_that_are_left_out_are_told(tmp_path, caplog):
    rows = [(f"s{i}/1", f"s{i}") for i in range(12)]
    manifest = pd.DataFrame(rows, columns=["ID", "spk_id"])
    text = "speaker,gender,age,corpus\n"
    text += "".join(f"s{i},{'fm'[i % 2]},{20 + i},one\n" for i in range(12))
    path = tmp_path / "table.csv"
    path.write_text(text)
    assert list(utterance_conditions(manifest, path)) == ["gender"]
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 2
    assert "column age" in told[0] and "12 values; from 2 to 10" in told[0]
    assert "column corpus" in told[1] and "1 values" in told[1]
