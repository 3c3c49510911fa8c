"""Atomic writes that never replace a user's own files, and folder locks.

Every folder that this project writes to has a journal of its files
(``speechbrain_ext.utils.journal``). A file that is not in the journal, or that
was changed later, belongs to the user. It is never replaced or deleted.
"""

import contextlib
import errno
import os
import platform

import filelock

from speechbrain_ext.utils.journal import (
    JOURNAL,
    foreign_words,
    is_own,
    record_file,
)
from speechbrain_ext.utils.seals import to_disk
from speechbrain_ext.utils.temporaries import LOCK, clear_temporaries

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HELD = {}  # folder: the process that has locked it, and its lock


@contextlib.contextmanager
def atomic_path(path, record=True):
    """Gives a temporary path and renames its file when the block ends.

    If the block fails, the temporary file is deleted.

    Arguments
    ---------
    path : str | pathlib.Path
        The file to write. An existing file is replaced only if the block
        succeeds.
    record : bool
        Whether the journal gets it, so that a later run may replace it.

    Yields
    ------
    str
        Path to write to, in the same folder and with the same suffix.

    Raises
    ------
    FileExistsError
        If the file exists and this project did not write it, or it was
        changed later.
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
            # a rename must not reach the disk before the content
            if not os.path.islink(temporary):
                to_disk(temporary)
            # before the rename: a run that is killed in between must still
            # find the file in the journal
            if record:
                record_file(folder, name, temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextlib.contextmanager
def atomic_write(path, mode="w", record=True):
    """Opens a temporary file and renames it when the block ends.

    If the block fails, the temporary file is deleted.

    Arguments
    ---------
    path : str | pathlib.Path
        The file to write. An existing file is replaced only if the block
        succeeds.
    mode : str
        ``"w"`` for text (UTF-8, newlines unchanged), ``"wb"`` for bytes.
    record : bool
        Whether to enter the file in the journal, so that a later run may
        replace it.

    Yields
    ------
    io.IOBase
        The stream to write to.

    Raises
    ------
    FileExistsError
        If the file exists and this project did not write it, or it was
        changed later.
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
    """Creates a symbolic link, or replaces one that this project created.

    Arguments
    ---------
    path : str | pathlib.Path
        The link.
    target : str
        The path that it points to.

    Raises
    ------
    FileExistsError
        If the path exists and this project did not write it.

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
    """Raises if a file exists that may not be replaced.

    Arguments
    ---------
    path : str | pathlib.Path
        A file or a link; it may be missing.

    Raises
    ------
    FileExistsError
        If this project did not write the file, or it was changed later.

    Example
    -------
    >>> require_own(getfixture("tmp_path") / "new.txt")
    """
    if os.path.lexists(path) and not is_own(path):
        raise FileExistsError(foreign_words(path))


def remove_own(path):
    """Deletes a file that this project wrote, if it exists.

    Arguments
    ---------
    path : str | pathlib.Path
        A file or a link; it may be missing.

    Raises
    ------
    FileExistsError
        If this project did not write the file, or it was changed later.

    Example
    -------
    >>> remove_own(getfixture("tmp_path") / "gone.txt")
    """
    require_own(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def refuse_links(folder):
    """Raises if a folder has a link to a place outside of it.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder. It may be a link itself, and it may be missing.

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
    """Creates a folder and locks it while the block runs.

    Temporary files that killed runs left behind are deleted.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder to write to.
    patience : float
        Seconds to wait for another process that holds the lock. The workers
        of a killed process may take a moment to end.
    deep : bool
        Whether to check and clear subfolders too. False for the folder of a
        corpus, which may have links of its own.

    Yields
    ------
    str
        The folder.

    Raises
    ------
    OSError
        If the folder cannot be created or is not writable, another process
        has locked it, or its disk is full.
    ValueError
        If it has a link to a place outside of it.

    Example
    -------
    >>> with locked_folder(getfixture("tmp_path") / "new") as folder:
    ...     os.listdir(folder)
    ['.speechbrain_ext.lock']
    """
    folder = os.fspath(folder)
    with contextlib.ExitStack() as stack, explain_disk_full(folder):
        if not _is_held(folder):
            stack.callback(_acquire(folder, patience, deep).release)
        yield folder


def lock_output_folder(folder, patience=10.0, deep=True):
    """Locks a folder until this process ends, which may lock it again.

    Arguments
    ---------
    folder : str | pathlib.Path
        The output folder; it is created.
    patience : float
        See ``locked_folder``.
    deep : bool
        See ``locked_folder``.

    Raises
    ------
    OSError
        If the folder cannot be created or is not writable, or another process
        has locked it.
    ValueError
        If it has a link to a place outside of it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> lock_output_folder(folder)
    >>> lock_output_folder(folder)
    """
    if not _is_held(folder):
        lock = _acquire(os.fspath(folder), patience, deep)
        _HELD[os.path.realpath(folder)] = os.getpid(), lock


@contextlib.contextmanager
def explain_disk_full(folder):
    """Turns the errors of a full disk into one clear message.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder that the block writes to.

    Yields
    ------
    None

    Raises
    ------
    OSError
        If the block fails because no space is left.

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
            "space and run the same command again. No partial files are left."
        ) from error


def _full(error):
    """The text of an error of a full disk, or None for other errors."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in DISK_FULL else None
    # torch.save hides the error of the operating system
    said = str(error).splitlines()[0] if str(error) else ""
    if "inline_container" in said and "Reader" not in said:
        return f"torch.save: {said.rpartition('] . ')[2]}"
    return None


def _acquire(folder, patience, deep=True):
    """Creates and locks a folder; returns the lock."""
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
            f"Another run ({_holder(lock.lock_file)}) is writing to {folder}; "
            "wait until it ends, or use another folder."
        ) from error
    if not isinstance(lock, filelock.SoftFileLock):  # it needs its own text
        with open(lock.lock_file, "w", encoding="utf-8") as stream:
            stream.write(f"process {os.getpid()} of {platform.node()}")
    clear_temporaries(folder, deep)
    return lock


def _is_held(folder):
    """Whether this process, and not its parent, has locked a folder."""
    holder, lock = _HELD.get(os.path.realpath(folder), (None, None))
    return holder == os.getpid() and os.path.exists(lock.lock_file)


def _refuse_link(path, root):
    """Raises if a path is a link to a place outside of a folder."""
    target = os.path.realpath(path)
    if os.path.islink(path) and os.path.commonpath([root, target]) != root:
        raise ValueError(
            f"{path} is a link to {target}, outside its folder, and writing "
            "to it would change its target; remove the link, or use another "
            "folder."
        )


def _holder(path):
    """Describes the process that holds a lock."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
        return " ".join(stream.read().split()) or "an unknown process"
    return "an unknown process"


def _cannot_write(folder, reason):
    remedy = "make it writable, or use another folder."
    return f"Cannot write to the folder {folder} ({reason}); {remedy}"
