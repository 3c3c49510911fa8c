"""The noise suite: the same files everywhere, exact counts in each class."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_tables import mixed_sizes, table

from speechbrain_ext.dataio.label_noise import corrupt_labels
from speechbrain_ext.dataio.manifests import read_manifest, write_manifest
from speechbrain_ext.dataio.noise_suite import suite_settings, write_suite

# of SHA256SUMS for the manifest below; every machine must find it
SUMS = "b573bd5b02ad89b9ac814cb46a2733e23f39b48ef2b1e29f090bf899115dbf52"


def manifest():
    """Speakers with 1 to 8 sessions."""
    whole = table(10, sessions=8, utterances=1)
    number = whole["ID"].str.extract(r"id(\d)/s(\d)").astype(int)
    return whole[number[1] <= number[0]].reset_index(drop=True)


def more():
    """What the lists need that are left out otherwise."""
    angles = 2.4 * np.arange(10)
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    near = {f"id{n}": vector for n, vector in enumerate(vectors)}
    return {"embeddings": near, "outside": table(9, prefix="x")}


def contents(folder):
    """Names and bytes of a suite's files."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """The folder of a whole suite, and what was returned."""
    folder = tmp_path_factory.mktemp("suite") / "lists"
    return folder, write_suite(manifest(), folder, workers=1, **more())


def test_a_suite_is_the_same_in_any_order_and_on_any_processes(suite, tmp_path):
    found = contents(suite[0])
    assert len(found) == 3 * 15 + 2
    shuffled = manifest().sample(frac=1, random_state=3)
    write_suite(manifest(), tmp_path / "a", workers=3, **more())
    write_suite(shuffled, tmp_path / "b", workers=1, **more())
    write_suite(shuffled, tmp_path / "b", workers=2, **more())  # once again
    assert contents(tmp_path / "a") == found
    assert contents(tmp_path / "b") == found
    assert hashlib.sha256(found["SHA256SUMS"]).hexdigest() == SUMS


def test_hashes_are_those_of_the_files(suite):
    folder, told = suite
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == len(told["lists"]) == 45
    for line in lines:
        digest, name = line.split("  ")
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert told["lists"][name.removesuffix(".txt")]["sha256"] == digest
    assert json.loads((folder / "suite.json").read_text()) == told
    assert told["left_out"] == {}


def test_a_list_is_what_its_settings_draw(suite):
    folder, told = suite
    for name, one in told["lists"].items():
        options = dict(one["label_noise"])
        if name.startswith("nearest"):
            options["embeddings"] = more()["embeddings"]
        if name.startswith("open_set"):
            options["outside"] = more()["outside"]
        noisy, report = corrupt_labels(manifest(), **options)
        lines = (folder / f"{name}.txt").read_text().splitlines()
        found = dict(line.split(" ") for line in lines)
        assert found == dict(zip(noisy["ID"], noisy["spk_id"], strict=True))
        assert lines == sorted(lines)
        assert one["corrupted"] == report["corrupted"]
    assert {one["seed"] for one in suite_settings().values()} == {42, 43, 44}


def wrong_by_class(manifest, noisy):
    """Wrong labels and utterances of each true speaker."""
    wrong = noisy["spk_id"] != noisy["spk_id_clean"]
    return wrong.groupby(noisy["spk_id_clean"]).agg(["sum", "size"])


@given(st.integers(0, 2**31), st.randoms())
@settings(max_examples=10, deadline=None)
def test_counts_of_every_class_are_exact(seed, random):
    whole = manifest()
    kept = [random.random() < 0.8 for _ in range(len(whole))]
    kept[-30:] = 30 * [True]  # at least two speakers with several sessions
    whole = whole[kept]
    session = whole["ID"].str.rpartition("/")[0]
    sessions = session.groupby(whole["spk_id"]).nunique()
    for name, options in suite_settings().items():
        kind = name.partition("-")[0]
        if not name.endswith("42") or kind not in ("symmetric", "nearest"):
            continue
        options = options | {"seed": seed}
        if kind == "nearest":
            options["embeddings"] = more()["embeddings"]
        noisy, _ = corrupt_labels(whole, **options)
        for speaker, (wrong, count) in wrong_by_class(whole, noisy).iterrows():
            share = int(np.floor(options["rate"] * count + 0.5))
            assert wrong == (share if sessions[speaker] > 1 else 0)
        single = noisy["spk_id"].isin(sessions.index[sessions < 2])
        assert (noisy["spk_id"] == noisy["spk_id_clean"])[single].all()


def test_lists_that_a_manifest_cannot_have_are_left_out(tmp_path):
    told = write_suite(mixed_sizes(), tmp_path / "a", workers=1)
    kinds = {name.partition("-")[0] for name in told["left_out"]}
    assert kinds == {"nearest", "open_set"}
    assert "pass --outside" in told["left_out"]["open_set-20-seed43"]
    assert len(told["lists"]) == 36
    (tmp_path / "a" / "open_set-20-seed42.txt").write_text("the user's")
    # two sessions each; the lists of the suite before are not its lists
    told = write_suite(table(6), tmp_path / "a", workers=1)
    written = {path.stem for path in (tmp_path / "a").glob("*-*.txt")}
    assert written == {*told["lists"], "open_set-20-seed42"}
    assert "half a session" in told["left_out"]["session-20-seed42"]
    assert "session-40-seed42" in told["lists"]
    told = write_suite(
        table(6, sessions=1), tmp_path / "c", min_sessions=1, workers=1
    )
    assert "symmetric-40-seed42" in told["lists"]
    assert "at most the session" in told["left_out"]["split-20-seed42"]


def test_what_cannot_have_a_suite_is_refused(tmp_path):
    folder = tmp_path / "suite"
    noisy, _ = corrupt_labels(table(), "merge", 0.5, 1)
    spaced = table()
    spaced.loc[3, "spk_id"] = "id 0"
    for bad, message in (
        (noisy, "corrupted already"),
        (table(sessions=1), "`min_sessions` 2 leaves fewer than two speakers"),
        (spaced, "name `id 0` has white space"),
        (pd.concat([table(), table()]), "id0/s0/000 twice"),
    ):
        with pytest.raises(ValueError, match=message):
            write_suite(bad, folder, workers=2)
        assert not folder.exists()


def test_a_file_of_the_user_is_kept(tmp_path):
    (tmp_path / "suite").mkdir()
    mine = tmp_path / "suite" / "merge-20-seed43.txt"
    mine.write_text("my list")
    with pytest.raises(FileExistsError, match="merge-20-seed43.txt was not wr"):
        write_suite(manifest(), tmp_path / "suite", workers=1)
    assert mine.read_text() == "my list"


@pytest.fixture
def command(recipe_folder, tmp_path):
    """The script, a manifest's file, and a function that runs it."""
    from make_noisy_labels import main

    whole = manifest()
    whole["duration"], whole["start"], whole["stop"] = 1.0, 0, 16000
    path = tmp_path / "train.csv"
    write_manifest(whole, path)

    def run(target, *options):
        main([str(path), str(tmp_path / target), *options])

    return run


def test_the_command_writes_the_suite(command, suite, tmp_path, capsys):
    outside = table(9, prefix="x")
    outside["duration"], outside["start"], outside["stop"] = 1.0, 0, 16000
    write_manifest(outside, tmp_path / "outside.csv")
    command("lists", "--suite", f"--outside={tmp_path}/outside.csv")
    said = capsys.readouterr().out
    assert "left out: nearest-40-seed44 (no encoder; pass --embed" in said
    assert "39 lists; hashes in" in said
    found, expected = contents(tmp_path / "lists"), contents(suite[0])
    for name in found.keys() - {"SHA256SUMS", "suite.json"}:
        assert found[name] == expected[name]
    for options, message in (
        (["--rate=0.3"], "--rate does not go with --suite"),
        (["--exact"], "--exact does not go with --suite"),
        (["--min_sessions=9"], "`min_sessions` 9 leaves fewer than two"),
        (["--outside=/no/such"], "manifest /no/such does not exist"),
        (["--embeddings_from=/no/such"], "/no/such has no hyperparams.yaml"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            command("other", "--suite", *options)
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--kind=session", "--rate=0.4", "--min_sessions=2"],
            {"kind": "session", "rate": 0.4, "min_sessions": 2},
        ),
        (
            ["--kind=mixture", "--kinds=[{kind: merge, rate: 0.5}]"],
            {"kind": "mixture", "kinds": [{"kind": "merge", "rate": 0.5}]},
        ),
    ],
)
def test_the_command_takes_every_kind(command, options, expected, tmp_path):
    command("noisy.csv", "--seed=7", *options)
    noisy, _ = corrupt_labels(manifest(), seed=7, **expected)
    found = read_manifest(tmp_path / "noisy.csv")
    assert found["spk_id"].tolist() == noisy["spk_id"].tolist()


def test_the_command_takes_clusters(command, tmp_path):
    lines = [f"{name} {name[:4]}\n" for name in manifest()["ID"]]
    (tmp_path / "clusters").write_text("".join(lines))
    file = f"--clusters={tmp_path}/clusters"
    command("noisy.csv", "--kind=clusters", "--seed=7", file)
    report = json.loads((tmp_path / "label_noise.json").read_text())
    assert report["clustering"]["clusters"] == 10
    assert report["options"] == {"clusters": f"{tmp_path}/clusters"}


def test_the_command_replaces_no_file_of_another(command, tmp_path):
    asked = ["--kind=merge", "--rate=0.5", "--seed=7"]
    command("new/folder/noisy.csv", *asked)  # it makes folders
    command("new/folder/noisy.csv", *asked)
    clean = (tmp_path / "train.csv").read_bytes()
    (tmp_path / "link.csv").symlink_to("train.csv")
    (tmp_path / "prepare.json").touch()
    cleaned = tmp_path / "new/folder/cleaned.csv"  # of noisy_label_report.py
    for path in (cleaned, tmp_path / "dev-9b16b0048d8f.csv"):
        write_manifest(read_manifest(tmp_path / "train.csv"), path)
    for target, message in (
        ("train.csv", "is the clean manifest itself; name another one"),
        ("link.csv", "is the clean manifest itself; name another one"),
        ("dev.csv", "is a file of a preparation, .*; name another one"),
        ("new/folder/cleaned.csv", "was not written by this command; name an"),
        ("dev-9b16b0048d8f.csv", "was not written by this command; name an"),
        ("train_noisy.csv", "a list that a training has used .*; name another"),
        (
            "new/folder/other.csv",
            "label_noise.json, the report of another list; name one in another "
            "folder",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            command(target, *asked)
    assert (tmp_path / "train.csv").read_bytes() == clean
    assert not (tmp_path / "new/folder/other.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind=pair", "--rate=0.1"], "--kind and --seed must be given"),
        (["--rate=0.1", "--seed=1"], "--kind and --seed must be given"),
        (["--kind=pair", "--seed=1"], "lacks 'rate'"),
        (["--kind=mixture", "--seed=1", "--kinds=[{"], "--kinds must be a lis"),
        (["--kind=mixture", "--seed=1", "--kinds=5"], "`kinds` must be a list"),
        (["--kind=mixture", "--seed=1"], "`kinds` must be a list"),
        (["--kind=clusters", "--seed=1", "--clusters=/none"], "does not exist"),
        (["--kind=clusters", "--seed=1"], "`clusters` must be the cluster of"),
    ],
)
def test_the_command_refuses(command, options, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        command("noisy.csv", *options)
