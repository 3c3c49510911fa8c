"""Trial lists in both forms, models, and draws of development trials."""

import itertools

import pandas as pd
import pytest

from speechbrain_ext.dataio.trials import (
    find_trial_lists,
    make_trials,
    read_enrolment,
    read_trials,
    require_utterances,
    write_expanded_trials,
    write_trials,
)
from speechbrain_ext.dataio.utterance_ids import literal_ids

VOXCELEB = (
    "1 id1/a.b/1.wav id1/c/1.wav\n\n0 id1/a.b/1.wav id2/c/1.wav\n"
    "0 id1/a.b/1.wav id2/c/1.wav\n"
)
KALDI = (
    "id1/a.b/1 /data/wav/id1/c/1.flac target\r\n"
    "id1/a.b/1 wav/id2/c/1.M4A nontarget\r\n"
    "id1/a.b/1 id2/c/1 nontarget\r\n"
)


def manifest_of(sizes):
    """IDs of ``{speaker: [utterances of each session]}``."""
    ids = [
        f"{speaker}/s{session}/{number}"
        for speaker, sessions in sizes.items()
        for session, count in enumerate(sessions)
        for number in range(count)
    ]
    speakers = [name.split("/")[0] for name in ids]
    return pd.DataFrame({"ID": ids, "spk_id": speakers})


@pytest.mark.parametrize("text", [VOXCELEB, KALDI, "\ufeff" + VOXCELEB])
def test_read_trials_reads_both_forms(tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    trials = read_trials(path)
    assert trials.enrol.tolist() == ["id1/a.b/1"] * 3
    assert trials.test.tolist() == ["id1/c/1", "id2/c/1", "id2/c/1"]
    assert trials.target.tolist() == [True, False, False]
    assert trials.target.dtype == bool


def test_trials_without_labels_are_read_where_none_are_needed(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\nid1/a/1.wav id2/a/1.wav\nid1/a/1 id1/b/1\n")
    trials = read_trials(path, labelled=False)
    assert trials.to_dict("list") == {
        "enrol": ["id1/a/1", "id1/a/1"],
        "test": ["id2/a/1", "id1/b/1"],
    }
    with pytest.raises(ValueError, match="Line 2 .* must be `1.0 enrol test`"):
        read_trials(path)
    path.write_text("a/a/1 b/a/1\n1 a/a/1 b/a/1\n")
    with pytest.raises(ValueError, match="Line 2 .* must be `enrol test`,"):
        read_trials(path, labelled=False)
    for text in (VOXCELEB, KALDI):
        path.write_bytes(text.encode())
        pd.testing.assert_frame_equal(
            read_trials(path, labelled=False), read_trials(path)
        )
    path.write_text("a/a/1 b/a/1 nontarget\n")
    assert read_trials(path, labelled=False)["target"].tolist() == [False]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "has no trials"),
        (" \n\n", "has no trials"),
        ("1 a b\n0 a\n", "Line 2 .* `0 a` must be `1|0 enrol test`"),
        ("1 a b\n\n2 a b\n", "Line 3 .* `2 a b` must be"),
        ("1 a b c\n", "Line 1 .* `1 a b c` must be"),
        ("a b c\n", "Line 1 .* `a b c` must be"),
        ("a b target\n1 a b\n", "Line 2 .* `1 a b` must be `enrol test"),
        ("1 a b\n1 a c\n", "only target trials .2."),
        ("a b nontarget\n", "only nontarget trials .1."),
    ],
)
def test_read_trials_rejects_broken_list(tmp_path, text, reason):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_trials(path)


def test_read_trials_rejects_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.txt does not exist"):
        read_trials(tmp_path / "gone.txt")


def test_require_utterances_rejects_unknown_utterance(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(VOXCELEB)
    trials = read_trials(path)
    require_utterances(trials, {"id1/a.b/1", "id1/c/1", "id2/c/1"}, path)
    with pytest.raises(FileNotFoundError, match="1 files .* line 3 .*id2/c/1;"):
        require_utterances(trials, {"id1/a.b/1", "id1/c/1"}, path)


def test_require_utterances_names_twenty(tmp_path):
    path = tmp_path / "list.txt"
    lines = [f"{n % 2} a/b/{n:02} a/c/{n:02}\n" for n in range(12)]
    path.write_text("".join(lines))
    with pytest.raises(FileNotFoundError, match="24 .*a/c/07 and 4 more;"):
        require_utterances(read_trials(path), (), path)


def test_find_trial_lists_looks_into_meta(tmp_path):
    names = ["veri_b.txt", "veri_a.txt", "list_test_all.txt", "my_trials_1.txt"]
    (tmp_path / "meta").mkdir()
    for name in [*names, "train_list.txt", "trials.csv"]:
        (tmp_path / "meta" / name).touch()
    (tmp_path / "veri_c.txt").touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "veri_d.txt").touch()
    found = find_trial_lists([tmp_path, tmp_path / "meta", tmp_path / "gone"])
    expected = [tmp_path / "veri_c.txt"]
    expected += [tmp_path / "meta" / name for name in sorted(names)]
    assert found == [str(path) for path in expected]


def test_make_trials_draws_valid_pairs_once():
    manifest = manifest_of({"a": [3, 4], "b": [5], "c": [2, 1, 2], "d": [1]})
    trials = make_trials(manifest, 40, seed=3)
    assert len(trials) == 40 and trials.target.sum() == 20
    sides = [
        trials[side].str.split("/", expand=True) for side in ("enrol", "test")
    ]
    assert ((sides[0][0] == sides[1][0]) == trials.target).all()
    across = sides[0][1] != sides[1][1]
    several = sides[0][0].isin(["a", "c"])
    assert across[trials.target & several].all()
    pairs = {frozenset(pair) for pair in trials[["enrol", "test"]].values}
    assert len(pairs) == 40 and all(len(pair) == 2 for pair in pairs)


def test_make_trials_takes_speakers_in_turn():
    manifest = manifest_of({"a": [20, 20], "b": [2, 2], "c": [1, 1]})
    trials = make_trials(manifest, 20, seed=0)
    counts = trials.enrol[trials.target].str[0].value_counts().to_dict()
    assert counts == {"a": 5, "b": 4, "c": 1}


def test_make_trials_draws_all_where_fewer_are_possible():
    manifest = manifest_of({"a": [1, 2], "b": [2], "c": [1]})
    trials = make_trials(manifest, 1000, seed=0)
    drawn = {
        (frozenset((enrol, test)), target)
        for enrol, test, target in trials.itertuples(index=False)
    }
    expected = set()
    for one, other in itertools.combinations(manifest.ID, 2):
        same = one[0] == other[0]
        if not same or one[0] == "b" or one[:4] != other[:4]:
            expected.add((frozenset((one, other)), same))
    assert drawn == expected and len(trials) == len(expected)


def test_make_trials_depends_on_seed_alone():
    manifest = manifest_of({name: [2, 3] for name in "abcdef"})
    trials = make_trials(manifest, 30, seed=1)
    shuffled = manifest.sample(frac=1, random_state=0)
    assert make_trials(shuffled, 30, seed=1).equals(trials)
    assert not make_trials(manifest, 30, seed=2).equals(trials)


@pytest.mark.parametrize(
    "sizes, count, reason",
    [
        ({"a": [2]}, 10, "No nontarget pair among 2 utterances of 1"),
        ({"a": [1], "b": [1]}, 10, "No target pair among 2 utterances of 2"),
        ({"a": [2], "b": [1]}, 1, "at least 2 .* got 1"),
    ],
)
def test_make_trials_rejects_impossible(sizes, count, reason):
    with pytest.raises(ValueError, match=reason):
        make_trials(manifest_of(sizes), count, seed=0)


def test_trials_that_are_not_written_may_have_white_space():
    trials = make_trials(manifest_of({"a b": [2], "c": [1]}), 10, seed=0)
    assert trials["enrol"].str.startswith("a b/").any()


def test_write_trials_is_read_again(tmp_path):
    manifest = manifest_of({name: [2, 3] for name in "abc"})
    trials = make_trials(manifest, 20, seed=0)
    path = tmp_path / "dev_trials.txt"
    write_trials(trials, path)
    pd.testing.assert_frame_equal(read_trials(path), trials, check_dtype=False)


def test_write_trials_rejects_white_space(tmp_path):
    trials = pd.DataFrame(
        {"enrol": ["a/s/1"], "test": ["b c/s/1"], "target": [True]}
    )
    with pytest.raises(ValueError, match="`b c/s/1` has white space"):
        write_trials(trials, tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_enrolment_list_is_read(tmp_path):
    path = tmp_path / "enrolment"
    path.write_text("m1 wav/a/s/1.wav a/s/2\n\nm2 b/s/1.flac\n")
    expected = {"m1": ["a/s/1", "a/s/2"], "m2": ["b/s/1"]}
    assert read_enrolment(path) == expected
    for line in ("m3", "m1 a/s/9", "m1.wav a/s/9", "m4 a/s/1 a/s/1.wav"):
        path.write_text(f"m1 a/s/1\n{line}\n")
        with pytest.raises(ValueError, match=f"Line 2 .*`{line}`"):
            read_enrolment(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_enrolment(tmp_path / "nowhere")


def test_trials_of_models_become_trials_of_their_utterances(tmp_path):
    path = tmp_path / "list"
    path.write_text("1 m a/s/3\n0 m b/s/1\n1 n b/s/1\n1 m a/s/3\n")
    models = {"m": ["a/s/1", "a/s/2"], "n": ["b/s/2"]}
    write_expanded_trials(path, models, tmp_path / "written")
    found = read_trials(tmp_path / "written")
    assert found.to_numpy().tolist() == [
        ["a/s/1", "a/s/3", True],
        ["a/s/2", "a/s/3", True],
        ["a/s/1", "b/s/1", False],
        ["a/s/2", "b/s/1", False],
        ["b/s/2", "b/s/1", True],
    ]
    del models["n"]
    with pytest.raises(ValueError, match="1 models that are not enrolled: n;"):
        write_expanded_trials(path, models, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_ids_that_look_like_paths_are_taken_as_they_are(tmp_path):
    """As from `0.m4a.wav`, or of a CSV with IDs of its own."""
    names = ["s1/x/0.m4a", "a/wav/s1/x/1", "./s1/x/2", "/s1/3"]
    path = tmp_path / "list"
    path.write_text(
        "".join(f"{i % 2} {n} s/x/1.wav\n" for i, n in enumerate(names))
    )
    literal = literal_ids([*names, "s/x/1"])
    assert literal == set(names)
    found = read_trials(path, literal=literal)
    assert found.enrol.tolist() == names and set(found.test) == {"s/x/1"}
