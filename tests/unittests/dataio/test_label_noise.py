"""Label noise: counts, invariances, and a digest that no machine changes."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_tables import mixed_sizes, table
from processes import run_script

from speechbrain_ext.dataio.label_noise import corrupt_labels
from speechbrain_ext.dataio.manifests import read_manifest, write_manifest

KINDS = ("symmetric", "pair", "session", "open_set", "split", "merge")
KINDS += ("mixture",)


def options(kind):
    """What a kind cannot do without."""
    outside = {"outside": table(9, prefix="x")}
    if kind == "mixture":
        return {
            "kinds": [
                {"kind": "session", "rate": 0.3},
                {"kind": "open_set", "rate": 0.1, **outside},
                {"kind": "symmetric", "rate": 0.2, "exact": True},
                {"kind": "symmetric", "rate": 0.2, "exact": True},
                {"kind": "merge", "rate": 0.5},
            ]
        }
    return outside if kind == "open_set" else {}


def corrupted(manifest, kind, rate, seed):
    """``corrupt_labels`` with what the kind needs; a mixture has no rate."""
    rate = None if kind == "mixture" else rate
    return corrupt_labels(manifest, kind, rate, seed, **options(kind))


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0, 0.6), st.integers(0, 2**31), st.randoms())
@settings(max_examples=15, deadline=None)
def test_what_holds_for_every_kind(kind, rate, seed, random):
    manifest = table()
    rate = max(rate, 0.3) if kind == "session" else rate  # of two sessions
    noisy, report = corrupted(manifest, kind, rate, seed)
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
    if kind in ("symmetric", "pair", "session", "open_set"):
        assert set(noisy["spk_id"]) <= set(manifest["spk_id"])
    json.dumps(report)
    # the order of the rows changes nothing
    order = list(range(len(manifest)))
    random.shuffle(order)
    shuffled, again = corrupted(manifest.iloc[order], kind, rate, seed)
    assert again == report
    found = dict(zip(shuffled["ID"], shuffled["spk_id"], strict=True))
    assert found == dict(zip(noisy["ID"], noisy["spk_id"], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_noise_and_other_seeds(kind):
    if kind != "mixture":
        noisy, report = corrupted(table(), kind, 0.0, 1)
        assert report["corrupted"] == 0
        assert list(noisy["spk_id"]) == list(table()["spk_id"])
    prints = {
        corrupted(table(), kind, 0.4, seed)[1]["fingerprint"]
        for seed in range(5)
    }
    assert len(prints) > 1


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
@given(st.integers(0, 100), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_exact_is_exact_in_every_class_and_never_true(kind, percent, seed):
    manifest = table()
    noisy, report = corrupt_labels(
        manifest, kind, percent / 100, seed, exact=True
    )
    counts = manifest["spk_id"].value_counts()
    for name, (wrong, count) in report["corrupted_by_class"].items():
        assert count == counts[name]
        assert wrong == (percent * count + 50) // 100
    if percent == 100:
        assert (noisy["spk_id"] != noisy["spk_id_clean"]).all()


# computed once; every machine and version must find these labels
DIGESTS = {
    "symmetric": "9746fa7fb2f1c2bf36cac6333b9281e6",
    "pair": "ed46289c2a5b902c68e2cc6df269bb1a",
    "open_set": "d838e93dd9f544b4953ede3e93355a73",
    "split": "141998f94ca8af77e5dce17ae991933f",
    "merge": "1499fb9f5daa4d8afe76c7edfb7f56ad",
    "session": "efe0d8990eeb6a7298c656390d721758",
    "mixture": "bcda4bb725ebe5d19dd4b66588c00f61",
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_same_on_every_machine(kind):
    _, report = corrupted(table(), kind, 0.4, 10086)
    assert report["fingerprint"] == DIGESTS[kind]


# Computed before the kinds had a module of their own
OLDER = [
    ("symmetric", {"exact": True}, "a707c464df3feb8e0588a0e391d5383e"),
    ("pair", {"exact": True}, "a9b5984ec81dbad66a259d523940a10e"),
    ("pair", {"by": "nearest"}, "1dd5d3acc7197b77e9928e40a5f5366e"),
    (
        "pair",
        {"by": "nearest", "exact": True},
        "3854272d2503d8fb4ee0055740429403",
    ),
    ("split", {"by": "session"}, "982824c34a3938d309adfc9668a89430"),
    ("split", {"parts": 3}, "79001f66dc062656b522cf33a41c6c47"),
    ("merge", {"parts": 3}, "c6032260dcad78f4cbc17cbaab8554a8"),
]


@pytest.mark.parametrize(("kind", "more", "digest"), OLDER)
def test_options_draw_the_labels_that_they_drew_before(kind, more, digest):
    if more.get("by") == "nearest":
        more = more | {"embeddings": {f"id{n}": [n, 1.0] for n in range(6)}}
    _, report = corrupt_labels(table(), kind, 0.4, 7, **more)
    assert report["fingerprint"] == digest


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
@given(st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_only_speakers_with_several_sessions_are_corrupted(kind, rate, seed):
    manifest = mixed_sizes()
    noisy, report = corrupt_labels(
        manifest, kind, rate, seed, exact=True, min_sessions=2
    )
    # neither do others get utterances of theirs
    for column in ("spk_id", "spk_id_clean"):
        one = noisy[noisy[column].isin(["id0", "id5"])]
        assert (one["spk_id"] == one["spk_id_clean"]).all()
    for name, (wrong, count) in report["corrupted_by_class"].items():
        share = int(np.floor(rate * count + 0.5))
        assert wrong == (0 if name in ("id0", "id5") else share)
    confined = report["confined_to"]
    assert confined["speakers"] == 6
    assert confined["utterances"] == len(manifest) - 5 - 10
    assert confined["rate_reached"] * confined["utterances"] == pytest.approx(
        report["corrupted"]
    )


def test_a_mixture_changes_an_utterance_once():
    manifest = table()
    parts = options("mixture")["kinds"]
    noisy, report = corrupt_labels(
        manifest, "mixture", seed=5, **options("mixture")
    )
    found = report["kinds"]
    assert [one["kind"] for one in found] == [one["kind"] for one in parts]
    assert sum(one["corrupted"] for one in found) == report["corrupted"]
    left = len(manifest)
    for one in found:  # each acts on what is left
        added = one["utterances"] - left
        assert added == (one["corrupted"] if one["kind"] == "open_set" else 0)
        left -= 0 if added else one["corrupted"]
    assert len({one["seed"] for one in found}) == len(found)
    # the first part is what it is alone with its seed
    alone, _ = corrupt_labels(manifest, "session", 0.3, found[0]["seed"])
    moved = alone["spk_id"] != alone["spk_id_clean"]
    both = noisy.iloc[: len(manifest)]
    assert list(both["spk_id"][moved]) == list(alone["spk_id"][moved])


@pytest.mark.parametrize(
    ("kind", "rate", "more", "message"),
    [
        ("uniform", 0.1, {}, "got 'uniform'"),
        ("symmetric", 1.1, {}, r"\[0, 1\], got 1.1"),
        ("symmetric", float("nan"), {}, "got nan"),
        ("symmetric", 0.1, {"parts": 2}, "`parts` does not go with kind"),
        ("open_set", 0.1, {}, "`outside` must be a manifest .* without it"),
        ("clusters", None, {}, "`clusters` must be the cluster of each"),
        ("clusters", None, {"clusters": "a.txt"}, "must map the ID .*'a.txt'"),
        ("clusters", 0.1, {"clusters": {}}, "`rate` does not go with kind"),
        ("clusters", None, {"clusters": {"a": "1"}}, "lacks 90 of 90 utter"),
        ("mixture", None, {}, "`kinds` must be a list of kinds"),
        ("mixture", None, {"kinds": []}, r"`kinds` must be a list .* got \[\]"),
        ("mixture", None, {"kinds": {"kind": "pair"}}, "must be a list such"),
        ("mixture", None, {"kinds": [5]}, "must hold blocks .* got 5"),
        ("mixture", None, {"kinds": [{"rate": 1}]}, "must hold blocks"),
        (
            "mixture",
            0.1,
            {"kinds": [{"kind": "pair", "rate": 0}]},
            "`rate` doe",
        ),
        (
            "mixture",
            None,
            {"kinds": [{"kind": "mixture", "kinds": []}]},
            "must not hold kind 'mixture'",
        ),
        ("mixture", None, {"kinds": [{"kind": "pair"}]}, "share .* got None"),
        (
            "mixture",
            None,
            {
                "kinds": [
                    {"kind": "symmetric", "rate": 1.0, "exact": True},
                    {"kind": "pair", "rate": 0.5},
                ]
            },
            "before 'pair' in `kinds` changed every label",
        ),
        (
            "mixture",
            None,
            {"kinds": [{"kind": "pair", "rate": 0, "parts": 2}]},
            "`parts` does not go with kind 'pair'",
        ),
        ("session", 0.1, {}, "less than half a session .* sessions is 2"),
        ("session", 0.5, {"exact": True}, "`exact` does not go with"),
        ("session", 0.5, {"min_sessions": 3}, "leaves fewer than two speak"),
        ("session", 0.5, {"min_sessions": 0}, "of 1 or more, got 0"),
        ("session", 0.5, {"min_sessions": True}, "of 1 or more, got True"),
        ("open_set", 0.1, {"min_sessions": 2}, "`min_sessions` does not go"),
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


@pytest.mark.parametrize("seed", [None, "1", 1.0, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(ValueError, match=f"integer, got {seed!r}"):
        corrupt_labels(table(), "pair", 0.1, seed)


@pytest.mark.parametrize("kind", ["symmetric", "pair", "session"])
def test_one_speaker_cannot_be_confused(kind):
    more = {} if kind == "session" else {"exact": True}
    with pytest.raises(ValueError, match="two speakers .* got 1"):
        corrupt_labels(table(1), kind, 0.5, 0, **more)


def test_outside_speakers_are_added_once():
    part = {"kind": "open_set", "rate": 0.1, "outside": table(9, prefix="x")}
    with pytest.raises(
        ValueError, match="open_set of `kinds` has the ID x.* t"
    ):
        kinds = [part | {"seed": 1}, part | {"seed": 1}]
        corrupt_labels(table(), "mixture", kinds=kinds)


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


def test_command_writes_what_the_function_makes(tmp_path):
    manifest = table()
    manifest["duration"], manifest["start"], manifest["stop"] = 1.0, 0, 16000
    write_manifest(manifest, tmp_path / "train.csv")
    words = ["make_noisy_labels.py", str(tmp_path / "train.csv")]
    words += [str(tmp_path / "noisy.csv"), "--kind=symmetric", "--seed=5"]
    words.append("--exact")
    done = run_script([*words, "--rate=0.3"], RECIPE)
    assert done.returncode == 0, done.stderr
    noisy, report = corrupt_labels(manifest, "symmetric", 0.3, 5, exact=True)
    assert f"{report['corrupted']} of {len(noisy)} labels" in done.stdout
    found = read_manifest(tmp_path / "noisy.csv")
    assert list(found["spk_id"]) == list(noisy["spk_id"])
    assert list(found["spk_id_clean"]) == list(noisy["spk_id_clean"])
    written = json.loads((tmp_path / "label_noise.json").read_text())
    assert written == report
    done = run_script([*words, "--rate=7"], RECIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: `rate`")
