"""Atomic replacement of whole folders."""

import contextlib
import ctypes
import errno
import filecmp
import fnmatch
import os
import shutil
import stat
import tempfile

from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.files import (
    atomic_path,
    locked_folder,
    require_own,
)
from speechbrain_ext.utils.journal import JOURNAL, is_own
from speechbrain_ext.utils.temporaries import LOCK, TEMPORARY

logger = get_logger(__name__)

EXCHANGE = 2  # Linux: RENAME_EXCHANGE
HERE = -100  # Linux: AT_FDCWD
NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


@contextlib.contextmanager
def new_folder(folder):
    """Gives a temporary folder that replaces a folder when the block ends.

    Until then the old folder does not change. Files in it that this project
    did not write are kept in the new folder. If both folders have the same
    files in the end, nothing is replaced.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder to replace; it may be missing.

    Yields
    ------
    str
        The folder to write to, with ``speechbrain_ext.utils.files``.

    Raises
    ------
    FileExistsError
        If the folder cannot be replaced, see ``require_replaceable``.
    OSError
        If another run is replacing the folder, or the disk is full.

    Example
    -------
    >>> from speechbrain_ext.utils.files import atomic_write
    >>> folder = getfixture("tmp_path") / "pretrained"
    >>> for words in ("first", "second"):
    ...     with new_folder(folder) as made:
    ...         with atomic_write(f"{made}/a.txt") as stream:
    ...             _ = stream.write(words)
    >>> (folder / "a.txt").read_text(), [p.name for p in folder.glob("[!.]*")]
    ('second', ['a.txt'])
    """
    folder = os.path.realpath(folder)
    with _work_folder(folder) as work:
        _check(folder)
        made = os.path.join(work, "new")
        os.mkdir(made)
        if os.path.isdir(folder):
            os.chmod(made, stat.S_IMODE(os.stat(folder).st_mode))
            _carry(folder, made)
        yield made
        if not _same(made, folder):
            _take_place(made, folder, os.path.join(work, "old"))


def require_replaceable(folder, names=()):
    """Raises if a folder cannot be replaced.

    If a run was killed while it replaced the folder, that is undone first.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder; it may be missing.
    names : iterable of str
        Patterns (``fnmatch``) of the files that will be written.

    Raises
    ------
    FileExistsError
        If the path is a file or the working directory, or the folder has a
        subfolder, a link, or a file that matches a pattern and that this
        project did not write.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "mine").mkdir()
    >>> require_replaceable(folder)
    Traceback (most recent call last):
    FileExistsError: ...mine is not a regular file, and the folder...
    """
    folder = os.path.realpath(folder)
    if os.path.lexists(_work_path(folder)):
        with _work_folder(folder):
            pass  # entering it undoes the killed run
    _check(folder, names)


def exchange(one, other):
    """Exchanges two folders atomically.

    Arguments
    ---------
    one : str
        A folder.
    other : str
        Another folder on the same disk.

    Returns
    -------
    bool
        False if the operating system does not support it.

    Raises
    ------
    OSError
        If the exchange is supported but failed.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a", "b"):
    ...     (folder / name / name).mkdir(parents=True)
    >>> done = exchange(str(folder / "a"), str(folder / "b"))
    >>> os.listdir(folder / "a") == (["b"] if done else ["a"])
    True
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False  # not Linux, or an old C library
    places = HERE, os.fsencode(one), HERE, os.fsencode(other)
    if rename(*places, EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in NOT_THERE:
        return False
    raise OSError(number, os.strerror(number), one)


def _work_path(folder):
    parent, name = os.path.split(folder)
    return os.path.join(parent, f".speechbrain_ext-new-{name}")


@contextlib.contextmanager
def _work_folder(folder):
    """A locked folder beside another one, cleared of a killed run's files."""
    work = _work_path(folder)
    if os.path.islink(work):
        raise FileExistsError(f"{work} is a link; remove it.")
    with locked_folder(work):
        try:
            old = os.path.join(work, "old")
            if os.path.isdir(old) and not os.path.lexists(folder):
                os.rename(old, folder)
            for name in ("old", "new"):
                _clear(os.path.join(work, name), folder)
            yield work
        finally:
            for name in ("old", "new"):
                _clear(os.path.join(work, name), folder)
            if os.listdir(work) == [LOCK]:
                os.unlink(os.path.join(work, LOCK))
                os.rmdir(work)


def _check(folder, names=()):
    """Raises if a folder may not be replaced."""
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        raise FileExistsError(f"{folder} is not a folder; use another path.")
    if os.path.samefile(folder, os.getcwd()):
        raise FileExistsError(
            f"{folder} is the working directory and cannot be replaced; run "
            "the command from another directory."
        )
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path):
            raise FileExistsError(
                f"{path} is not a regular file, and the folder would be "
                "replaced as a whole; move it away, or use another folder."
            )
        if any(fnmatch.fnmatch(name, known) for known in names):
            require_own(path)


def _is_hidden(name):
    """Whether a file is a journal, a lock or a temporary file."""
    return name in (JOURNAL, LOCK) or bool(TEMPORARY.match(name))


def _carry(folder, made):
    """Links or copies the user's own files to the new folder."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if not _is_hidden(name) and not is_own(path):
            link_or_copy(path, os.path.join(made, name))


def link_or_copy(path, there):
    """Makes a hard link to a file, or a copy if hard links are not possible.

    Arguments
    ---------
    path : str
        The file.
    there : str
        Path of the link or copy.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a").write_text("whole")
    >>> link_or_copy(folder / "a", folder / "b")
    >>> (folder / "b").read_text()
    'whole'
    """
    try:
        os.link(path, there)
    except OSError:
        with atomic_path(there, record=False) as temporary:
            shutil.copy2(path, temporary)


def _same(made, folder):
    """Whether two folders have the same files with the same content."""
    if not os.path.isdir(folder):
        return False
    held = [
        {name for name in os.listdir(one) if not _is_hidden(name)}
        for one in (made, folder)
    ]
    return held[0] == held[1] and all(
        filecmp.cmp(f"{made}/{name}", f"{folder}/{name}", shallow=False)
        for name in held[0]
    )


def _take_place(made, folder, old):
    """Replaces a folder; the user's own files in it are kept."""
    if not os.path.isdir(folder):
        os.rename(made, folder)
    elif not exchange(made, folder):
        os.rename(folder, old)
        os.rename(made, folder)
    for rest in (made, old):
        _clear(rest, folder)


def _clear(rest, folder):
    """Deletes a folder; files that exist only there move to ``folder``."""
    if not os.path.isdir(rest):
        return
    for name in os.listdir(rest):
        path, there = os.path.join(rest, name), os.path.join(folder, name)
        if _is_hidden(name):
            continue
        if is_own(path) or (
            os.path.isfile(there) and filecmp.cmp(path, there, shallow=False)
        ):
            os.unlink(path)
        elif not os.path.lexists(there):
            os.makedirs(folder, exist_ok=True)
            os.rename(path, there)
    if all(map(_is_hidden, os.listdir(rest))):
        shutil.rmtree(rest)
        return
    kept = tempfile.mkdtemp(prefix="kept-", dir=os.path.dirname(rest))
    os.rename(rest, kept)
    logger.warning(
        f"{folder} has other files with the same names, so the files of the "
        f"replaced folder were kept in {kept}."
    )
