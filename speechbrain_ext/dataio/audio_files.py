"""Audio files that a user names: files, folders, lists and tables."""

import os

import pandas as pd

from speechbrain_ext.dataio.corpus import AUDIO_EXTENSIONS
from speechbrain_ext.dataio.file_lists import read_csv_list
from speechbrain_ext.dataio.input_files import require_regular
from speechbrain_ext.dataio.kaldi import read_scp
from speechbrain_ext.dataio.text_files import read_lines, shorten


def list_audio(sources, root=""):
    """Lists audio files, without opening any.

    ============================== ========================================
    a source                       gives
    ============================== ========================================
    a folder                       the audio files in it, at any depth; the
                                   ID is the path in the folder
    a file ``*.csv``               a table with ID and wav, and start and
                                   stop (samples) where rows are pieces of
                                   files
    a file ``*.scp``               Kaldi's lines ``ID path``
    a file with the ending of      itself; the ID is its path
    audio
    any other file                 a path on each line, which is the ID too
    ============================== ========================================

    Arguments
    ---------
    sources : list of str
        The sources.
    root : str
        Folder from which relative paths in lists start; ``""`` is the working
        directory.

    Returns
    -------
    pandas.DataFrame
        Columns ID and wav, and start and stop (-1: the end) if a table has
        them.

    Raises
    ------
    FileNotFoundError
        If a source does not exist.
    OSError
        If it cannot be read.
    ValueError
        If a list is not valid, it names no file, or two files have the same
        ID.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.txt"
    >>> _ = path.write_text("id1/1.wav\\n")
    >>> list_audio([path, "other.wav"], "/data").iloc[0].tolist()
    Traceback (most recent call last):
    FileNotFoundError: other.wav does not exist; check its path.
    >>> list_audio([path], "/data").iloc[0].tolist()
    ['id1/1.wav', '/data/id1/1.wav']
    """
    found = []
    for source in map(os.fspath, sources):
        if not os.path.exists(source):
            raise FileNotFoundError(f"{source} does not exist; check its path.")
        files = _read_source(source, os.fspath(root))
        if files.empty:
            raise ValueError(
                f"{source} has no audio file; name audio files, or a folder, "
                "a list or a table of them."
            )
        found.append(files)
    files = pd.concat(found, ignore_index=True)
    if "start" in files:
        files = files.fillna({"start": 0, "stop": -1})
        files = files.astype({"start": int, "stop": int})
    again = files.ID[files.ID.duplicated()]
    if len(again):
        raise ValueError(
            f"Two audio files have the ID {shorten(again.iloc[0])}; name each "
            "file once, or give IDs in a table (CSV) or a wav.scp."
        )
    return files


def _read_source(source, root):
    """ID and wav of one source."""
    ending = source.rpartition(".")[2].lower()
    if os.path.isdir(source):
        pairs = sorted(files_below(source))
    elif ending == "csv":
        files = read_csv_list(source, [root], ["ID", "wav"])
        return files.drop(columns="official_test")
    elif ending == "scp":
        pairs = read_scp(source, [root]).items()
    elif ending in AUDIO_EXTENSIONS:
        require_regular(source)
        pairs = [(source, os.path.abspath(source))]
    else:
        require_regular(source)
        lines = [line.strip() for _, line in read_lines(source, "file list")]
        pairs = [(x, os.path.abspath(os.path.join(root, x))) for x in lines]
    return pd.DataFrame(pairs, columns=["ID", "wav"])


def files_below(folder):
    """Finds the audio files of a folder, in any order.

    A folder that links lead to is read once, and by a link only if no other
    way leads there. Names that begin with a dot are left out: macOS puts a
    ``._x.wav`` without audio beside an ``x.wav``.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder.

    Yields
    ------
    tuple of str
        Path in the folder, and absolute path.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a").mkdir()
    >>> (folder / "a" / "x.wav").touch()
    >>> [name for name, _ in files_below(folder)]
    ['a/x.wav']
    """
    seen, starts = set(), [folder]
    for start in starts:  # links, which are added below, come last
        for path, folders, names in os.walk(start):
            real = os.path.realpath(path)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(x for x in folders if not x.startswith("."))
            below = (os.path.join(path, name) for name in folders)
            starts += filter(os.path.islink, below)
            for name in names:
                ending = name.rpartition(".")[2].lower()
                if ending in AUDIO_EXTENSIONS and not name.startswith("."):
                    place = os.path.join(path, name)
                    yield os.path.relpath(place, folder), os.path.abspath(place)
