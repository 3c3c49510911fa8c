"""The journal of the files that this project wrote to a folder.

``.speechbrain_ext_files.jsonl`` has a line for each file with its name, size
and digest. If no line matches a file, somebody else wrote or changed it. For a
file that grows, such as a log, the last line describes its beginning.
"""

import contextlib
import hashlib
import json
import os

JOURNAL = ".speechbrain_ext_files.jsonl"
SAMPLED = 2**26  # bytes; the digest of a larger file covers its two ends


def is_own(path):
    """Whether this project wrote a file and nobody has changed it.

    Arguments
    ---------
    path : str | pathlib.Path
        A file or a link.

    Returns
    -------
    bool
        True if the journal of its folder has a line that matches the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> _ = path.write_text("a thesis")
    >>> is_own(path)
    False
    """
    known = _entries(path)
    return bool(known) and _entry(os.path.basename(path), path) in known


def record_file(folder, name, path):
    """Adds a file to its folder's journal.

    Arguments
    ---------
    folder : str
        The folder.
    name : str
        Name of the file.
    path : str | pathlib.Path
        Current path of the file, which may still have a temporary name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "new").write_text("whole")
    >>> record_file(folder, "note.txt", folder / "new")
    >>> _ = (folder / "new").rename(folder / "note.txt")
    >>> is_own(folder / "note.txt")
    True
    """
    line = json.dumps(_entry(name, path))
    # the newline in front ends a line that a killed run left incomplete
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    journal = os.open(os.path.join(folder, JOURNAL), flags, 0o644)
    try:
        os.write(journal, f"\n{line}\n".encode())
        os.fsync(journal)  # its files are on the disk before they get a name
    finally:
        os.close(journal)


def continue_file(path):
    """Adds a file that will grow, such as a log, to the journal.

    Arguments
    ---------
    path : str | pathlib.Path
        The file; it may be missing.

    Raises
    ------
    FileExistsError
        If it exists and this project did not write its beginning.

    Example
    -------
    >>> path = getfixture("tmp_path") / "log.txt"
    >>> continue_file(path)
    >>> _ = path.write_text("a line")
    >>> continue_file(path)
    >>> _ = path.write_text("a thesis")
    >>> continue_file(path)
    Traceback (most recent call last):
    FileExistsError: ...log.txt was not written by this program...
    """
    if os.path.lexists(path) and not has_grown(path):
        raise FileExistsError(foreign_words(path))
    record_file(*os.path.split(os.fspath(path)), path)


def has_grown(path):
    """Whether a file still begins with the content that the journal lists.

    Arguments
    ---------
    path : str | pathlib.Path
        A file that ``continue_file`` added.

    Returns
    -------
    bool
        True also if the file is empty now.

    Example
    -------
    >>> path = getfixture("tmp_path") / "log.txt"
    >>> _ = path.write_text("a diary")
    >>> has_grown(path)
    False
    """
    known = _entries(path)
    if not known or os.path.islink(path) or not os.path.isfile(path):
        return False
    size = known[-1].get("size")
    held = os.path.getsize(path)
    if not isinstance(size, int) or not 0 <= size <= held:
        return held == 0
    return _digest(path, size) == known[-1].get("sha256")


def foreign_words(path):
    """The error message for a file that this project did not write.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.

    Returns
    -------
    str
        The message.

    Example
    -------
    >>> foreign_words("a.txt")[:39]
    'a.txt was not written by this program, '
    """
    return (
        f"{os.fspath(path)} was not written by this program, or was changed "
        "later, so it is not replaced; move it away, or use another folder."
    )


def _entries(path):
    """The complete entries of a file in its folder's journal."""
    folder, name = os.path.split(os.fspath(path))
    journal = os.path.join(folder, JOURNAL)
    if not os.path.isfile(journal) or os.path.islink(journal):
        return []
    entries = []
    with open(journal, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):  # an incomplete line
                entries.append(json.loads(line))
    return [e for e in entries if isinstance(e, dict) and e.get("name") == name]


def _entry(name, path):
    """A journal entry: name, size and digest of a file or link."""
    if os.path.islink(path):
        target = os.readlink(path).encode(errors="surrogateescape")
        digest = hashlib.sha256(b"link:" + target)
        return {"name": name, "size": 0, "sha256": digest.hexdigest()}
    if not os.path.lexists(path):  # a log that is not begun yet
        return {"name": name, "size": 0, "sha256": _digest(os.devnull, 0)}
    if not os.path.isfile(path):
        return {"name": name, "size": -1, "sha256": ""}  # never ours
    size = os.path.getsize(path)
    return {"name": name, "size": size, "sha256": _digest(path, size)}


def _digest(path, size):
    """The digest of the first ``size`` bytes; of both ends if they are many."""
    digest = hashlib.sha256()
    parts = [(0, size)]
    if size > SAMPLED:
        parts = [(0, SAMPLED // 2), (size - SAMPLED // 2, size)]
    with open(path, "rb") as stream:
        for start, stop in parts:
            stream.seek(start)
            while start < stop and (
                chunk := stream.read(min(2**20, stop - start))
            ):
                digest.update(chunk)
                start += len(chunk)
    return digest.hexdigest()
