"""The journal of the files that this project wrote into a folder.

``.speechbrain_ext_files.jsonl`` has a line for each file: its name, size and
digest. A file that no line describes as it is was written or changed by
somebody else. Of a file that grows, such as a log, the last line describes
the beginning.
"""

import contextlib
import hashlib
import json
import os

JOURNAL = ".speechbrain_ext_files.jsonl"
SAMPLED = 2**26  # bytes; of a larger file the digest is of both ends


def is_own(path):
    """Whether this project wrote a file, and nobody changed it since.

    Arguments
    ---------
    path : str | pathlib.Path
        A file or a link.

    Returns
    -------
    bool
        False where the journal of its folder does not know it as it is.

    Example
    -------
    >>> path = getfixture("tmp_path") / "note.txt"
    >>> _ = path.write_text("a thesis")
    >>> is_own(path)
    False
    """
    folder, name = os.path.split(os.fspath(path))
    known = [line for line in _journal(folder) if line["name"] == name]
    return bool(known) and _entry(name, path) in known


def record_file(folder, name, path):
    """Adds a file to its folder's journal.

    Arguments
    ---------
    folder : str
        The folder.
    name : str
        The file's name there.
    path : str | pathlib.Path
        Where the file is now: it may not have its name yet.

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
    # a torn line before it must not take this one along
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    journal = os.open(os.path.join(folder, JOURNAL), flags, 0o644)
    try:
        os.write(journal, f"\n{line}\n".encode())
    finally:
        os.close(journal)


def continue_file(path):
    """Takes a file into the journal that is going to grow, such as a log.

    Arguments
    ---------
    path : str | pathlib.Path
        The file, which need not be there yet.

    Raises
    ------
    FileExistsError
        If one is there whose beginning this project did not write.

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
    """Whether a file begins with what this project last knew of it.

    Arguments
    ---------
    path : str | pathlib.Path
        A file that ``continue_file`` took in.

    Returns
    -------
    bool
        True also where it was emptied.

    Example
    -------
    >>> path = getfixture("tmp_path") / "log.txt"
    >>> _ = path.write_text("a diary")
    >>> has_grown(path)
    False
    """
    folder, name = os.path.split(os.fspath(path))
    known = [line for line in _journal(folder) if line["name"] == name]
    if not known or os.path.islink(path) or not os.path.isfile(path):
        return False
    size = known[-1].get("size")
    held = os.path.getsize(path)
    if not isinstance(size, int) or not 0 <= size <= held:
        return held == 0
    return _digest(path, size) == known[-1].get("sha256")


def foreign_words(path):
    """What is said of a file that is not this project's.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.

    Returns
    -------
    str
        The sentence.

    Example
    -------
    >>> foreign_words("a.txt")[:39]
    'a.txt was not written by this program, '
    """
    return (
        f"{os.fspath(path)} was not written by this program, or was "
        "changed since, so it is not replaced; move it away, or name "
        "another folder."
    )


def _journal(folder):
    """The whole lines of a folder's journal."""
    path = os.path.join(folder, JOURNAL)
    if not os.path.isfile(path) or os.path.islink(path):
        return []
    lines = []
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):  # torn by a kill
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and "name" in line]


def _entry(name, path):
    """A line of the journal: name, size and digest of a file or link."""
    if os.path.islink(path):
        target = os.readlink(path).encode(errors="surrogateescape")
        digest = hashlib.sha256(b"link:" + target)
        return {"name": name, "size": 0, "sha256": digest.hexdigest()}
    if not os.path.lexists(path):  # about to begin
        return {"name": name, "size": 0, "sha256": _digest(os.devnull, 0)}
    if not os.path.isfile(path):
        return {"name": name, "size": -1, "sha256": ""}  # nothing of ours
    size = os.path.getsize(path)
    return {"name": name, "size": size, "sha256": _digest(path, size)}


def _digest(path, size):
    """The digest of a file's first bytes, of both ends where they are many."""
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
