"""The preparation, on a small corpus of real files."""

import json
import os

import pytest
from processes import run_script
from small_corpus import TRIALS, contents, write

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.trials import read_trials


def test_prepare_keeps_the_splits_apart(prepare, tree, tmp_path):
    save = tmp_path / "save"
    write(tree / "wav" / "id0" / "s2" / "stereo.wav", channels=2)
    prepare(str(tree), str(save), dev_speakers=2, dev_trials=12)
    train, dev, test = (
        read_manifest(save / f"{name}.csv") for name in ("train", "dev", "test")
    )
    speakers = [set(table.spk_id) for table in (train, dev, test)]
    assert set.union(*speakers) == {f"id{n}" for n in range(7)}
    assert sum(map(len, speakers)) == 7
    assert speakers[2] == {"id5", "id6"} and len(speakers[1]) == 2
    assert test.ID.tolist() == [
        *("id5/s0/0", "id5/s1/0", "id5/s1/1", "id6/s0/0", "id6/s1/1")
    ]
    trials = read_trials(save / "dev_trials.txt")
    assert len(trials) == 12 and trials.target.sum() == 6
    assert {*trials.enrol, *trials.test} <= set(dev.ID)
    assert all(map(os.path.isfile, train.wav))
    done = json.loads((save / "prepare.json").read_text())
    assert done["trial_lists"] == [str(tree / "meta" / "veri_O.txt")]
    expected = {"files": 29, "speakers": 7, "sessions": 15, "stereo": 1}
    expected |= {"rejected": 0, "misplaced": 1, "test": 5}
    expected |= {"sample_rates": {"8000": 4, "16000": 25}}
    assert expected.items() <= done["summary"].items()
    assert len(contents(save)) == 6


def test_prepare_without_development_or_trials(prepare, tree, tmp_path):
    save = tmp_path / "save"
    prepare([str(tree)], str(save), trial_lists=[])
    assert sorted(contents(save)) == [
        *("prepare.json", "rejected.csv", "train.csv")
    ]
    assert read_manifest(save / "train.csv").spk_id.nunique() == 7


def test_prepare_holds_official_test_splits_out(
    prepare, tree, tmp_path, caplog
):
    other = tmp_path / "vox2"
    write(other / "dev" / "aac" / "id8" / "s" / "1.wav")
    write(other / "dev" / "aac" / "id9" / "s" / "1.wav")
    write(other / "test" / "aac" / "id9" / "s" / "2.wav")
    # One that cannot be read still says whose test split it is.
    (other / "test/aac/id8/s").mkdir(parents=True)
    (other / "test/aac/id8/s/2.wav").write_text("garbage")
    save = tmp_path / "save"
    prepare(f"{tree}, {other}", str(save), max_unreadable=0.5)
    speakers = set(read_manifest(save / "train.csv").spk_id)
    assert speakers == {f"id{n}" for n in range(5)}
    assert "2 speakers in folders named `test` are left out" in caplog.text


def test_prepare_again_keeps_what_is_there(prepare, tree, tmp_path):
    save = tmp_path / "save"
    prepare(str(tree), str(save), dev_speakers=2)
    first = contents(save)
    times = {path: path.stat().st_mtime_ns for path in save.iterdir()}
    prepare(str(tree), str(save), dev_speakers=2, workers=1)
    assert times == {path: path.stat().st_mtime_ns for path in save.iterdir()}
    (save / "train.csv").unlink()
    prepare(str(tree), str(save), dev_speakers=2)
    assert contents(save) == first


def test_prepare_returns_what_it_resolved(prepare, tree, tmp_path):
    save = tmp_path / "save"
    options = {"dev_speakers": 2, "trial_lists": "meta/veri_O.txt"}
    first = prepare(str(tree), str(save), **options)
    assert first.trial_lists == (tree / "meta" / "veri_O.txt",)
    for path in (first.train, first.dev, first.test):
        assert len(read_manifest(path)) > 0
    assert len(read_trials(first.dev_trials)) > 0
    assert json.loads(first.done.read_text())["dev_speakers"] == 2
    up_to_date = prepare(str(tree), str(save), **options)
    skipped = prepare("no/such/folder", str(save), skip_prep=True)
    assert first == up_to_date == skipped
    unprepared = prepare(str(tree), str(tmp_path / "x"), skip_prep=True)
    assert unprepared.trial_lists is None
    assert unprepared.train == tmp_path / "x" / "train.csv"
    assert not unprepared.train.parent.exists()


def test_prepare_reads_each_trial_list_once(
    prepare, tree, tmp_path, monkeypatch
):
    import voxceleb_prepare

    (tree / "meta" / "veri_E.txt").write_text(TRIALS)
    (tree / "list.txt").write_text("id0 wav/id0/s0/0.wav\nid3 wav/id3/s0/0.wav")
    plain, read = voxceleb_prepare.read_trials, []

    def counting(path):
        read.append(os.path.basename(path))
        return plain(path)

    monkeypatch.setattr(voxceleb_prepare, "read_trials", counting)
    prepare(str(tree), str(tmp_path / "save"), file_list="list.txt")
    assert read == ["veri_E.txt", "veri_O.txt"]


def test_prepare_again_notices_what_changed(prepare, tree, tmp_path):
    save = tmp_path / "save"

    def counts(**options):
        prepare(str(tree), str(save), **options)
        return json.loads((save / "prepare.json").read_text())["summary"]

    assert counts(dev_speakers=2)["train_speakers"] == 3
    assert counts()["train_speakers"] == 5
    assert not (save / "dev.csv").exists()
    assert not (save / "dev_trials.txt").exists()
    write(tree / "wav" / "id7" / "s0" / "0.wav")
    assert counts()["train_speakers"] == 6
    trials = TRIALS + "0 id5/s0/0 id0/s0/0\n"
    (tree / "meta" / "veri_O.txt").write_text(trials)
    assert counts()["train_speakers"] == 5


def test_prepare_finds_what_another_setting_left(prepare, tree, tmp_path):
    save = tmp_path / "save"
    prepare(str(tree), str(save), dev_speakers=2)
    first = {path.name: path.read_bytes() for path in save.glob("[!.]*")}
    prepare(str(tree), str(save))
    assert "dev.csv" not in contents(save)
    both = {path.name for path in save.glob("[!.]*")}
    assert len(both) == 6 + 4 + 4  # dev.csv and its trials stay, stamped
    before = {path: path.stat().st_mtime_ns for path in save.glob("*-*")}
    prepare(str(tree), str(save), dev_speakers=2)
    assert contents(save) == {
        name: held for name, held in first.items() if "-" not in name
    }
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_prepare_into_the_corpus_does_not_test_on_development(prepare, tree):
    for _ in range(2):
        prepare(str(tree), str(tree), dev_speakers=2)
        done = json.loads((tree / "prepare.json").read_text())
        assert len(done["trial_lists"]) == 1


def test_prepare_test_only_needs_no_training_speaker(prepare, tree, tmp_path):
    lines = [f"{n % 2} id0/s0/0 id{n}/s1/1\n" for n in range(7)]
    (tree / "meta" / "all_trials.txt").write_text("".join(lines))
    save = tmp_path / "save"
    options = {"trial_lists": "meta/all_trials.txt"}
    with pytest.raises(ValueError, match="of 7 speakers 7 are"):
        prepare(str(tree), str(save), **options)
    prepare(str(tree), str(save), test_only=True, **options)
    assert sorted(contents(save)) == [
        *("prepare.json", "rejected.csv", "test.csv")
    ]
    assert len(read_manifest(save / "test.csv")) == 8


def test_prepare_lists_unreadable_files(prepare, tree, tmp_path):
    save = tmp_path / "save"
    bad = tree / "wav" / "id2" / "s0" / "9.wav"
    bad.write_text("garbage")
    with pytest.raises(ValueError, match="1 of 29 .* 0.01 .*9.wav .unreadable"):
        prepare(str(tree), str(save))
    assert not save.exists()
    prepare(str(tree), str(save), max_unreadable=0.0345)
    rejected = (save / "rejected.csv").read_text().splitlines()
    assert rejected == [
        "wav,reason",
        f"{bad},unreadable header: Format not recognised.",
    ]
    bad.rename(tree / "wav" / "id5" / "s0" / "9.wav")
    (tree / "meta" / "veri_O.txt").write_text(TRIALS + "0 id5/s0/9 id6/s0/0")
    with pytest.raises(ValueError, match="1 files .*id5/s0/9.wav .*veri_O.txt"):
        prepare(str(tree), str(save), max_unreadable=1)


@pytest.mark.parametrize(
    "trials, reason",
    [
        ("1 id5/s0/0 id5/s1/0\n0 id5/s0/0 id99/s/1\n", "line 2 .*: id99/s/1;"),
        ("1 id5/s0/0 id5/s1/0\nx id5/s0/0 id6/s0/0\n", "Line 2 .* `x id5"),
    ],
)
def test_prepare_rejects_bad_trials(prepare, tree, tmp_path, trials, reason):
    save = tmp_path / "save"
    prepare(str(tree), str(save))
    before = contents(save)
    (tree / "meta" / "veri_O.txt").write_text(trials)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        prepare(str(tree), str(save))
    assert contents(save) == before


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"data_folder": "nowhere"}, "nowhere does not exist"),
        ({"data_folder": " , "}, "names no folder"),
        (
            {"trial_lists": ["veri_X.txt"]},
            "veri_X.txt does not exist .*absolut",
        ),
        ({"trial_lists": [], "test_only": True}, "needs trial lists"),
        ({"dev_speakers": 1}, "got 1;"),
        ({"dev_speakers": 6}, "is 6, but only 5 training"),
        ({"dev_speakers": 5}, "of 7 speakers 2 are .* 5 are held out"),
        ({"dev_trials": 1}, "got 1;"),
        ({"max_unreadable": 5}, "got 5;"),
        ({"max_unreadable": float("nan")}, "`max_unreadable` .* got nan;"),
        ({"max_unreadable": "1"}, "`max_unreadable` .* got 1;"),
        ({"dev_speakers": 2.5}, "`dev_speakers` must be a whole .* got '2.5'"),
        ({"dev_speakers": True}, "`dev_speakers` must be a whole"),
        ({"dev_speakers": -2}, "`dev_speakers` must be .* at least 0, got"),
        ({"dev_trials": "abc"}, "`dev_trials` must be a whole .* got 'abc'"),
        ({"dev_trials": float("inf")}, "`dev_trials` must be a whole"),
        ({"seed": "x"}, "`seed` must be a whole number .* got 'x'"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0"),
        ({"workers": -1}, "`workers` must be a whole number of at least 1"),
        ({"workers": 0}, "`workers` must be a whole number of at least 1"),
        ({"kaldi": "False"}, "`kaldi` must be True or False, got 'False'"),
        ({"test_only": 1}, "`test_only` must be True or False, got '1'"),
        ({"skip_prep": "no"}, "`skip_prep` must be True or False"),
        ({"layout": "flat"}, "`layout` must be .* got 'flat'"),
        ({"file_list": "no.txt"}, "`file_list` no.txt does not exist"),
    ],
)
def test_prepare_rejects_bad_options(prepare, tree, tmp_path, options, reason):
    options = {"data_folder": str(tree), **options}
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        prepare(save_folder=str(tmp_path / "save"), **options)
    assert not (tmp_path / "save").exists()


def test_command_line_takes_the_options(recipe_folder, tree, tmp_path):
    from voxceleb_prepare import main

    save = tmp_path / "save"
    folders = ["--data_folder", str(tree), "--save_folder", str(save)]
    assert main([*folders, "--dev_speakers", "2", "--seed", "7"]) == 0
    done = json.loads((save / "prepare.json").read_text())
    assert done["dev_speakers"] == 2 and done["seed"] == 7


def test_command_line_ends_with_one_line_and_1(recipe_folder, tmp_path):
    words = ["voxceleb_prepare.py", f"--data_folder={tmp_path / 'nowhere'}"]
    words.append(f"--save_folder={tmp_path / 'save'}")
    done = run_script(words, recipe_folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "nowhere does not exist" in line


@pytest.mark.parametrize(
    "option",
    [
        *("--dev_speakers=2.5", "--dev_trials=abc", "--max_unreadable=NaN"),
        *("--seed=x", "--seed=-1", "--workers=-1", "--layout=flat"),
    ],
)
def test_command_line_says_what_an_option_must_be(
    recipe_folder, tree, tmp_path, option, capsys
):
    from voxceleb_prepare import main

    save = tmp_path / "save"
    folders = [f"--data_folder={tree}", f"--save_folder={save}"]
    try:
        status = main([*folders, option])
    except SystemExit as ended:  # what argparse refuses
        status = ended.code
    assert status in (1, 2)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last
    assert option.split("=")[0].removeprefix("--") in last
    assert not save.exists()


def test_prepare_takes_folders_of_speakers_that_hold_the_files(
    prepare, tmp_path
):
    root, save = tmp_path / "own", tmp_path / "save"
    for speaker in ("anna", "ben", "carl", "dora"):
        for number in range(2):
            write(root / speaker / f"{number}.wav")
    lines = "1 anna/0.wav anna/1.wav\n0 anna/0.wav ben/0.wav\n"
    (root / "veri_own.txt").write_text(lines)
    prepare(str(root), str(save))
    assert read_manifest(save / "train.csv").ID.tolist() == [
        *("carl/0", "carl/1", "dora/0", "dora/1")
    ]
    assert read_manifest(save / "test.csv").ID.tolist() == [
        *("anna/0", "anna/1", "ben/0")
    ]
    # by the advice of old, the folder above: one class of all speakers
    with pytest.raises(ValueError, match="`own`.* --layout .*--file_list"):
        prepare(str(tmp_path), str(tmp_path / "other"), trial_lists=[])
    assert not (tmp_path / "other").exists()
    prepare(
        str(tmp_path), str(save), trial_lists=[], layout="speaker/utterance"
    )
    assert read_manifest(save / "train.csv").spk_id.nunique() == 4


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir])
def test_prepare_refuses_a_trial_list_that_is_no_file(
    prepare, tree, tmp_path, kind
):
    path = tmp_path / "veri.txt"
    kind(path)
    with pytest.raises(ValueError, match="veri.txt is .*give the path of a"):
        prepare(str(tree), str(tmp_path / "save"), trial_lists=str(path))
    assert not (tmp_path / "save").exists()


def test_prepare_finds_lists_in_the_working_directory(
    prepare, tree, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "mine.txt").write_text(TRIALS)
    (tree / "list.txt").write_text(
        "id0 wav/id0/s0/0.wav\nid3 wav/id3/s1/1.flac"
    )
    save = tmp_path / "save"
    prepare(str(tree), str(save), trial_lists="mine.txt", file_list="list.txt")
    done = json.loads((save / "prepare.json").read_text())
    assert done["trial_lists"] == [str(here / "mine.txt")]
    assert done["file_list"] == [str(tree / "list.txt")]
    assert len(read_manifest(save / "train.csv")) == 2
    (tree / "mine.txt").write_text(TRIALS[:-1])
    with pytest.raises(ValueError, match="here/mine.txt or .*corpus/mine.txt"):
        prepare(str(tree), str(save), trial_lists="mine.txt")


def test_prepare_takes_ids_that_look_like_paths(prepare, tree, tmp_path):
    """A CSV has IDs of four parts, and ffmpeg's names have two endings."""
    rows, trials = ["ID,wav,spk_id"], []
    for speaker in range(4):
        for number in range(2):
            name = f"own/wav/id{speaker}/{number}.m4a"
            path = tmp_path / "own" / f"{name}.wav"
            write(path)
            rows.append(f"{name},{path},id{speaker}")
    trials = ["1 own/wav/id0/0.m4a own/wav/id0/1.m4a"]
    trials += ["0 own/wav/id0/0.m4a own/wav/id1/1.m4a"]
    source, pairs = tmp_path / "list.csv", tmp_path / "pairs.txt"
    source.write_text("\n".join(rows))
    pairs.write_text("\n".join(trials))
    save = tmp_path / "save"
    prepare(str(tree), str(save), file_list=str(source), trial_lists=str(pairs))
    assert read_manifest(save / "test.csv").ID.tolist() == [
        *("own/wav/id0/0.m4a", "own/wav/id0/1.m4a", "own/wav/id1/1.m4a")
    ]
    assert set(read_manifest(save / "train.csv").spk_id) == {"id2", "id3"}
