"""Temporary files of killed runs, and those of runs that still write."""

import os
import subprocess
import sys

from speechbrain_ext.utils.files import locked_folder
from speechbrain_ext.utils.temporaries import clear_temporaries


def test_only_temporaries_of_this_project_are_cleared(tmp_path):
    theirs = ["a.tmp", ".a.tmp", "speechbrain_ext-1-a", ".speechbrain_ext-x-a"]
    for name in theirs:
        (tmp_path / name).touch()
    (tmp_path / ".speechbrain_ext-99999999-folder" / "in").mkdir(parents=True)
    (tmp_path / ".speechbrain_ext-99999999-link").symlink_to(tmp_path / "a.tmp")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".speechbrain_ext-99999999-a.txt").touch()
    left = tmp_path / "locked" / ".speechbrain_ext-99999999-a.txt"
    with locked_folder(left.parent):  # another run may be writing there
        left.touch()
        clear_temporaries(tmp_path)
        assert left.exists()
    assert set(os.listdir(tmp_path)) == {*theirs, "below", "locked"}
    assert set(os.listdir(tmp_path / "below")) == set()
    clear_temporaries(tmp_path)  # that run has ended
    assert not left.exists()


def test_files_of_a_process_that_still_runs_are_kept(tmp_path):
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1) as other:
        left = tmp_path / f".speechbrain_ext-{other.pid}-a.txt"
        left.touch()
        with locked_folder(tmp_path):
            assert left.exists()
        other.stdin.close()
    with locked_folder(tmp_path):
        assert not left.exists()


def test_files_of_this_process_are_of_an_earlier_one(tmp_path):
    """In a container each run can have the same number."""
    for number in (0, os.getpid(), 10**30):
        (tmp_path / f".speechbrain_ext-{number}-a.txt").touch()
    clear_temporaries(tmp_path)
    assert os.listdir(tmp_path) == []
