"""What the files of a pretrained folder are."""

import json

import pytest

from speechbrain_ext.inference.folder_checks import (
    check_files,
    check_sums,
    refuse_other_run,
    require_small,
)
from speechbrain_ext.utils.seals import checksums


@pytest.fixture
def folder(tmp_path):
    """A folder with a YAML and weights."""
    folder = tmp_path / "pretrained"
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text("a: 1")
    (folder / "a.ckpt").write_text("weights")
    return folder


def test_a_users_files_and_links_within_the_folder_are_no_reason(folder):
    (folder / "notes.txt").write_text("<b>mine</b>")
    (folder / "README.md").write_text("# Mine, <details> included\n")
    (folder / "work").mkdir()
    (folder / "b.ckpt").symlink_to("a.ckpt")
    check_files(folder)


@pytest.mark.parametrize("key", ["pretrainer", "pretrained_folder"])
def test_refuse_other_run_lets_the_same_kind_go_on(folder, key):
    refuse_other_run(folder / "missing", [])
    (folder / "hyperparams.yaml").write_text(f"seed: 1\n{key}: !new:a.B\n")
    refuse_other_run(folder, ["seed", key])
    with pytest.raises(ValueError, match="which would be replaced; choose"):
        refuse_other_run(folder, ["seed"])


def test_check_files_rejects_a_linked_folder_in_it(folder, tmp_path):
    (folder / "work").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="work is a link out of the folder"):
        check_files(folder)


def test_check_files_rejects_a_folder_without_yaml(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no hyperparams.yaml"):
        check_files(tmp_path)


def test_require_small_rejects_a_large_file(tmp_path):
    with open(tmp_path / "a.json", "wb") as stream:
        stream.truncate(2**23 + 1)
    with pytest.raises(ValueError, match="got 8388609"):
        require_small(tmp_path / "a.json")


def test_check_sums_covers_what_is_read_and_its_twin(folder):
    files = {"a": folder / "a.ckpt"}
    check_sums(folder, files)  # nothing is known
    (folder / "a.safetensors").write_text("weights too")
    names = ["hyperparams.yaml", "a.ckpt", "a.safetensors"]
    sums = checksums(folder, names)
    (folder / "sums.json").write_text(json.dumps(sums))
    (folder / "notes.txt").write_text("not listed")
    check_sums(folder, files)
    (folder / "a.safetensors").write_text("weights two")
    with pytest.raises(ValueError, match="safetensors has another checksum"):
        check_sums(folder, files)
