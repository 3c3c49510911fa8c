"""The files that a preparation writes, and those of the user that it leaves."""

import resource
import shutil
import subprocess
import sys

import pytest
from hostile import snapshot
from processes import run_script

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.utils.files import locked_folder
from speechbrain_ext.utils.journal import JOURNAL
from speechbrain_ext.utils.temporaries import LOCK


def command(recipe_folder, tree, save, *more):
    """The command line of a preparation."""
    return [
        *(sys.executable, recipe_folder / "voxceleb_prepare.py"),
        *("--data_folder", tree, "--save_folder", save, *more),
    ]


def test_a_full_disk_leaves_no_half_of_a_manifest(
    recipe_folder, tree, tmp_path
):
    save = tmp_path / "save"

    def one_kilobyte():  # as much as a file may have: the disk is full then
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = subprocess.run(
        command(recipe_folder, tree, save),
        capture_output=True,
        text=True,
        preexec_fn=one_kilobyte,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: No space left while writing to")
    names = sorted(path.name.split("-")[0] for path in save.glob("[!.]*"))
    assert names in (["headers"], [])


def test_a_folder_that_cannot_be_written_is_an_error(prepare, tree, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="Cannot write to the folder .*file/save"):
        prepare(str(tree), str(tmp_path / "file" / "save"))


USERS = [
    *("train.csv", "dev.csv", "dev_trials.txt", "test.csv", "rejected.csv"),
    *("prepare.json", "kaldi/wav.scp"),
]


@pytest.mark.parametrize("name", USERS)
def test_a_users_file_by_a_name_of_ours_is_an_error(
    name, prepare, tree, tmp_path, monkeypatch
):
    import voxceleb_prepare

    # before hours of reading headers
    monkeypatch.setattr(voxceleb_prepare, "scan_files", None)
    path = tmp_path / "save" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = snapshot(tmp_path / "save")
    said = f"{name.split('/')[0]} was not written by this program"
    with pytest.raises(FileExistsError, match=said):
        prepare(str(tree), str(tmp_path / "save"), dev_speakers=2, kaldi=True)
    assert snapshot(tmp_path / "save") == before


def test_other_files_of_the_user_stay(prepare, tree, tmp_path):
    save = tmp_path / "save"
    save.mkdir()
    mine = ["notes.tmp", "train.csv.tmp", "headers-mine.txt", "kaldi.txt"]
    mine += ["headers-0123456789ab.jsonl", ".train.csv.1.tmp", "train-1.csv"]
    for name in mine:
        (save / name).write_text("mine")
    for seed in (1, 2):
        prepare(str(tree), str(save), kaldi=True, seed=seed)
        assert {(save / name).read_text() for name in mine} == {"mine"}


def test_links_are_not_changed_under_a_run_that_uses_them(
    prepare, recipe_folder, tree, tmp_path
):
    save = tmp_path / "save"
    for seed in (1, 2):
        prepare(str(tree), str(save), seed=seed)
    before = snapshot(save)
    with locked_folder(save):
        for seed, ends in (("1", 1), ("2", 0)):  # 2: nothing would change
            words = ["--data_folder", str(tree), "--save_folder", str(save)]
            words = ["voxceleb_prepare.py", *words, "--seed", seed]
            done = run_script(words, recipe_folder)
            assert done.returncode == ends, done.stderr
            assert ("Another" in done.stderr) == bool(ends)
    assert snapshot(save) == before


def test_a_changed_manifest_is_the_users(prepare, tree, tmp_path):
    save = tmp_path / "save"
    prepare(str(tree), str(save))
    edited = (save / "train.csv").resolve()
    edited.write_text(edited.read_text() + "mine")
    (save / "prepare.json").unlink()
    with pytest.raises(FileExistsError, match=f"{edited.name} was not written"):
        prepare(str(tree), str(save))
    assert edited.read_text().endswith("mine")
    edited.unlink()  # as the message of a broken manifest advises
    prepare(str(tree), str(save))
    assert len(read_manifest(save / "train.csv")) > 0


def test_nothing_is_written_through_a_link(prepare, tree, tmp_path):
    save, elsewhere = tmp_path / "save", tmp_path / "elsewhere"
    prepare(str(tree), str(save), kaldi=True)
    folder = (save / "kaldi").resolve()
    shutil.rmtree(folder)
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    (save / "prepare.json").unlink()
    with pytest.raises(FileExistsError, match=f"{folder.name} was not"):
        prepare(str(tree), str(save), kaldi=True)
    assert not list(elsewhere.iterdir())
    for name in (LOCK, JOURNAL):
        received = tmp_path / f"received {name}"
        received.mkdir()
        (received / name).symlink_to(elsewhere / "target")
        with pytest.raises(ValueError, match="is a link to .*, outside"):
            prepare(str(tree), str(received))
        assert not list(elsewhere.iterdir())


def test_a_corpus_with_links_can_be_prepared_into_itself(prepare, tree):
    moved = tree.parent / "other disk"
    (tree / "wav").rename(moved)
    (tree / "wav").symlink_to(moved)
    prepare(str(tree), str(tree))
    assert len(read_manifest(tree / "train.csv")) > 0
