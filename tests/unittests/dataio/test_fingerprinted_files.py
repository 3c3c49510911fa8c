"""Files whose names bear a fingerprint."""

import os

import pytest
from hostile import snapshot

from speechbrain_ext.dataio.fingerprinted_files import (
    FingerprintedFiles,
    restored_links,
)
from speechbrain_ext.utils.files import atomic_write

NAMES = ["a.txt", "b.txt", "done.json"]


def make(folder, options, names):
    """Writes some files, the mark and the links."""
    files = FingerprintedFiles(folder, options, NAMES)
    for name in names:
        with atomic_write(files.path(name)) as stream:
            stream.write(f"{name} of {options}")
    files.mark_done("done.json", {"files": len(names)})
    files.link([*names, "done.json"])
    return files


def test_another_setting_never_uses_the_files(tmp_path):
    make(tmp_path, {"seed": 1}, ["a.txt", "b.txt"])
    assert (tmp_path / "b.txt").read_text() == "b.txt of {'seed': 1}"
    other = FingerprintedFiles(tmp_path, {"seed": 2}, NAMES)
    assert not other.are_done(["a.txt"], "done.json")
    make(tmp_path, {"seed": 2}, ["a.txt"])
    assert (tmp_path / "a.txt").read_text() == "a.txt of {'seed': 2}"
    assert not (tmp_path / "b.txt").exists()  # these options make none
    first = FingerprintedFiles(tmp_path, {"seed": 1}, NAMES)
    assert first.are_done(["a.txt", "b.txt"], "done.json")
    first.link(NAMES)
    assert (tmp_path / "b.txt").read_text() == "b.txt of {'seed': 1}"


def test_links_of_a_run_that_fails_are_those_of_the_one_before(tmp_path):
    make(tmp_path, {"seed": 1}, ["a.txt"])
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="bad labels"):
        with restored_links(tmp_path, NAMES):
            other = make(tmp_path, {"seed": 2}, ["b.txt"])
            raise ValueError("bad labels")
    after = snapshot(tmp_path)
    assert {name: after[name] for name in NAMES if name in after} == {
        name: before[name] for name in NAMES if name in before
    }
    with restored_links(tmp_path, NAMES):
        other.link(["b.txt", "done.json"])
    assert (tmp_path / "b.txt").read_text() == "b.txt of {'seed': 2}"
    # of a first run nothing is taken away
    with pytest.raises(OSError), restored_links(tmp_path / "new", NAMES):
        (tmp_path / "new").mkdir()
        make(tmp_path / "new", {"seed": 1}, ["a.txt"])
        raise OSError
    assert (tmp_path / "new" / "a.txt").exists()


@pytest.mark.parametrize("flaw", ["no file", "no link", "no mark", "cut mark"])
def test_what_is_not_whole_is_not_done(flaw, tmp_path):
    files = make(tmp_path, {"seed": 1}, ["a.txt"])
    assert files.are_done(["a.txt"], "done.json")
    mark = (tmp_path / "done.json").resolve()
    if flaw == "no file":
        (tmp_path / "a.txt").resolve().unlink()
    elif flaw == "no link":
        (tmp_path / "done.json").unlink()
    elif flaw == "no mark":
        mark.unlink()
    else:
        mark.write_text(mark.read_text()[:-5])
    assert not files.are_done(["a.txt"], "done.json")


@pytest.mark.parametrize("name", NAMES)  # b.txt is not made by the options
@pytest.mark.parametrize("kind", ["file", "folder", "link", "link of our form"])
def test_a_users_file_by_a_plain_name_is_an_error(name, kind, tmp_path):
    path = tmp_path / name
    if kind == "file":
        path.write_text("a thesis")
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "mine").write_text("a thesis")
        stamped = f"{path.stem}-0123456789ab{path.suffix}"
        path.symlink_to("mine" if kind == "link" else f"../x/{stamped}")
    before = snapshot(tmp_path)
    files = FingerprintedFiles(tmp_path, {"seed": 1}, NAMES)
    for call in (files.require_free, lambda: files.link(["a.txt"])):
        with pytest.raises(FileExistsError, match=f"{name} was not written"):
            call()
    assert snapshot(tmp_path) == before


def test_links_of_a_version_without_a_journal_are_replaced(tmp_path):
    for name in ("a.txt", "b.txt"):
        stem = name[0]
        (tmp_path / f"{stem}-0123456789ab.txt").write_text("older")
        (tmp_path / name).symlink_to(f"{stem}-0123456789ab.txt")
    make(tmp_path, {"seed": 1}, ["a.txt"])
    assert (tmp_path / "a.txt").read_text() == "a.txt of {'seed': 1}"
    assert not os.path.lexists(tmp_path / "b.txt")


def test_a_user_may_have_any_temporary(tmp_path):
    (tmp_path / "a.txt.tmp").write_text("a thesis")
    make(tmp_path, {"seed": 1}, ["a.txt", "b.txt"])
    make(tmp_path, {"seed": 2}, ["a.txt"])
    assert (tmp_path / "a.txt.tmp").read_text() == "a thesis"


def test_a_pipe_is_no_mark(tmp_path):
    files = make(tmp_path, {"seed": 1}, ["a.txt"])
    os.unlink(files.path("done.json"))
    os.mkfifo(files.path("done.json"))
    assert not files.are_done(["a.txt"], "done.json")
