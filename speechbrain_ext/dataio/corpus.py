"""The audio files of a corpus in VoxCeleb's shape, found by their paths alone."""

import hashlib
import os
from collections import Counter

import pandas as pd

EXTENSIONS = ("wav", "flac", "ogg")

# Every name that says "audio", so that what cannot be read is counted and a
# trial list may name the file before its conversion.
AUDIO_EXTENSIONS = frozenset(
    "wav flac ogg opus m4a mp4 aac mp3 wma aif aiff au sph amr webm".split()
)

# VoxCeleb puts its speakers below one of these: wav in 1, aac in 2.
AUDIO_LEVELS = {"wav", "aac"}
TEST_LEVEL = "test"

FILE_COLUMNS = ["ID", "wav", "spk_id", "official_test"]


def split_names(names):
    """A list of names from a list, from one text with commas, or from None.

    Arguments
    ---------
    names : list of str or str or None
        As a YAML or the command line has them.

    Returns
    -------
    list of str
        The names; empty ones are left out.

    Example
    -------
    >>> split_names("one, two"), split_names(["three"]), split_names(None)
    (['one', 'two'], ['three'], [])
    """
    if isinstance(names, (str, os.PathLike)):
        names = [part.strip() for part in os.fspath(names).split(",")]
    return [os.fspath(name) for name in names or [] if name]


def corpus_folders(data_folder):
    """The folders of a corpus, as a YAML or the command line names them.

    Arguments
    ---------
    data_folder : list of str or str
        Several, also as one text with commas; a text that is a folder's name
        is not split.

    Returns
    -------
    list of str
        Absolute paths.

    Raises
    ------
    FileNotFoundError
        If none is named.

    Example
    -------
    >>> corpus_folders("/data/VoxCeleb1,/data/VoxCeleb2")
    ['/data/VoxCeleb1', '/data/VoxCeleb2']
    """
    one = isinstance(data_folder, (str, os.PathLike))
    if one and os.path.isdir(data_folder):
        data_folder = [data_folder]
    folders = [os.path.abspath(folder) for folder in split_names(data_folder)]
    if not folders:
        raise FileNotFoundError(
            "`data_folder` names no folder; give the one that holds the corpus."
        )
    return folders


def list_corpus(folders, extensions=EXTENSIONS):
    """List the utterances below some folders, without opening any.

    An utterance is a file ``<folder>/**/<speaker>/<session>/<utterance>.<ext>``.
    Where a folder has such a file below a level named ``wav`` or ``aac``
    (VoxCeleb's own), only files below such levels count, so that a
    ``noise/free/sound/1.wav`` beside ``wav/`` is left out. Only the part of a
    path below its folder is looked at. Names that begin with a dot are
    ignored; linked folders are followed.

    Arguments
    ---------
    folders : list of str
        The folders of the corpus.
    extensions : tuple of str
        Which files are utterances, in small letters and without the dot.

    Returns
    -------
    files : pandas.DataFrame
        One row an utterance, sorted by ID: ID (``speaker/session/utterance``),
        wav (absolute path), spk_id, official_test (bool: the file lies under a
        level named ``test``, as VoxCeleb's official test splits do).
    left_out : dict
        ``misplaced``: files with one of the extensions that are not of the
        shape; ``other_formats``: count by extension of other audio files.

    Raises
    ------
    FileNotFoundError
        If a folder is missing.
    ValueError
        If a folder holds no utterance, two files have the same ID, or a name
        is not UTF-8.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "id1" / "s1").mkdir(parents=True)
    >>> (root / "id1" / "s1" / "00001.wav").touch()
    >>> list_corpus([root])[0].ID.tolist()
    ['id1/s1/00001']
    """
    rows, misplaced, other_formats = [], 0, Counter()
    for folder in folders:
        root = os.path.abspath(folder)
        found, astray, others = _list_folder(root, set(extensions))
        if not found:
            raise ValueError(_explain_empty(root, extensions, astray, others))
        rows += found
        misplaced += astray
        other_formats += others
    rows.sort()
    _check_unique(rows)
    _check_encoding(rows)
    left_out = {
        "misplaced": misplaced,
        "other_formats": dict(sorted(other_formats.items())),
    }
    return pd.DataFrame(rows, columns=FILE_COLUMNS), left_out


def corpus_fingerprint(files, trial_lists=()):
    """Digest of a corpus's file names and of its trial lists' content.

    Arguments
    ---------
    files : pandas.DataFrame
        The files, as ``list_corpus`` gives them; the official split does not
        count.
    trial_lists : list of str
        Paths of the lists.

    Returns
    -------
    str
        Hexadecimal digits; others as soon as a file, a speaker or a trial is
        another.

    Example
    -------
    >>> files = pd.DataFrame({"ID": ["a/s/1"], "wav": ["/data/a/s/1.wav"]})
    >>> corpus_fingerprint(files)[:8]
    '02cc5b0b'
    """
    digest = hashlib.sha256("\n".join(files.wav.to_numpy()).encode())
    for column in files.columns.difference(["wav", "official_test"]):
        named = "\n".join(map(str, files[column].to_numpy()))
        digest.update(hashlib.sha256(named.encode()).digest())
    for path in trial_lists:
        with open(path, "rb") as stream:
            digest.update(hashlib.sha256(stream.read()).digest())
    return digest.hexdigest()


def _list_folder(root, extensions):
    """Rows of one folder, count of misplaced files, other audio by extension."""
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f"The data folder {root} does not exist or is not a folder; "
            "name the folder that holds the corpus."
        )
    below_level, elsewhere, misplaced, others = [], [], 0, Counter()
    for path, levels, names in _walk(root):
        kept = []
        for name in names:
            stem, _, extension = name.rpartition(".")
            extension = extension.lower()
            if extension in extensions:
                kept.append((stem, name))
            elif extension in AUDIO_EXTENSIONS:
                others[extension] += 1
        if len(levels) < 2:
            misplaced += len(kept)
        elif AUDIO_LEVELS.isdisjoint(levels[:-2]):
            elsewhere += _rows(path, levels, kept)
        else:
            below_level += _rows(path, levels, kept)
    if below_level:
        return below_level, misplaced + len(elsewhere), others
    return elsewhere, misplaced, others


def _walk(root):
    """Yield (path, levels below the root, file names) of every folder."""
    pending = [(root, ())]
    while pending:
        path, levels = pending.pop()
        names = []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    names.append(entry.name)
                elif not (entry.is_symlink() and _leads_back(entry.path)):
                    pending.append((entry.path, (*levels, entry.name)))
        yield path, levels, names


def _leads_back(link):
    """Whether a link points to a folder that it lies in: an endless walk."""
    target = os.path.realpath(link)
    folder = os.path.realpath(os.path.dirname(link))
    return os.path.commonpath([target, folder]) == target


def _rows(path, levels, files):
    """(ID, wav, spk_id, official_test) of the (stem, name) pairs of a folder."""
    speaker, session = levels[-2:]
    official_test = TEST_LEVEL in levels[:-2]
    return [
        (
            f"{speaker}/{session}/{stem}",
            f"{path}/{name}",
            speaker,
            official_test,
        )
        for stem, name in files
    ]


def _check_unique(rows):
    """Raise where two neighbours of the sorted rows have one ID."""
    for (first, one, *_), (second, other, *_) in zip(
        rows, rows[1:], strict=False
    ):
        if first == second:
            raise ValueError(
                f"Two files have the ID {first}: {one} and {other}; keep one "
                "of them, and name each data folder once."
            )


def _check_encoding(rows):
    """Raise at a name that no manifest could hold."""
    for _, path, *_ in rows:
        if not path.isascii():
            try:
                path.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"The name of {os.fsencode(path)!r} is not UTF-8; rename "
                    "the file or its folders."
                ) from error


def _explain_empty(root, extensions, misplaced, others):
    """Why a folder gives no utterance, and what to do, in one sentence."""
    wanted = ", ".join(extensions)
    shape = "<speaker>/<session>/<utterance>"
    if others:
        held = ", ".join(f"{others[name]} {name}" for name in sorted(others))
        return (
            f"The data folder {root} holds no {shape} of {wanted}, but {held}; "
            "convert them to wav or flac first: "
            "python convert_audio.py FOLDER NEW_FOLDER"
        )
    if misplaced:
        return (
            f"None of the {misplaced} audio files below {root} lies as "
            f"{shape}; name the folder above the speakers."
        )
    return (
        f"The data folder {root} holds no audio ({wanted}); name the folder "
        "that the corpus was unpacked into."
    )
