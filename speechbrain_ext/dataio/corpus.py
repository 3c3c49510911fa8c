"""Finds the audio files of a corpus that is laid out like VoxCeleb."""

import hashlib
import os
from collections import Counter

import pandas as pd
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.text_files import shorten, text_digest

logger = get_logger(__name__)

EXTENSIONS = ("wav", "flac", "ogg")

# All audio extensions. Files that cannot be read are counted, and a trial list
# may name a file by its extension before the conversion.
AUDIO_EXTENSIONS = frozenset(
    "wav flac ogg opus m4a mp4 aac mp3 wma aif aiff au sph amr webm".split()
)

# VoxCeleb1 has its speakers below wav, VoxCeleb2 below aac
AUDIO_LEVELS = {"wav", "aac"}
TEST_LEVEL = "test"

# Layouts of the files below a folder; there may be further levels above
SESSIONS = "speaker/session/utterance"
FLAT = "speaker/utterance"
LAYOUTS = (SESSIONS, FLAT)

# Folders of these names are not speakers
PARTS = AUDIO_LEVELS | {"train", "dev", "test", "eval", "val", "valid"}

FILE_COLUMNS = ["ID", "wav", "spk_id", "official_test"]

# Between a label and its number in SpeechBrain's label maps
SEPARATOR = " => "


def split_names(names):
    """Makes a list of names from a list, a text with commas, or None.

    Arguments
    ---------
    names : list of str or str or None
        The names, as in a YAML or on the command line.

    Returns
    -------
    list of str
        The names; empty ones are left out, and ``~`` is expanded.

    Example
    -------
    >>> split_names("one, two"), split_names(["three"]), split_names(None)
    (['one', 'two'], ['three'], [])
    """
    if isinstance(names, (str, os.PathLike)):
        names = [part.strip() for part in os.fspath(names).split(",")]
    return [os.path.expanduser(name) for name in names or [] if name]


def corpus_folders(data_folder):
    """Finds the folders of a corpus that a YAML or the command line names.

    Arguments
    ---------
    data_folder : list of str or str
        One or several, also as one text with commas. A text that is the name
        of a folder is not split.

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


def list_corpus(folders, extensions=EXTENSIONS, layout=None):
    """Lists the utterances below some folders, without opening any.

    An utterance is a file ``<folder>/**/<speaker>/<session>/<utterance>.<ext>``
    or, in the other layout, ``<folder>/**/<speaker>/<utterance>.<ext>``.
    Where a folder has such a file below a level named ``wav`` or ``aac``
    (VoxCeleb's own), only files below such levels count, so that a
    ``noise/free/sound/1.wav`` beside ``wav/`` is left out. Only the part of a
    path below its folder is looked at. Names that begin with a dot are
    ignored; linked folders are followed, and links that lead nowhere or in a
    circle are skipped and counted in the log.

    Arguments
    ---------
    folders : list of str
        The folders of the corpus.
    extensions : tuple of str
        Extensions of utterances, in lower case and without the dot.
    layout : str or None
        ``speaker/session/utterance`` or ``speaker/utterance``. None detects it
        for each folder: ``speaker/utterance`` where all files lie directly
        in the folders of the speakers, which are directly below the folder or
        its ``wav`` or ``aac``; else ``speaker/session/utterance``.

    Returns
    -------
    files : pandas.DataFrame
        One row an utterance, sorted by ID: ID (as the layout says),
        wav (absolute path), spk_id, official_test (bool: the file lies under a
        level named ``test``, as VoxCeleb's official test splits do).
    left_out : dict
        ``misplaced``: count of files with one of the extensions that lie
        elsewhere; ``other_formats``: counts of other audio files by extension.

    Raises
    ------
    FileNotFoundError
        If a folder is missing.
    OSError
        If a folder cannot be read.
    ValueError
        If a folder holds no utterance, its layout is not clear, two files have
        the same ID, or a name cannot be used.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "id1" / "s1").mkdir(parents=True)
    >>> (root / "id1" / "s1" / "00001.wav").touch()
    >>> list_corpus([root])[0].ID.tolist()
    ['id1/s1/00001']
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(
            f"`layout` must be {' or '.join(LAYOUTS)}, or null to detect "
            f"it, got {shorten(layout)!r}."
        )
    rows, misplaced, other_formats = [], 0, Counter()
    for folder in folders:
        root = os.path.abspath(folder)
        found, astray, others = _list_folder(root, set(extensions), layout)
        if not found:
            raise ValueError(_explain_empty(root, extensions, astray, others))
        rows += found
        misplaced += astray
        other_formats += others
    rows.sort()
    _check_unique(rows)
    left_out = {
        "misplaced": misplaced,
        "other_formats": dict(sorted(other_formats.items())),
    }
    files = pd.DataFrame(rows, columns=FILE_COLUMNS)
    require_plain_names(files, ", ".join(map(os.fspath, folders)))
    return files, left_out


def require_plain_names(files, source):
    """Raises at a name that a manifest or a label map cannot hold.

    Arguments
    ---------
    files : pandas.DataFrame
        Columns ID, wav and spk_id.
    source : str
        Where the files come from, for the message.

    Raises
    ------
    ValueError
        If a name has a line break or is not UTF-8, or a speaker's has
        `` => ``.

    Example
    -------
    >>> files = {"ID": ["a/1"], "wav": ["/a => b/1.wav"], "spk_id": ["a => b"]}
    >>> require_plain_names(pd.DataFrame(files), "/data")
    Traceback (most recent call last):
    ValueError: The speaker `a => b` of /a => b/1.wav (in /data) has ...
    """
    for column in ("ID", "wav", "spk_id"):
        for row, name in enumerate(files[column].to_numpy()):
            if name.isascii() and name.isprintable():
                continue
            flaw = _flaw(name)
            if flaw:
                path = files["wav"].iloc[row]
                raise ValueError(
                    f"The name of {os.fsencode(path)[:200]!r} (in "
                    f"{shorten(source)}) {flaw}; rename the file or its "
                    "folders."
                )
    for name in files["spk_id"].unique():
        if SEPARATOR in name:
            path = files["wav"][files["spk_id"] == name].iloc[0]
            raise ValueError(
                f"The speaker `{shorten(name)}` of {shorten(path)} (in "
                f"{shorten(source)}) has `{SEPARATOR}` in its name, which "
                "separates the columns of label maps; rename the speaker."
            )


def corpus_fingerprint(files, trial_lists=()):
    """Computes a digest of a corpus's file names and trial lists.

    Arguments
    ---------
    files : pandas.DataFrame
        The files, as ``list_corpus`` returns them. The official split has no
        effect.
    trial_lists : list of str
        Paths of the lists.

    Returns
    -------
    str
        Hexadecimal digits, which change with any file, speaker or trial.

    Raises
    ------
    OSError
        If a trial list does not exist or cannot be read.
    ValueError
        If a trial list is not a text file.

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
        digest.update(bytes.fromhex(text_digest(path, "trial list")))
    return digest.hexdigest()


def _list_folder(root, extensions, layout):
    """Rows of a folder, count of misplaced files, other audio by extension."""
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f"The data folder {root} does not exist or is not a folder; "
            "name the folder that holds the corpus."
        )
    held, others = [], Counter()
    for path, levels, names in _walk(root):
        kept = []
        for name in names:
            stem, _, extension = name.rpartition(".")
            extension = extension.lower()
            if extension in extensions:
                kept.append((stem, name))
            elif extension in AUDIO_EXTENSIONS:
                others[extension] += 1
        if kept:
            held.append((path, levels, kept))
    depth = 1 if (layout or _find_layout(root, held)) == FLAT else 2
    placed = [each for each in held if len(each[1]) >= depth]
    below = [
        each for each in placed if not AUDIO_LEVELS.isdisjoint(each[1][:-depth])
    ]
    rows = [row for each in below or placed for row in _rows(*each, depth)]
    speakers = {row[2] for row in rows}
    if layout is None and speakers and speakers <= PARTS:
        raise ValueError(
            f"The speakers of {root} would be {', '.join(sorted(speakers))}, "
            f"from files such as {shorten(rows[0][1])}; say how the files lie "
            f"with --layout={FLAT} or --layout={SESSIONS}, or list them with "
            "--file_list."
        )
    return rows, sum(len(each[2]) for each in held) - len(rows), others


def _find_layout(root, held):
    """How the files of a folder lie; raises where that is not clear."""
    inside, outside = [], []
    for path, levels, files in held:
        level = next((n for n, x in enumerate(levels) if x not in PARTS), None)
        parts = levels[:level]
        rest = len(levels) - len(parts)
        marks = [n for n, part in enumerate(parts) if part in AUDIO_LEVELS]
        if marks:  # what follows wav/ may be called as it likes
            rest = len(levels) - marks[0] - 1
        example = f"{path}/{files[0][1]}"
        (inside if marks and rest else outside).append((rest, example))
    found = inside
    if all(rest == 1 for rest, _ in inside):
        found = inside + outside
    flat = [example for rest, example in found if rest == 1]
    deep = [example for rest, example in found if rest > 1]
    if flat and deep:
        raise ValueError(
            f"Files below {root} lie as {SESSIONS} ({shorten(min(deep))}) and "
            f"as {FLAT} ({shorten(min(flat))}); say with --layout which of "
            "these to take, or list the files with --file_list."
        )
    loose = not inside and any(rest == 0 for rest, _ in outside)
    if not flat or loose:
        return SESSIONS
    logger.info(
        f"The files below {root} lie as {FLAT}. If their folders are "
        f"sessions, not speakers, pass --layout={SESSIONS}."
    )
    return FLAT


def _walk(root):
    """Yields (path, levels below the root, file names) of every folder."""
    # each folder with the places of the links that led to it
    pending, skipped = [(root, (), ())], []
    while pending:
        path, levels, jumps = pending.pop()
        names = []
        for entry in _entries(path):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                kind = _kind_of_link(entry, jumps)
                if kind == "skipped":
                    skipped.append(entry.path)
                elif kind == "folder":
                    jumped = (*jumps, os.path.realpath(path))
                    below = (*levels, entry.name)
                    pending.append((entry.path, below, jumped))
                else:
                    names.append(entry.name)
            elif entry.is_dir():
                pending.append((entry.path, (*levels, entry.name), jumps))
            else:
                names.append(entry.name)
        yield path, levels, names
    if skipped:
        logger.warning(
            f"{len(skipped)} links below {root} lead nowhere or in a circle "
            f"and are skipped, for example {shorten(min(skipped))}"
        )


def _entries(path):
    """What a folder holds."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise OSError(
            f"The folder {shorten(path)} cannot be read ({error.strerror}); "
            "make it readable, or name the folders to read in `data_folder`."
        ) from error


def _kind_of_link(entry, jumps):
    """Whether a link is to a file or a folder, or leads nowhere or back."""
    try:
        if not entry.is_dir():
            return "file" if entry.is_file() else "skipped"
    except OSError:  # too many links, for instance one to itself
        return "skipped"
    target = os.path.realpath(entry.path)
    # a link back to where the walk came from would never end
    passed = (*jumps, os.path.realpath(os.path.dirname(entry.path)))
    back = any(os.path.commonpath([target, x]) == target for x in passed)
    return "skipped" if back else "folder"


def _rows(path, levels, files, depth):
    """(ID, wav, spk_id, official_test) of the (stem, name) pairs of a folder.

    The depth is the distance of the speaker's level from the end.
    """
    start = "/".join(levels[-depth:])
    official_test = TEST_LEVEL in levels[:-depth]
    return [
        (f"{start}/{stem}", f"{path}/{name}", levels[-depth], official_test)
        for stem, name in files
    ]


def _check_unique(rows):
    """Raises where two neighbours in the sorted rows have the same ID."""
    for (first, one, *_), (second, other, *_) in zip(
        rows, rows[1:], strict=False
    ):
        if first == second:
            raise ValueError(
                f"Two files have the ID {first}: {one} and {other}; keep one "
                "of them, and name each data folder once."
            )


def _flaw(name):
    """What keeps a name out of manifests, or an empty text."""
    if "\n" in name or "\r" in name:
        return "has a line break"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return ""


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
            f"{shape}, and they do not all lie as <speaker>/<utterance>; name "
            f"the folder above the speakers, say --layout={FLAT} to leave out "
            "what lies elsewhere, or list the files with --file_list."
        )
    return (
        f"The data folder {root} holds no audio ({wanted}); name the folder "
        "that the corpus was unpacked into."
    )
