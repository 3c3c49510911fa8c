"""Order, going on after a kill, and one writer at a time: real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from speechbrain_ext.dataio.parallel import (
    cores,
    ordered_map,
    removed_on_error,
)
from speechbrain_ext.utils.files import explain_disk_full, locked_folder


def square(number):
    """What the processes do, slower for small numbers."""
    time.sleep(0.02 / (1 + number))
    return [number * number]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    found = list(ordered_map(square, list(range(20)), workers))
    assert found == [[n * n] for n in range(20)]


def test_a_journal_is_gone_on_with(tmp_path):
    journal = tmp_path / "journal"
    journal.write_text('["kept"]\n["torn')
    found = list(ordered_map(square, [1, 2, 3], 1, journal))
    assert found == [["kept"], [4], [9]]
    assert journal.read_text() == '["kept"]\n[4]\n[9]\n'
    assert list(ordered_map(square, [1, 2, 3], 1, journal)) == found


SLEEPER = """
import os, sys, time
from speechbrain_ext.dataio.parallel import ordered_map

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
    with pytest.raises(OSError, match="Another process is writing"):
        with locked_folder(tmp_path, patience=0.1):
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "half.csv.1.tmp").touch()
    with locked_folder(
        tmp_path, patience=60
    ):  # the lock is theirs until they end
        assert os.listdir(tmp_path) == []
    process.stdout.close()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            for _ in range(600):
                os.kill(worker, 0)
                time.sleep(0.1)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file cannot be written into .*name"):
        with locked_folder(tmp_path / "file"):
            pass


def test_a_full_disk_is_told_and_other_errors_stay(tmp_path):
    with pytest.raises(OSError, match="no room .*No space left .*; make room"):
        with locked_folder(tmp_path), open("/dev/full", "w") as stream:
            stream.write("anything")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        with explain_disk_full(tmp_path), open(tmp_path / "nowhere"):
            pass


def test_there_are_cores():
    assert 1 <= cores() <= os.cpu_count()


@pytest.mark.parametrize("content", ["before", "made", None])
def test_a_folder_made_for_nothing_is_removed(tmp_path, content):
    folder = tmp_path / "new"
    if content == "before":
        folder.mkdir()
    with pytest.raises(ValueError, match="bad"), removed_on_error(folder):
        folder.mkdir(exist_ok=True)
        if content == "made":
            (folder / "journal").touch()
        raise ValueError("bad")
    assert folder.exists() == (content is not None)
