"""The preparation, on a small corpus of real files."""

import json
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.trials import read_trials

TRIALS = (
    "1 id5/s0/0.wav id5/s1/0.wav\n0 id5/s0/0.wav id6/s0/0.wav\n"
    "0 id5/s1/1.wav id6/s1/1.wav\n"
)


@pytest.fixture
def prepare(recipe_folder):
    """The recipe's function, imported as the recipe's scripts import it."""
    from voxceleb_prepare import prepare_voxceleb

    return prepare_voxceleb


@pytest.fixture
def corpus(tmp_path):
    """Seven speakers with two sessions of two; id5 and id6 are for tests.

    The path has the words that may not count: only what is below it may.
    """
    root = tmp_path / "wav" / "test" / "corpus"
    formats = ("wav", "flac", "ogg")
    for speaker in range(7):
        for session in range(2):
            folder = root / "wav" / f"id{speaker}" / f"s{session}"
            folder.mkdir(parents=True)
            for number in range(2):
                name = f"{number}.{formats[(speaker + number) % 3]}"
                write(folder / name, rate=8000 if speaker == 1 else 16000)
    write(root / "noise" / "free" / "sound" / "1.wav")
    (root / "meta").mkdir()
    (root / "meta" / "veri_O.txt").write_text(TRIALS)
    return root


def write(path, rate=16000, channels=1):
    """Half a second of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (rate // 2, channels))
    soundfile.write(path, noise, rate)


def contents(folder):
    """Name and bytes of every plain name, each a link to a stamped file."""
    links = [path for path in folder.iterdir() if path.is_symlink()]
    for path in links:
        name = re.escape(path.stem) + r"-[0-9a-f]{12}" + re.escape(path.suffix)
        assert re.fullmatch(name, path.readlink().name)
    return {path.name: path.read_bytes() for path in links if path.is_file()}


def test_prepare_keeps_the_splits_apart(prepare, corpus, tmp_path):
    save = tmp_path / "save"
    write(corpus / "wav" / "id0" / "s2" / "stereo.wav", channels=2)
    prepare(str(corpus), str(save), dev_speakers=2, dev_trials=12)
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
    assert done["trial_lists"] == [str(corpus / "meta" / "veri_O.txt")]
    expected = {"files": 29, "speakers": 7, "sessions": 15, "stereo": 1}
    expected |= {"resampled": 4, "rejected": 0, "misplaced": 1, "test": 5}
    assert expected.items() <= done["summary"].items()
    assert len(contents(save)) == 6


def test_prepare_without_development_or_trials(prepare, corpus, tmp_path):
    save = tmp_path / "save"
    prepare([str(corpus)], str(save), trial_lists=[])
    assert sorted(contents(save)) == [
        *("prepare.json", "rejected.csv", "train.csv")
    ]
    assert read_manifest(save / "train.csv").spk_id.nunique() == 7


def test_prepare_holds_official_test_splits_out(prepare, corpus, tmp_path):
    other = tmp_path / "vox2"
    write(other / "dev" / "aac" / "id8" / "s" / "1.wav")
    write(other / "dev" / "aac" / "id9" / "s" / "1.wav")
    write(other / "test" / "aac" / "id9" / "s" / "2.wav")
    # One that cannot be read still says whose test split it is.
    (other / "test/aac/id8/s").mkdir(parents=True)
    (other / "test/aac/id8/s/2.wav").write_text("garbage")
    save = tmp_path / "save"
    prepare(f"{corpus}, {other}", str(save), max_unreadable=0.5)
    speakers = set(read_manifest(save / "train.csv").spk_id)
    assert speakers == {f"id{n}" for n in range(5)}


def test_prepare_again_keeps_what_is_there(prepare, corpus, tmp_path):
    save = tmp_path / "save"
    prepare(str(corpus), str(save), dev_speakers=2)
    first = contents(save)
    times = {path: path.stat().st_mtime_ns for path in save.iterdir()}
    prepare(str(corpus), str(save), dev_speakers=2, workers=1)
    assert times == {path: path.stat().st_mtime_ns for path in save.iterdir()}
    (save / "train.csv").unlink()
    prepare(str(corpus), str(save), dev_speakers=2)
    assert contents(save) == first


def test_prepare_again_notices_what_changed(prepare, corpus, tmp_path):
    save = tmp_path / "save"

    def counts(**options):
        prepare(str(corpus), str(save), **options)
        return json.loads((save / "prepare.json").read_text())["summary"]

    assert counts(dev_speakers=2)["train_speakers"] == 3
    assert counts()["train_speakers"] == 5
    assert not (save / "dev.csv").exists()
    assert not (save / "dev_trials.txt").exists()
    write(corpus / "wav" / "id7" / "s0" / "0.wav")
    assert counts()["train_speakers"] == 6
    trials = TRIALS + "0 id5/s0/0 id0/s0/0\n"
    (corpus / "meta" / "veri_O.txt").write_text(trials)
    assert counts()["train_speakers"] == 5


def test_prepare_finds_what_another_setting_left(prepare, corpus, tmp_path):
    save = tmp_path / "save"
    prepare(str(corpus), str(save), dev_speakers=2)
    first = {path.name: path.read_bytes() for path in save.iterdir()}
    prepare(str(corpus), str(save))
    assert "dev.csv" not in contents(save)
    both = {path.name for path in save.iterdir()}
    assert len(both) == 6 + 4 + 4  # dev.csv and its trials stay, stamped
    before = {path: path.stat().st_mtime_ns for path in save.glob("*-*")}
    prepare(str(corpus), str(save), dev_speakers=2)
    assert contents(save) == {
        name: held for name, held in first.items() if "-" not in name
    }
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_prepare_into_the_corpus_does_not_test_on_development(prepare, corpus):
    for _ in range(2):
        prepare(str(corpus), str(corpus), dev_speakers=2)
        done = json.loads((corpus / "prepare.json").read_text())
        assert len(done["trial_lists"]) == 1


def test_prepare_test_only_needs_no_training_speaker(prepare, corpus, tmp_path):
    lines = [f"{n % 2} id0/s0/0 id{n}/s1/1\n" for n in range(7)]
    (corpus / "meta" / "all_trials.txt").write_text("".join(lines))
    save = tmp_path / "save"
    options = {"trial_lists": "meta/all_trials.txt"}
    with pytest.raises(ValueError, match="of 7 speakers 7 are"):
        prepare(str(corpus), str(save), **options)
    prepare(str(corpus), str(save), test_only=True, **options)
    assert sorted(contents(save)) == [
        *("prepare.json", "rejected.csv", "test.csv")
    ]
    assert len(read_manifest(save / "test.csv")) == 8


def test_prepare_lists_unreadable_files(prepare, corpus, tmp_path):
    save = tmp_path / "save"
    bad = corpus / "wav" / "id2" / "s0" / "9.wav"
    bad.write_text("garbage")
    with pytest.raises(ValueError, match="1 of 29 .* 0.01 .*9.wav .unreadable"):
        prepare(str(corpus), str(save))
    assert not save.exists()
    prepare(str(corpus), str(save), max_unreadable=0.0345)
    rejected = (save / "rejected.csv").read_text().splitlines()
    assert rejected == [
        "wav,reason",
        f"{bad},unreadable header: Format not recognised.",
    ]
    bad.rename(corpus / "wav" / "id5" / "s0" / "9.wav")
    (corpus / "meta" / "veri_O.txt").write_text(TRIALS + "0 id5/s0/9 id6/s0/0")
    with pytest.raises(ValueError, match="1 files .*id5/s0/9.wav .*veri_O.txt"):
        prepare(str(corpus), str(save), max_unreadable=1)


@pytest.mark.parametrize(
    "trials, reason",
    [
        ("1 id5/s0/0 id5/s1/0\n0 id5/s0/0 id99/s/1\n", "line 2 .*: id99/s/1;"),
        ("1 id5/s0/0 id5/s1/0\nx id5/s0/0 id6/s0/0\n", "Line 2 .* `x id5"),
    ],
)
def test_prepare_rejects_bad_trials(prepare, corpus, tmp_path, trials, reason):
    save = tmp_path / "save"
    prepare(str(corpus), str(save))
    before = contents(save)
    (corpus / "meta" / "veri_O.txt").write_text(trials)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        prepare(str(corpus), str(save))
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
        ({"dev_speakers": 6}, "at most 5, .* got 6"),
        ({"dev_speakers": 5}, "of 7 speakers 2 are .* 5 are held out"),
        ({"dev_trials": 1}, "got 1;"),
        ({"max_unreadable": 5}, "got 5;"),
    ],
)
def test_prepare_rejects_bad_options(
    prepare, corpus, tmp_path, options, reason
):
    options = {"data_folder": str(corpus), **options}
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        prepare(save_folder=str(tmp_path / "save"), **options)
    assert not (tmp_path / "save").exists()


def test_command_line_takes_the_options(recipe_folder, corpus, tmp_path):
    from voxceleb_prepare import main

    save = tmp_path / "save"
    folders = ["--data_folder", str(corpus), "--save_folder", str(save)]
    assert main([*folders, "--dev_speakers", "2", "--seed", "7"]) == 0
    done = json.loads((save / "prepare.json").read_text())
    assert done["dev_speakers"] == 2 and done["seed"] == 7


def test_command_line_ends_with_one_line_and_1(recipe_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, recipe_folder / "voxceleb_prepare.py"]
        + ["--data_folder", tmp_path / "nowhere"]
        + ["--save_folder", tmp_path / "save"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "nowhere does not exist" in line


def names_of(corpus):
    """Every utterance: ID, path below the corpus, speaker."""
    files = sorted((corpus / "wav").rglob("*.*"))
    return [
        ("/".join(path.with_suffix("").parts[-3:]), path, path.parts[-3])
        for path in files
        if path.is_file()
    ]


def write_clova(corpus, folder):
    """A list of `speaker path` lines, below the data folder."""
    lines = [f"{s} {p.relative_to(corpus)}\n" for _, p, s in names_of(corpus)]
    (folder / "train_list.txt").write_text("".join(reversed(lines)))
    return folder / "train_list.txt"


def write_scp(corpus, folder):
    """A Kaldi data folder."""
    folder = folder / "data"
    folder.mkdir()
    rows = names_of(corpus)
    wavs = [f"{name} {path}\n" for name, path, _ in rows]
    (folder / "wav.scp").write_text("".join(wavs))
    speakers = [f"{name} {speaker}\n" for name, _, speaker in rows]
    (folder / "utt2spk").write_text("".join(speakers))
    return folder


def write_csv(corpus, folder):
    """A CSV of SpeechBrain's with its placeholder."""
    lines = [
        f"{name},9.0,$data_root/{path.relative_to(corpus)},{speaker}\n"
        for name, path, speaker in names_of(corpus)
    ]
    path = folder / "list.csv"
    path.write_text("ID,duration,wav,spk_id\n" + "".join(lines))
    return path


@pytest.mark.parametrize("make", [write_clova, write_scp, write_csv])
def test_prepare_from_a_list_gives_what_the_tree_gives(
    prepare, corpus, tmp_path, make
):
    listed = make(corpus, tmp_path)
    prepare(str(corpus), str(tmp_path / "tree"), dev_speakers=2)
    prepare(
        str(corpus), str(tmp_path / "list"), dev_speakers=2, file_list=listed
    )
    one, other = contents(tmp_path / "tree"), contents(tmp_path / "list")
    assert one.pop("prepare.json") != other.pop("prepare.json")
    assert one == other


def test_prepare_from_a_training_list_finds_the_trials(
    prepare, corpus, tmp_path
):
    path = tmp_path / "train_list.txt"
    path.write_text("id0 wav/id0/s0/0.wav\nid3 wav/id3/s1/1.flac\n")
    save = tmp_path / "save"
    prepare(str(corpus), str(save), file_list=path)
    assert read_manifest(save / "train.csv").ID.tolist() == [
        *("id0/s0/0", "id3/s1/1")
    ]
    assert len(read_manifest(save / "test.csv")) == 5


def test_prepare_takes_pieces_of_files(prepare, corpus, tmp_path):
    path = tmp_path / "list.csv"
    rows = "a,wav/id0/s0/0.wav,0,2000,x\nb,wav/id0/s0/0.wav,2000,-1,y\n"
    path.write_text("ID,wav,start,stop,spk_id\n" + rows)
    save = tmp_path / "save"
    options = {"file_list": str(path), "trial_lists": [], "kaldi": True}
    prepare(str(corpus), str(save), **options)
    train = read_manifest(save / "train.csv")
    assert train.start.tolist() == [0, 2000]
    assert train.stop.tolist() == [2000, 8000]
    assert train.duration.tolist() == [0.125, 0.375]
    segments = (save / "kaldi" / "train" / "segments").read_text()
    assert segments.splitlines()[1] == "b rec00000000 0.125000 0.500000"
    path.write_text("ID,wav,start,stop,spk_id\n" + rows.replace("-1", "9000"))
    with pytest.raises(ValueError, match="shorter than its list says"):
        prepare(str(corpus), str(save), **options)


def test_prepare_writes_what_kaldi_reads(prepare, corpus, tmp_path):
    save = tmp_path / "save"
    prepare(str(corpus), str(save), dev_speakers=2, kaldi=True)
    assert sorted(path.name for path in (save / "kaldi").iterdir()) == [
        *("dev", "test", "train")
    ]
    again = tmp_path / "again"
    prepare(
        str(corpus),
        str(again),
        trial_lists=[],
        file_list=str(save / "kaldi" / "train"),
    )
    assert contents(save)["train.csv"] == contents(again)["train.csv"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.txt", "id0 wav/id0/s0/0.wav\nid0\n", "Line 2 .*`id0` must be"),
        ("l.txt", "\n", "names no file"),
        ("l.txt", "a x/s/1.wav\na y/x/s/1.flac", "Two rows .* ID x/s/1: "),
        ("l.txt", "a x/s/1.wav\na wav/id0/s0/0.wav", "1 of the 2 .*1.wav"),
        ("l.csv", "ID,wav\na,b", "lacks the columns spk_id"),
        ("l.csv", "ID,wav,start,stop,spk_id\na,b,x,1,c", "start is x"),
        ("wav.scp", "a wav/id0/s0/0.wav\na b", "Line 2 .* a for the second"),
        ("wav.scp", "a sph2pipe b.sph |", "gives a command for a"),
        ("wav.scp", "b x.wav", "utt2spk has no speaker of b"),
        ("segments", "", "has segments"),
    ],
)
def test_prepare_rejects_bad_lists(
    prepare, corpus, tmp_path, name, text, reason
):
    source = tmp_path / name
    if "." not in name or name.endswith("scp"):
        source = write_scp(corpus, tmp_path)
        (source / "utt2spk").write_text("a a\n")
        (source / name).write_text(text)
    else:
        source.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        prepare(
            str(corpus),
            str(tmp_path / "save"),
            trial_lists=[],
            file_list=str(source),
        )
    assert not (tmp_path / "save").exists()


def test_a_file_in_two_lists_is_an_error(prepare, corpus, tmp_path):
    listed = write_clova(corpus, tmp_path)
    with pytest.raises(ValueError, match="Two files have the ID id0/s0/0"):
        prepare(
            str(corpus), str(tmp_path / "save"), file_list=f"{listed},{listed}"
        )


def command(recipe_folder, corpus, save, *more):
    """The command line of a preparation."""
    return [
        *(sys.executable, recipe_folder / "voxceleb_prepare.py"),
        *("--data_folder", corpus, "--save_folder", save, *more),
    ]


def test_a_full_disk_leaves_no_half_of_a_manifest(
    recipe_folder, corpus, tmp_path
):
    save = tmp_path / "save"

    def one_kilobyte():  # as much as a file may have: the disk is full then
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = subprocess.run(
        command(recipe_folder, corpus, save),
        capture_output=True,
        text=True,
        preexec_fn=one_kilobyte,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: There is no room for what is written into")
    names = sorted(path.name.split("-")[0] for path in save.iterdir())
    assert names in (["headers"], [])


def test_a_folder_that_cannot_be_written_is_an_error(prepare, corpus, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file/save cannot be written into"):
        prepare(str(corpus), str(tmp_path / "file" / "save"))
