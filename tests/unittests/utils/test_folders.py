"""A folder takes another's place, and nothing of the user's is lost."""

import contextlib
import errno
import functools
import os
import pathlib

import pytest
from hostile import snapshot
from test_files import put

from speechbrain_ext.utils import files, folders
from speechbrain_ext.utils.folders import (
    exchange,
    link_or_copy,
    new_folder,
    require_replaceable,
)

OURS = {"a.txt": "2", "c.txt": "2"}


def fill(folder, number="2"):
    """Puts a folder of two files in another's place."""
    with new_folder(folder) as made:
        for name in ("a.txt", "c.txt"):
            put(pathlib.Path(made, name), number)


@pytest.fixture
def folder(tmp_path):
    """A folder of ours with a note of the user's."""
    folder = tmp_path / "pretrained"
    with new_folder(folder) as made:
        for name in ("a.txt", "b.txt"):
            put(pathlib.Path(made, name), "1")
    (folder / "note").write_text("mine")
    return folder


def held(folder):
    """The visible files and what they say."""
    return {path.name: path.read_text() for path in folder.glob("[!.]*")}


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Both ways of replacing: Linux's, and that of other systems."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    return request.param


def test_the_new_takes_the_place_and_the_users_stays(folder, way):
    fill(folder)
    assert held(folder) == {**OURS, "note": "mine"}
    assert os.listdir(folder.parent) == ["pretrained"]


def test_what_would_change_nothing_changes_nothing(folder, way):
    fill(folder)
    before = folder.stat().st_ino, (folder / "a.txt").stat().st_ino
    fill(folder)
    assert before == (folder.stat().st_ino, (folder / "a.txt").stat().st_ino)


def test_a_failure_leaves_everything(folder, way):
    before = snapshot(folder)
    with pytest.raises(ZeroDivisionError), new_folder(folder) as made:
        put(pathlib.Path(made, "a.txt"), "2")
        raise ZeroDivisionError
    assert snapshot(folder) == before
    assert os.listdir(folder.parent) == ["pretrained"]


STEPS = {
    # of exchanging
    "exchange": 3,
    # os.rename: aside, into place, and a user's file that came late
    "rename": 3,
    "unlink": 6,
    "mkdir": 1,
    "rmtree": 1,
    "link": 1,
}


@pytest.mark.parametrize(
    ("step", "number"),
    [(step, n) for step, count in STEPS.items() for n in range(count)],
)
def test_a_kill_at_any_step_loses_nothing(step, number, folder, way):
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            die_at(step, number)
            with new_folder(folder) as made:
                for name in ("a.txt", "c.txt"):
                    put(pathlib.Path(made, name), "2")
                (folder / "late").write_text("mine")
            os._exit(0)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    if way == "exchange":  # at no moment is there no folder
        assert held(folder)["a.txt"] in "12"
    # the next start puts back what is missing, and the next run ends
    require_replaceable(folder)
    assert held(folder)["a.txt"] in "12"
    assert held(folder)["note"] == "mine"
    late = {"late": "mine"} if "late" in held(folder) else {}
    fill(folder)
    assert held(folder) == {**OURS, "note": "mine", **late}
    assert os.listdir(folder.parent) == ["pretrained"]


def die_at(step, number):
    """Lets this process end in the place of some call."""
    module = folders if step == "exchange" else os
    if step == "rmtree":
        module = folders.shutil
    call, calls = getattr(module, step), []

    def dying(*arguments, **options):
        if step == "exchange" and number == 2:  # just behind it
            call(*arguments)
        if len(calls) == number or step == "exchange":
            os._exit(9)
        calls.append(1)
        return call(*arguments, **options)

    setattr(module, step, dying)


def test_what_a_user_puts_there_meanwhile_stays(folder, way):
    with new_folder(folder) as made:
        put(pathlib.Path(made, "a.txt"), "2")
        put(pathlib.Path(made, "new.txt"), "2")
        (folder / "late").write_text("mine")
        (folder / "b.txt").write_text("changed by me")
        (folder / "new.txt").write_text("mine, of that name")
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("mine")
    found = held_deep(folder.parent)
    assert found["pretrained/a.txt"] == "2"
    assert found["pretrained/late"] == found["pretrained/note"] == "mine"
    assert found["pretrained/sub/x"] == "mine"
    assert found["pretrained/b.txt"] == "changed by me"
    (kept,) = [text for name, text in found.items() if "/kept-" in name]
    assert kept == "mine, of that name"
    (folder / "sub" / "x").unlink()
    (folder / "sub").rmdir()
    fill(folder)  # which does not touch it
    assert kept in held_deep(folder.parent).values()


def held_deep(folder):
    """What all files below a folder say, hidden ones of ours left out."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".speechbrain_ext")
    }


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_is_no_plain_file_is_refused(kind, folder):
    path = folder / "odd"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("a.txt")
    else:
        os.mkfifo(path)
    before = list(path.lstat())
    with pytest.raises(FileExistsError, match="odd is not a regular file"):
        require_replaceable(folder)
    with pytest.raises(FileExistsError, match="odd is not a regular file"):
        fill(folder)
    after = list(path.lstat())
    del before[7], after[7]  # the time of the last reading
    assert after == before
    assert held_names(folder) == "a.txt b.txt note"


def held_names(folder):
    return " ".join(
        sorted(p.name for p in folder.glob("[!.]*") if p.name != "odd")
    )


def test_a_file_and_the_working_directory_are_refused(folder, monkeypatch):
    (folder.parent / "file").touch()
    with pytest.raises(FileExistsError, match="file is not a folder"):
        require_replaceable(folder.parent / "file")
    monkeypatch.chdir(folder)
    with pytest.raises(FileExistsError, match="is the working directory"):
        require_replaceable(".")
    with pytest.raises(FileExistsError, match="is the working directory"):
        fill(folder)


def test_names_are_refused_before_anything_is_written(folder):
    (folder / "mine.ckpt").write_text("mine")
    require_replaceable(folder, ["*.txt"])
    with pytest.raises(FileExistsError, match="mine.ckpt was not written"):
        require_replaceable(folder, ["a.txt", "*.ckpt"])


def test_two_runs_do_not_mix(folder, monkeypatch):
    patient = functools.partial(files.locked_folder, patience=0.1)
    monkeypatch.setattr(folders, "locked_folder", patient)
    with new_folder(folder):
        with pytest.raises(OSError, match="Another run"):
            fill(folder)
    assert held(folder) == {"note": "mine"}


def test_a_link_to_the_folder_stays_one(folder, way):
    link = folder.parent / "link"
    link.symlink_to(folder)
    fill(link)
    assert link.is_symlink()
    assert held(folder) == {**OURS, "note": "mine"}


def test_copies_are_made_where_links_cannot_be(folder, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", none)
    fill(folder)
    assert held(folder) == {**OURS, "note": "mine"}
    link_or_copy(folder / "note", folder / "copy")
    assert held(folder)["copy"] == "mine"


def test_exchanging_what_is_not_there_is_an_error(folder):
    if exchange(str(folder), str(folder)):
        with pytest.raises(FileNotFoundError):
            exchange(str(folder), str(folder / "nowhere"))
