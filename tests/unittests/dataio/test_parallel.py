"""Order, and going on after a kill: real processes."""

import os
import time

import pytest

from speechbrain_ext.dataio.parallel import (
    cores,
    ordered_map,
    removed_on_error,
)
from speechbrain_ext.utils.files import lock_output_folder, locked_folder
from speechbrain_ext.utils.journal import continue_file
from speechbrain_ext.utils.temporaries import LOCK


def square(number):
    """What the processes do, slower for small numbers."""
    time.sleep(0.02 / (1 + number))
    return [number * number]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order(workers):
    found = list(ordered_map(square, list(range(20)), workers))
    assert found == [[n * n] for n in range(20)]


def killed(number):
    """As by a machine without memory."""
    os.kill(os.getpid(), 9)


def test_a_killed_process_is_told():
    with pytest.raises(OSError, match="was killed.*fewer `workers`"):
        list(ordered_map(killed, [1, 2], 2))


def test_a_journal_is_gone_on_with(tmp_path):
    journal = tmp_path / "journal"
    continue_file(journal)
    journal.write_text('["kept"]\n["torn')
    found = list(ordered_map(square, [1, 2, 3], 1, journal))
    assert found == [["kept"], [4], [9]]
    assert journal.read_text() == '["kept"]\n[4]\n[9]\n'
    assert list(ordered_map(square, [1, 2, 3], 1, journal)) == found


def test_a_line_that_was_never_written_is_not_taken(tmp_path):
    journal = tmp_path / "journal"
    continue_file(journal)
    journal.write_bytes(b"[1]\n" + bytes(9) + b"\n[2]\n")
    assert list(ordered_map(square, [1, 2], 1, journal)) == [[1], [4]]
    assert journal.read_text() == "[1]\n[4]\n"
    # nor more of them than there are items
    assert list(ordered_map(square, [1], 1, journal)) == [[1]]


def test_a_journal_of_the_users_is_an_error(tmp_path):
    (tmp_path / "journal").write_text("[1]\n")
    with pytest.raises(FileExistsError, match="journal was not written"):
        list(ordered_map(square, [1], 1, tmp_path / "journal"))
    assert (tmp_path / "journal").read_text() == "[1]\n"


def test_a_locked_folder_made_for_nothing_is_removed(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(ValueError, match="bad"), removed_on_error(folder):
        with locked_folder(folder):
            continue_file(folder / "journal")
            raise ValueError("bad")
    assert not folder.exists()


@pytest.mark.parametrize("own", [True, False])
def test_of_a_users_folder_only_the_lock_of_this_process_is_removed(
    own, tmp_path
):
    (tmp_path / "mine").touch()
    with pytest.raises(ValueError, match="bad"), removed_on_error(tmp_path):
        lock_output_folder(tmp_path)
        if not own:  # taken over by another process
            (tmp_path / LOCK).write_text("process 1 of elsewhere")
        raise ValueError("bad")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == ({"mine"} if own else {"mine", LOCK})


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
