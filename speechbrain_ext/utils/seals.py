"""Checksums that show whether the files of a folder are complete."""

import errno
import json
import os
import stat
import sys
import zlib

SUMS = "sums.json"


def seal(folder):
    """Records sizes and checksums of a folder's files; flushes them to disk.

    Arguments
    ---------
    folder : pathlib.Path
        The folder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a").write_text("whole")
    >>> seal(folder)
    >>> seal_flaw(folder) is None
    True
    """
    names = _visible_names(folder)
    sums = checksums(folder, names)
    for name in names:
        to_disk(folder / name)
    (folder / SUMS).write_text(json.dumps(sums))
    to_disk(folder / SUMS)
    to_disk(folder)


def checksums(folder, names):
    """Sizes and checksums of files.

    Arguments
    ---------
    folder : pathlib.Path
        Their folder.
    names : iterable of str
        Their names.

    Returns
    -------
    dict
        (bytes, CRC-32) by name, the content of ``sums.json``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a").write_text("whole")
    >>> checksums(folder, ["a"])
    {'a': (5, 3294177615)}
    """
    return {
        name: ((folder / name).stat().st_size, _checksum(folder / name))
        for name in names
    }


def sealed_names(folder):
    """Names of the files of a folder that have a checksum.

    Arguments
    ---------
    folder : pathlib.Path
        The folder.

    Returns
    -------
    set of str
        The names; empty if there are no checksums.

    Raises
    ------
    ValueError
        If the file of checksums is damaged.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a").write_text("whole")
    >>> seal(folder)
    >>> sealed_names(folder)
    {'a'}
    """
    path = folder / SUMS
    if not path.is_file():
        return set()
    try:
        return set(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged; export or download the folder again."
        ) from error


def seal_flaw(folder, names=None):
    """Checks the files of a folder against their sizes and checksums.

    Arguments
    ---------
    folder : pathlib.Path
        The folder.
    names : iterable of str
        Names of the files to check; None for all.

    Returns
    -------
    str
        The first problem found, or None. If there are no checksums, it is only
        checked that all files are regular files. Hidden files do not count,
        unless they are named.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a").write_text("whole")
    >>> seal(folder)
    >>> _ = (folder / "a").write_text("who")
    >>> seal_flaw(folder)
    'a has 3 of 5 bytes'
    """
    held_names = [file.name for file in folder.iterdir()]
    if names is None:
        held_names = _visible_names(folder)
        for name in held_names:
            if not stat.S_ISREG((folder / name).lstat().st_mode):
                return f"{name} is not a regular file"
    if SUMS not in held_names:
        return None
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        sums = {name: (size, known) for name, (size, known) in sums.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{SUMS} is truncated"
    for name in held_names if names is None else names:
        if name not in {*sums, SUMS}:
            return f"{SUMS} does not list {name}"
    for name in sums if names is None else names:
        if name not in held_names:
            return f"{name} is missing"
        size, known = sums[name]
        held = (folder / name).stat().st_size
        if held != size:
            return f"{name} has {held} of {size} bytes"
        if _checksum(folder / name) != known:
            return f"{name} has another checksum"
    return None


def _visible_names(folder):
    """Names of what a folder has, without what file managers hide there."""
    names = sorted(file.name for file in folder.iterdir())
    return [name for name in names if not name.startswith(".")]


def to_disk(path):
    """Flushes a file or folder to the disk.

    Arguments
    ---------
    path : str | pathlib.Path
        The file or folder.

    Example
    -------
    >>> to_disk(getfixture("tmp_path"))
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot do it with a folder
        if error.errno != errno.EINVAL or not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


def _checksum(path):
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
