"""The journal of the files that this project wrote into a folder.

``.speechbrain_ext_files.jsonl`` has a line for each file: its name, size and
digest. A file that no line describes as it is was written or changed by
somebody else.
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
    flags |= getattr(os, "O_NOFOLLOW", 0)
    journal = os.open(os.path.join(folder, JOURNAL), flags, 0o644)
    try:
        os.write(journal, f"\n{line}\n".encode())
    finally:
        os.close(journal)


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
    if not os.path.isfile(path):
        return {"name": name, "size": -1, "sha256": ""}  # nothing of ours
    size = os.path.getsize(path)
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
            if size > SAMPLED and SAMPLED / 2 <= stream.tell() < size / 2:
                stream.seek(-SAMPLED // 2, os.SEEK_END)
    return {"name": name, "size": size, "sha256": digest.hexdigest()}
