"""Files that are written whole, and that never replace a user's own.

Every folder into which this project writes has a journal of its files
(``speechbrain_ext.utils.journal``). A file that the journal does not know, or
that was changed since, is the user's. It is never replaced or deleted.
"""

import contextlib
import errno
import os
import platform
import re
import shutil
import sys

import filelock

from speechbrain_ext.utils.journal import (
    JOURNAL,
    foreign_words,
    is_own,
    record_file,
)

LOCK = ".speechbrain_ext.lock"
TEMPORARY = re.compile(r"\.speechbrain_ext-\d+-")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# The locks that this process holds until it ends, by folder
_HELD = {}


@contextlib.contextmanager
def atomic_path(path, record=True):
    """Gives a temporary path whose file takes its place once it is whole.

    Arguments
    ---------
    path : str | pathlib.Path
        The file to write. A file that is there stays until the block has
        ended without an error.
    record : bool
        Whether the journal takes the file in, so that it can be replaced.

    Yields
    ------
    str
        Where to write: beside the file, with the same ending.

    Raises
    ------
    FileExistsError
        If a file is there that this project did not write, or that was
        changed since.
    OSError
        If the disk is full.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> with atomic_path(path) as temporary, open(temporary, "w") as stream:
    ...     _ = stream.write("whole")
    >>> path.read_text(), is_own(path)
    ('whole', True)
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    require_own(path)
    temporary = os.path.join(folder, f".speechbrain_ext-{os.getpid()}-{name}")
    try:
        with explain_disk_full(folder or "."):
            yield temporary
            _sync(temporary)
            # before the file is there: a run that is killed in between
            # must know it again
            if record:
                record_file(folder, name, temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def atomic_write(path, mode="w", record=True):
    """Opens a file that takes its place once it is whole.

    Arguments
    ---------
    path : str | pathlib.Path
        Same as in ``atomic_path``.
    mode : str
        ``"w"`` for text (UTF-8, line ends as written), ``"wb"`` for bytes.
    record : bool
        Same as in ``atomic_path``.

    Yields
    ------
    io.IOBase
        The stream to write to.

    Raises
    ------
    FileExistsError
        If a file is there that this project did not write, or that was
        changed since.
    OSError
        If the disk is full.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> _ = path.write_text("a thesis")
    >>> with atomic_write(path) as stream:
    ...     _ = stream.write("whole")
    Traceback (most recent call last):
    FileExistsError: ...note.txt was not written by this program...
    >>> path.read_text()
    'a thesis'
    """
    options = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with (
        atomic_path(path, record) as temporary,
        open(temporary, mode, **options) as stream,
    ):
        yield stream


def atomic_link(path, target):
    """Makes a symbolic link, in the place of one that this project made.

    Arguments
    ---------
    path : str | pathlib.Path
        The link.
    target : str
        What it points to.

    Raises
    ------
    FileExistsError
        If something is there that this project did not write.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> atomic_link(path, "train-1a2b.csv")
    >>> os.readlink(path), is_own(path)
    ('train-1a2b.csv', True)
    """
    with atomic_path(path) as temporary:
        os.symlink(target, temporary)


def require_own(path):
    """Raises where something is there that may not be replaced.

    Arguments
    ---------
    path : str | pathlib.Path
        A file or a link, which need not be there.

    Raises
    ------
    FileExistsError
        If this project did not write it, or it was changed since.

    Example
    -------
    >>> require_own(getfixture("tmp_path") / "new.txt")
    """
    if os.path.lexists(path) and not is_own(path):
        raise FileExistsError(foreign_words(path))


def remove_own(path):
    """Deletes a file that this project wrote; one that is gone is fine.

    Arguments
    ---------
    path : str | pathlib.Path
        A file or a link.

    Raises
    ------
    FileExistsError
        If this project did not write it, or it was changed since.

    Example
    -------
    >>> remove_own(getfixture("tmp_path") / "gone.txt")
    """
    require_own(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def clear_temporaries(folder, deep=True):
    """Deletes what killed runs of this project left half-written.

    For the holder of the folder's lock alone: another run's files are in use.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder.
    deep : bool
        Whether those below it are meant too, which have no lock of their own.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / ".speechbrain_ext-17-note.txt").touch()
    >>> (folder / "mine.tmp").touch()
    >>> clear_temporaries(folder)
    >>> os.listdir(folder)
    ['mine.tmp']
    """
    for path, folders, names in os.walk(folder):
        if path != os.fspath(folder) and LOCK in names:
            folders.clear()  # another run's
            continue
        for name in filter(TEMPORARY.match, [*folders, *names]):
            place = os.path.join(path, name)
            if name in names or os.path.islink(place):
                os.unlink(place)
            else:
                shutil.rmtree(place)
        kept = [name for name in folders if not TEMPORARY.match(name)]
        folders[:] = kept if deep else []


def refuse_links(folder):
    """Raises where a folder holds a link that leads out of it.

    Writing into a folder that somebody else has made must not change a file
    elsewhere.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder; it may be a link itself, and need not be there.

    Raises
    ------
    ValueError
        If there is such a link, at any depth.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "train_log.txt").symlink_to("/etc/hostname")
    >>> refuse_links(folder)
    Traceback (most recent call last):
    ValueError: ...train_log.txt is a link to /etc/hostname, outside...
    """
    root = os.path.realpath(folder)
    for path, folders, names in os.walk(root):
        for name in [*folders, *names]:
            _refuse_link(os.path.join(path, name), root)


@contextlib.contextmanager
def locked_folder(folder, patience=5.0, deep=True):
    """Makes a folder and keeps other processes from writing into it.

    What a killed run left half-written there is deleted.

    Arguments
    ---------
    folder : str | pathlib.Path
        Where the block is going to write.
    patience : float
        Seconds to wait for another process: the workers of one that was
        killed may take a moment to end.
    deep : bool
        Whether all below the folder is this project's too: links out of it
        are refused, and what killed runs left is deleted. A corpus has links
        of its own.

    Yields
    ------
    str
        The folder.

    Raises
    ------
    OSError
        If the folder cannot be made or written into, another process writes
        into it, or its disk is full.
    ValueError
        If it holds a link that leads out of it.

    Example
    -------
    >>> with locked_folder(getfixture("tmp_path") / "new") as folder:
    ...     os.listdir(folder)
    ['.speechbrain_ext.lock']
    """
    folder = os.fspath(folder)
    lock = _acquire(folder, patience, deep)
    try:
        with explain_disk_full(folder):
            yield folder
    finally:
        lock.release()


def lock_output_folder(folder, patience=10.0):
    """Keeps other runs from a folder until this process ends.

    The process that called it once may call it again.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder; it is made.
    patience : float
        Same as in ``locked_folder``.

    Raises
    ------
    OSError
        Same as in ``locked_folder``.
    ValueError
        Same as in ``locked_folder``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> lock_output_folder(folder)
    >>> lock_output_folder(folder)
    """
    key = os.path.realpath(folder)
    if key not in _HELD:
        _HELD[key] = _acquire(os.fspath(folder), patience)


@contextlib.contextmanager
def explain_disk_full(folder):
    """Says in a sentence that a disk is full.

    Arguments
    ---------
    folder : str | pathlib.Path
        Where the block writes.

    Yields
    ------
    None

    Raises
    ------
    OSError
        If the block raised that there is no space left.

    Example
    -------
    >>> with explain_disk_full("/data"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: No space left while writing to /data (No space left on device)...
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = _full(error)
        if reason is None:
            raise
        raise OSError(
            f"No space left while writing to {folder} ({reason}); free some "
            "space and run the same command again: nothing is left "
            "half-written."
        ) from error


def _full(error):
    """What an error says of a full disk, or None."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in DISK_FULL else None
    # torch.save hides the system's error
    said = str(error).splitlines()[0] if str(error) else ""
    if "inline_container" in said and "Reader" not in said:
        return f"torch.save: {said.rpartition('] . ')[2]}"
    return None


def _acquire(folder, patience, deep=True):
    """The lock of a folder, held."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(_cannot_write(folder, error.strerror)) from error
    if not os.access(folder, os.W_OK):
        raise OSError(_cannot_write(folder, "no permission"))
    for name in (LOCK, JOURNAL):
        _refuse_link(os.path.join(folder, name), os.path.realpath(folder))
    if deep:
        refuse_links(folder)
    lock = filelock.FileLock(os.path.join(folder, LOCK), timeout=patience)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise OSError(
            f"Another run ({_holder(lock.lock_file)}) is writing into "
            f"{folder}; wait for its end, or name another folder."
        ) from error
    with open(lock.lock_file, "w", encoding="utf-8") as stream:
        stream.write(f"process {os.getpid()} of {platform.node()}")
    clear_temporaries(folder, deep)
    return lock


def _refuse_link(path, root):
    """Raises where a path is a link that leads out of a folder."""
    target = os.path.realpath(path)
    if os.path.islink(path) and os.path.commonpath([root, target]) != root:
        raise ValueError(
            f"{path} is a link to {target}, outside its folder, and would be "
            "written through; remove the link, or name another folder."
        )


def _holder(path):
    """What the process that holds a lock says of itself."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
        return stream.read() or "an unknown process"
    return "an unknown process"


def _cannot_write(folder, reason):
    return (
        f"The folder {folder} cannot be written into ({reason}); make it "
        "writable or name another."
    )


def _sync(path):
    """Writes a file to the disk: a name must not come before its content."""
    if os.path.islink(path) or sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
