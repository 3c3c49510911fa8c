"""Files that are whole or not there, and a user's files that stay."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from speechbrain_ext.utils import files
from speechbrain_ext.utils.files import (
    atomic_link,
    atomic_path,
    atomic_write,
    explain_disk_full,
    lock_output_folder,
    locked_folder,
    refuse_links,
    remove_own,
)
from speechbrain_ext.utils.journal import JOURNAL, is_own
from speechbrain_ext.utils.temporaries import LOCK


def put(path, text):
    """Writes a file as the project does."""
    with atomic_write(path) as stream:
        stream.write(text)


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def own(tmp_path):
    """A file that this project wrote."""
    put(tmp_path / "a.txt", "good")
    return tmp_path / "a.txt"


def test_the_old_file_stays_until_the_new_one_is_whole(own):
    with pytest.raises(KeyError):
        with atomic_write(own) as stream:
            stream.write("half")
            assert own.read_text() == "good"
            raise KeyError
    assert own.read_text() == "good"
    put(own, "better")
    assert own.read_text() == "better" and is_own(own)
    assert names(own.parent) == {"a.txt", JOURNAL}


WRITERS = {
    "atomic_write": lambda path: put(path, "ours"),
    "atomic_link": lambda path: atomic_link(path, "elsewhere"),
    "remove_own": remove_own,
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=list(WRITERS))
@pytest.mark.parametrize("kind", ["file", "folder", "link", "changed"])
def test_what_is_the_users_stays(writer, kind, own, tmp_path):
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("a thesis")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(own)
    else:
        path = own
        path.write_text("good, and a note of mine")

    def state():  # all but the time of the last reading
        now = list(path.lstat())
        return now[:7] + now[8:]

    before = state()
    with pytest.raises(FileExistsError, match=f"{path.name} was not written"):
        writer(path)
    assert state() == before
    assert own.read_text() in ("good", "good, and a note of mine")


def test_a_link_of_ours_is_pointed_elsewhere(tmp_path):
    link = tmp_path / "train.csv"
    atomic_link(link, "train-1.csv")
    atomic_link(link, "train-2.csv")
    assert os.readlink(link) == "train-2.csv" and is_own(link)
    link.unlink()
    link.symlink_to("mine.csv")
    with pytest.raises(FileExistsError):
        atomic_link(link, "train-1.csv")
    link.unlink()
    atomic_link(link, "train-1.csv")
    remove_own(link)
    assert names(tmp_path) == {JOURNAL}


@pytest.mark.parametrize("step", ["sync", "record", "replace"])
def test_a_kill_at_any_step_leaves_the_old_file_replaceable(
    step, own, monkeypatch
):
    folder = own.parent

    def killed(*_):
        os._exit(9)

    if step == "sync":
        monkeypatch.setattr(files, "to_disk", killed)
    elif step == "record":
        monkeypatch.setattr(files, "record_file", killed)
    else:
        monkeypatch.setattr(os, "replace", killed)
    child = os.fork()
    if not child:
        put(own, "new")
        put(folder / "b.txt", "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    assert own.read_text() == "good" and is_own(own)
    with locked_folder(folder):  # which clears what was left
        put(own, "new")
        put(folder / "b.txt", "new")
    assert names(folder) == {"a.txt", "b.txt", JOURNAL, LOCK}


@pytest.mark.parametrize("name", [LOCK, JOURNAL, "train_log.txt", "a/b/c"])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path):
    target = tmp_path / "diary"
    target.write_text("dear")
    folder = tmp_path / "received"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(target)
    before = names(folder)
    for use in (
        lambda: lock_output_folder(folder),
        lambda: locked_folder(folder).__enter__(),
        lambda: refuse_links(folder),
    ):
        with pytest.raises(ValueError, match="diary, outside its folder.*rem"):
            use()
    assert target.read_text() == "dear" and names(folder) == before


def test_links_within_the_folder_are_fine(tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    atomic_link(folder / "train.csv", "train-1.csv")
    (folder / "loop").symlink_to(".")
    (tmp_path / "link").symlink_to(folder)
    refuse_links(tmp_path / "link")
    refuse_links(tmp_path / "nowhere")


def test_without_flock_a_dead_holder_does_not_block(tmp_path):
    """As on Lustre without `-o flock`: filelock then needs its own text."""
    code = (
        "import errno, fcntl, os, sys, warnings\n"
        "def flock(*_):\n    raise OSError(errno.ENOSYS, 'no flock')\n"
        "fcntl.flock = flock\n"
        "warnings.simplefilter('ignore')\n"
        "from speechbrain_ext.utils.files import lock_output_folder\n"
        "lock_output_folder(sys.argv[1])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "out"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -9, done.stderr


SLEEPER = """
import os, sys, time
from speechbrain_ext.dataio.parallel import ordered_map
from speechbrain_ext.utils.files import locked_folder

def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())  # one write: two never mix
    time.sleep(600)

with locked_folder(sys.argv[1]):
    list(ordered_map(work, [1, 2], 2))
"""


def test_workers_end_with_a_killed_parent_and_the_folder_is_free(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    workers = [int(process.stdout.readline()) for _ in range(2)]
    said = f"Another run .process {process.pid} of .* is writing"
    with pytest.raises(OSError, match=said):
        with locked_folder(tmp_path, patience=0.1):
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / f".speechbrain_ext-{process.pid}-half.csv").touch()
    with locked_folder(
        tmp_path, patience=60
    ):  # the lock is theirs until they end
        assert os.listdir(tmp_path) == [LOCK]
    process.stdout.close()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            for _ in range(600):
                os.kill(worker, 0)
                time.sleep(0.1)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match="Cannot write to the folder .*file .*use"
    ):
        with locked_folder(tmp_path / "file"):
            pass


def test_a_full_disk_is_told_and_other_errors_stay(tmp_path):
    full = "No space left while writing to .*; free some space"
    with pytest.raises(OSError, match=full):
        with locked_folder(tmp_path), open("/dev/full", "w") as stream:
            stream.write("anything")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        with explain_disk_full(tmp_path), open(tmp_path / "nowhere"):
            pass


@pytest.mark.parametrize("step", ["to_disk", "record_file"])
def test_a_full_disk_leaves_the_old_file(step, own, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, step, full)
    with pytest.raises(OSError, match="No space left while writing to"):
        put(own, "new")
    monkeypatch.undo()
    assert own.read_text() == "good" and is_own(own)
    assert names(own.parent) == {"a.txt", JOURNAL}


def test_a_relative_name_is_written_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put("a.txt", "1")
    put("a.txt", "2")
    assert is_own("a.txt") and is_own(tmp_path / "a.txt")
    with pytest.raises(OSError, match="No space left while writing to [.]"):
        with atomic_path("a.txt"):
            raise OSError(errno.ENOSPC, "full")
