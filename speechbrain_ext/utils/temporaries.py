"""Temporary files that killed runs left behind."""

import os
import re
import shutil
import sys

import filelock

LOCK = ".speechbrain_ext.lock"
TEMPORARY = re.compile(r"\.speechbrain_ext-(\d+)-")  # with the process


def clear_temporaries(folder, deep=True):
    """Deletes temporary files that killed runs of this project left behind.

    The caller must hold the lock of the folder; otherwise the files may be in
    use. Files of other processes of this machine that still run are kept.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder.
    deep : bool
        Whether to clear its subfolders too, unless another run locks them.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / ".speechbrain_ext-99999999-note.txt").touch()
    >>> (folder / "mine.tmp").touch()
    >>> clear_temporaries(folder)
    >>> os.listdir(folder)
    ['mine.tmp']
    """
    for path, folders, names in os.walk(folder):
        if path != os.fspath(folder) and LOCK in names and _is_locked(path):
            folders.clear()
            continue
        for name in filter(_is_left, [*folders, *names]):
            place = os.path.join(path, name)
            if name in names or os.path.islink(place):
                os.unlink(place)
            else:
                shutil.rmtree(place)
        folders[:] = [n for n in folders if deep and not TEMPORARY.match(n)]


def _is_left(name):
    """Whether a name is that of a temporary file whose process has ended."""
    found = TEMPORARY.match(name)
    if not found or int(found[1]) in (0, os.getpid()):
        return bool(found)
    if sys.platform == "win32":  # os.kill would end the process
        return True
    try:
        os.kill(int(found[1]), 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is another user's
        return False
    return False


def _is_locked(folder):
    """Whether a run writes to a folder; if not, its temporaries are old."""
    try:
        with filelock.FileLock(os.path.join(folder, LOCK), timeout=0):
            return False
    except OSError:
        return True
