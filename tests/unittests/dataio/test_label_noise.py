"""Label noise: counts, invariances, and a digest that no machine changes."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_ext.dataio.label_noise import corrupt_labels, write_corrupted
from speechbrain_ext.dataio.manifests import read_manifest, write_manifest

KINDS = ("symmetric", "pair", "open_set", "split", "merge")


def table(speakers=6, sessions=2, utterances=5, prefix="id"):
    """A manifest; speaker n has n utterances more."""
    rows = [
        (f"{prefix}{s}/s{e}/{u:03}", f"{prefix}{s}")
        for s in range(speakers)
        for e in range(sessions)
        for u in range(utterances + s)
    ]
    manifest = pd.DataFrame(rows, columns=["ID", "spk_id"])
    manifest["wav"] = "/data/" + manifest["ID"] + ".wav"
    return manifest


def options(kind):
    """What a kind cannot do without."""
    return {"outside": table(9, prefix="x")} if kind == "open_set" else {}


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0, 0.6), st.integers(0, 2**31), st.randoms())
@settings(max_examples=15, deadline=None)
def test_what_holds_for_every_kind(kind, rate, seed, random):
    manifest = table()
    noisy, report = corrupt_labels(manifest, kind, rate, seed, **options(kind))
    clean = noisy.iloc[: len(manifest)]
    assert list(clean["ID"]) == list(manifest["ID"])
    assert list(clean["spk_id_clean"]) == list(manifest["spk_id"])
    assert "spk_id_clean" not in manifest  # the caller's own is untouched
    wrong = noisy["spk_id"] != noisy["spk_id_clean"]
    assert report["corrupted"] == wrong.sum()
    assert report["rate_reached"] == wrong.mean()
    assert sum(n for *_, n in report["transitions"]) == wrong.sum()
    by_class = report["corrupted_by_class"]
    assert sum(n for n, _ in by_class.values()) == wrong.sum()
    assert sum(n for _, n in by_class.values()) == len(noisy)
    if kind in ("symmetric", "pair", "open_set"):
        assert set(noisy["spk_id"]) <= set(manifest["spk_id"])
    json.dumps(report)
    # the order of the rows changes nothing
    order = list(range(len(manifest)))
    random.shuffle(order)
    shuffled, again = corrupt_labels(
        manifest.iloc[order], kind, rate, seed, **options(kind)
    )
    assert again == report
    found = dict(zip(shuffled["ID"], shuffled["spk_id"], strict=True))
    assert found == dict(zip(noisy["ID"], noisy["spk_id"], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_noise_and_other_seeds(kind):
    noisy, report = corrupt_labels(table(), kind, 0.0, 1, **options(kind))
    assert report["corrupted"] == 0
    assert list(noisy["spk_id"]) == list(table()["spk_id"])
    prints = {
        corrupt_labels(table(), kind, 0.4, seed, **options(kind))[1][
            "fingerprint"
        ]
        for seed in range(5)
    }
    assert len(prints) > 1


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
@given(st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_exact_is_exact_in_every_class_and_never_true(kind, rate, seed):
    manifest = table()
    noisy, report = corrupt_labels(manifest, kind, rate, seed, exact=True)
    counts = manifest["spk_id"].value_counts()
    for name, (wrong, count) in report["corrupted_by_class"].items():
        assert count == counts[name]
        assert wrong == int(np.floor(rate * count + 0.5))
    if rate == 1:
        assert (noisy["spk_id"] != noisy["spk_id_clean"]).all()


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


@pytest.mark.parametrize("by", ["random", "session"])
def test_split_makes_labels_of_one_speaker(by):
    noisy, report = corrupt_labels(table(), "split", 0.5, 7, by=by)
    assert report["classes_after"] == 6 + 3
    labels = noisy.groupby("spk_id_clean")["spk_id"].nunique()
    assert sorted(labels) == [1, 1, 1, 2, 2, 2]
    if by == "session":
        session = noisy["ID"].str.rpartition("/")[0]
        assert (noisy.groupby(session)["spk_id"].nunique() == 1).all()


def test_merge_makes_one_label_of_speakers():
    noisy, report = corrupt_labels(table(), "merge", 1.0, 7, parts=3)
    assert report["classes_after"] == 2
    speakers = noisy.groupby("spk_id")["spk_id_clean"].nunique()
    assert list(speakers) == [3, 3]


# computed once; every machine and version must find these labels
DIGESTS = {
    "symmetric": "9746fa7fb2f1c2bf36cac6333b9281e6",
    "pair": "ed46289c2a5b902c68e2cc6df269bb1a",
    "open_set": "d838e93dd9f544b4953ede3e93355a73",
    "split": "141998f94ca8af77e5dce17ae991933f",
    "merge": "1499fb9f5daa4d8afe76c7edfb7f56ad",
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_same_on_every_machine(kind):
    _, report = corrupt_labels(table(), kind, 0.4, 10086, **options(kind))
    assert report["fingerprint"] == DIGESTS[kind]


@pytest.mark.parametrize(
    ("kind", "rate", "more", "message"),
    [
        ("uniform", 0.1, {}, "got 'uniform'"),
        ("symmetric", 1.1, {}, r"\[0, 1\], got 1.1"),
        ("symmetric", float("nan"), {}, "got nan"),
        ("symmetric", 0.1, {"parts": 2}, "`parts` does not go with kind"),
        ("open_set", 0.1, {}, "must be a manifest"),
        ("open_set", 0.1, {"outside": table()}, "6 speakers of the training"),
        ("open_set", 0.9, {"outside": table(2, prefix="x")}, "must have 810"),
        ("split", 0.1, {"parts": 1}, "2 or more, got 1"),
        ("split", 1.0, {"parts": 3, "by": "session"}, "at most the session"),
        ("split", 0.1, {"by": "hour"}, "got 'hour'"),
        ("merge", 0.1, {"parts": 7}, "at most the 6 speakers, got 7"),
        ("pair", 0.1, {"embeddings": {"id0": [1]}}, "lacks 5 speakers"),
        ("pair", 0.1, {"by": "nearest"}, "give `embeddings_from`, the pretr"),
        ("pair", 0.1, {"by": "session"}, "'name' or 'nearest', got 'session'"),
        ("pair", 0.1, {"by": "name", "embeddings": {}}, "go together"),
        (
            "pair",
            0.1,
            {"embeddings": {f"id{n}": [float(n), 0] for n in range(6)}},
            r"not zero; \['id0'\] are not",
        ),
        ("pair", "a lot", {}, r"\[0, 1\], got 'a lot'; 30 % is 0.3"),
        ("pair", None, {}, "got None"),
        ("pair", True, {}, "got True"),
        ("pair", [0.1], {}, r"got \[0.1\]"),
        (["pair"], 0.1, {}, r"must be one of .*, got \['pair'\]"),
        ("pair", 0.1, {"exact": "yes"}, "True or False, got 'yes'"),
        ("merge", 0.1, {"parts": "two"}, "2 or more, got 'two'"),
        ("merge", 0.1, {"parts": 2.5}, "2 or more, got 2.5"),
    ],
)
def test_bad_arguments_are_rejected(kind, rate, more, message):
    with pytest.raises(ValueError, match=message):
        corrupt_labels(table(), kind, rate, 0, **more)


def test_bad_manifests_are_rejected():
    noisy, _ = corrupt_labels(table(), "pair", 0.1, 0)
    with pytest.raises(ValueError, match="corrupted already"):
        corrupt_labels(noisy, "pair", 0.1, 0)
    twice = pd.concat([table(), table().head(1)])
    with pytest.raises(ValueError, match="id0/s0/000 twice"):
        corrupt_labels(twice, "pair", 0.1, 0)
    with pytest.raises(ValueError, match="no rows"):
        corrupt_labels(table().head(0), "pair", 0.1, 0)
    with pytest.raises(ValueError, match="column wav"):
        corrupt_labels(table().drop(columns="wav"), "pair", 0.1, 0)


def test_manifest_and_report_stand_side_by_side(tmp_path):
    manifest = table()
    manifest["duration"], manifest["start"], manifest["stop"] = 1.0, 0, 16000
    noisy, report = corrupt_labels(manifest, "merge", 0.5, 1)
    written = write_corrupted(noisy, report, tmp_path / "noisy.csv")
    assert written == tmp_path / "label_noise.json"
    assert json.loads(written.read_text()) == report
    found = read_manifest(tmp_path / "noisy.csv")
    assert list(found["spk_id"]) == list(noisy["spk_id"])


def test_command_writes_what_the_function_makes(tmp_path):
    manifest = table()
    manifest["duration"], manifest["start"], manifest["stop"] = 1.0, 0, 16000
    write_manifest(manifest, tmp_path / "train.csv")
    command = [sys.executable, RECIPE / "make_noisy_labels.py"]
    command += [tmp_path / "train.csv", tmp_path / "noisy.csv"]
    command += ["--kind=symmetric", "--rate=0.3", "--seed=5", "--exact"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    noisy, report = corrupt_labels(manifest, "symmetric", 0.3, 5, exact=True)
    assert f"{report['corrupted']} of {len(noisy)} labels" in done.stdout
    found = read_manifest(tmp_path / "noisy.csv")
    assert list(found["spk_id"]) == list(noisy["spk_id"])
    assert list(found["spk_id_clean"]) == list(noisy["spk_id_clean"])
    written = json.loads((tmp_path / "label_noise.json").read_text())
    assert written == report
    command = [part if part != "--rate=0.3" else "--rate=7" for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `rate`")
