"""IDs of the utterances that a list names by their paths."""

from speechbrain_ext.dataio.corpus import AUDIO_EXTENSIONS
from speechbrain_ext.dataio.text_files import shorten


def utterance_id(name):
    """Gives the ID in a manifest of a file that a list names.

    Arguments
    ---------
    name : str
        A path or an ID. Only its last three parts count, without the ending
        of an audio file. ``./`` and a doubled slash change nothing.

    Returns
    -------
    str
        ``speaker/session/utterance``, or less where the name has less.

    Example
    -------
    >>> utterance_id("wav/id10270/5r0dWxy17C8/00001.wav")
    'id10270/5r0dWxy17C8/00001'
    >>> utterance_id("id10270-v1.2-00001")
    'id10270-v1.2-00001'
    """
    name = "/".join(_parts(name)[-3:])
    stem, _, extension = name.rpartition(".")
    return stem if extension.lower() in AUDIO_EXTENSIONS else name


def literal_ids(ids):
    """Gives the IDs that ``utterance_id`` would change.

    A CSV may have them, and files such as ``1.m4a.wav`` get them. In a list
    they must be taken as they are.

    Arguments
    ---------
    ids : iterable of str
        IDs of a manifest.

    Returns
    -------
    set of str
        Those of more than three parts, with the ending of an audio file, with
        ``./`` or a doubled slash, or that begin with a slash.

    Example
    -------
    >>> literal_ids(["id1/s/1", "id1/s/1.m4a", "vox1/wav/id1/s/1"]) == {
    ...     "id1/s/1.m4a",
    ...     "vox1/wav/id1/s/1",
    ... }
    True
    """
    return {
        name
        for name in ids
        if name.count("/") > 2
        or name.rpartition(".")[2].lower() in AUDIO_EXTENSIONS
        or "//" in name
        or "./" in name
        or name.startswith("/")
    }


def require_no_white_space(ids):
    """Raises if a trial list cannot hold an ID.

    Arguments
    ---------
    ids : iterable of str
        The IDs.

    Raises
    ------
    ValueError
        If one has white space.

    Example
    -------
    >>> require_no_white_space(["id1/my session/1"])
    Traceback (most recent call last):
    ValueError: The ID `id1/my session/1` has white space, which a trial ...
    """
    for name in ids:
        if len(name.split()) != 1:
            raise ValueError(
                f"The ID `{shorten(name)}` has white space, which a trial list "
                "cannot hold; rename the file or its folders."
            )


def utterance_ids(names, path, literal=()):
    """Gives the IDs of all files that a list names.

    Arguments
    ---------
    names : iterable of str
        Paths or IDs.
    path : str
        The list, for the error message.
    literal : collection of str
        IDs that are taken as they are, see ``literal_ids``.

    Returns
    -------
    dict
        The ID of each name, see ``utterance_id``.

    Raises
    ------
    ValueError
        If two different files get one ID. A path and its end may be the same
        file.

    Example
    -------
    >>> utterance_ids(["wav/id1/a/1.wav", "id1/a/1"], "veri.txt")
    {'wav/id1/a/1.wav': 'id1/a/1', 'id1/a/1': 'id1/a/1'}
    >>> utterance_ids(["clean/id1/a/1.wav", "noisy/id1/a/1.wav"], "veri.txt")
    Traceback (most recent call last):
    ValueError: The list veri.txt names `clean/id1/a/1.wav` and \
`noisy/id1/a/1.wav`, which would be one utterance...
    """
    ids = {
        name: name if name in literal else utterance_id(name) for name in names
    }
    if len(set(ids.values())) < len(ids):
        longest = {}
        for name, found in ids.items():
            other = longest.get(found, name)
            if not _may_be_one(name, other):
                raise ValueError(
                    f"The list {path} names `{shorten(other)}` and "
                    f"`{shorten(name)}`, which would be one utterance: an ID "
                    "is the last three parts of a path, without the ending. "
                    "If it is one file, write both names alike; if not, give "
                    "the files IDs of their own in a CSV (`file_list`)."
                )
            longest[found] = max(name, other, key=len)
    return ids


def _may_be_one(name, other):
    """Whether two names of one ID may be one file: one is the other's end."""
    (*folders, last), (*others, other_last) = _parts(name), _parts(other)
    endings = {n.rpartition(".")[2].lower() for n in (last, other_last)}
    count = min(len(folders), len(others))
    same = folders[len(folders) - count :] == others[len(others) - count :]
    return same and len(endings.intersection(AUDIO_EXTENSIONS)) < 2


def _parts(name):
    """The parts of a path; ``./`` and a doubled slash have none."""
    parts = name.split("/")
    if "" in parts or "." in parts:
        parts = [part for part in parts if part not in ("", ".")] or parts
    return parts
