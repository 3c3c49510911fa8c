"""Lists of utterances: Clova's and Kaldi's, and CSVs of SpeechBrain."""

import functools
import os

import numpy as np
import pandas as pd

from speechbrain_ext.dataio.corpus import (
    AUDIO_EXTENSIONS,
    FILE_COLUMNS,
    list_corpus,
    require_plain_names,
)
from speechbrain_ext.dataio.kaldi import read_kaldi
from speechbrain_ext.dataio.text_files import (
    parse_numbers,
    path_below,
    read_lines,
    read_table,
    shorten,
)
from speechbrain_ext.dataio.utterance_ids import utterance_id

ROOTS = ("$data_root", "{data_root}")


def list_named(source, folders):
    """Reads a list of utterances, without opening any of them.

    ============================== ========================================
    source                         is read as
    ============================== ========================================
    a folder                       Kaldi's ``wav.scp`` and ``utt2spk``
    a file ``*.csv``               a table with ID, wav and spk_id, and
                                   start and stop (samples) where rows are
                                   pieces of files, as SpeechBrain's
                                   recipes write it; spk_id_clean (the true
                                   speakers) of a noisy manifest is kept
    any other file                 lines ``speaker path``, as Clova's
                                   trainer and Open Speaker Verification do
    ============================== ========================================

    Relative paths start from the first data folder that has the file, and so
    does ``$data_root`` of a CSV. The ID of a ``speaker path`` line is the
    path's last three parts without the ending, as in trial lists
    (``utterance_id``).

    Arguments
    ---------
    source : str
        The list.
    folders : list of str
        Data folders.

    Returns
    -------
    pandas.DataFrame
        Columns ID, wav (absolute), spk_id and official_test (False), and
        start, stop (-1: the end) and spk_id_clean of a CSV that has them;
        sorted by ID.

    Raises
    ------
    FileNotFoundError
        If there is no such list.
    OSError
        If it cannot be read.
    ValueError
        If it is not text, a line is broken, a name cannot be used, two rows
        have the same ID, or there are no rows.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train_list.txt"
    >>> _ = path.write_text("id1 id1/s/1.wav\\n")
    >>> list_named(path, ["/data"])[["ID", "wav"]].iloc[0].tolist()
    ['id1/s/1', '/data/id1/s/1.wav']
    """
    source = os.fspath(source)
    if os.path.isdir(source):
        files = read_kaldi(source, folders)
    elif not os.path.exists(source):
        raise FileNotFoundError(
            f"`file_list` {source} does not exist; give a list of `speaker "
            "path` lines, a CSV, or a Kaldi data folder."
        )
    elif source.lower().endswith(".csv"):
        files = read_csv_list(source, folders)
    else:
        files = _read_lines(source, folders)
    if files.empty:
        raise ValueError(f"`file_list` {source} names no file.")
    files = files.sort_values("ID", ignore_index=True)
    _check_ids(files, f"Two rows of {source}")
    require_plain_names(files, source)
    return files


def list_utterances(folders, sources=(), test_ids=(), layout=None):
    """Lists the utterances of data folders, or those of lists and trials.

    Arguments
    ---------
    folders : list of str
        Data folders.
    sources : list of str
        Lists of utterances, see ``list_named``; none for all utterances in
        the folders.
    test_ids : collection of str, or a function
        IDs of the utterances of trial lists; those that no list has are added
        to those of ``sources`` from the data folders. A function gets the IDs
        of ``sources`` and returns them.
    layout : str or None
        Layout of the data folders, see ``corpus.list_corpus``.

    Returns
    -------
    files : pandas.DataFrame
        As ``list_named`` returns them.
    left_out : dict
        Counts of other files, as ``corpus.list_corpus`` returns them.

    Raises
    ------
    FileNotFoundError
        If a list is missing.
    ValueError
        If a line of a list is broken or two files have one ID.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train_list.txt"
    >>> _ = path.write_text("id1 id1/s/1.wav\\n")
    >>> list_utterances(["/data"], [path])[0]["wav"].tolist()
    ['/data/id1/s/1.wav']
    """
    if not sources:
        return list_corpus(folders, layout=layout)
    files = pd.concat([list_named(s, folders) for s in sources])
    if callable(test_ids):
        test_ids = test_ids(files.ID)
    tested = set(test_ids).difference(files.ID)
    left_out = {"misplaced": 0, "other_formats": {}}
    if tested:  # a list of training files: find the others
        try:
            others, left_out = list_corpus(folders, layout=layout)
        except ValueError as error:
            raise ValueError(
                f"{len(tested)} files of the trial lists are not in "
                f"`file_list`, among them {shorten(min(tested))}; add them "
                "with their speakers (the same paths), since the data folders "
                f"do not give them: {error}"
            ) from error
        added = others[others.ID.isin(tested)]
        _check_same_names(files, others, added)
        files = pd.concat([files, added])
    files = files.sort_values("ID", ignore_index=True)
    if "start" in files:
        files = files.fillna({"start": 0, "stop": -1})
        files = files.astype({"start": int, "stop": int})
    if "spk_id_clean" in files:
        clean = files.spk_id_clean.replace("", None)
        files["spk_id_clean"] = clean.fillna(files.spk_id)
    _check_ids(files, "Two files")
    return files, left_out


def _check_same_names(files, others, added):
    """Raises where a list names what is tested otherwise than the folders do.

    ``others`` are the files of the data folders, ``added`` those of the trial
    lists among them. Under two names a test speaker would stay in training.
    """
    real = _real_paths()
    paths = map(real, others.wav)
    names = zip(others.ID, others.spk_id, strict=True)
    known = dict(zip(paths, names, strict=True))
    ids, speakers = set(added.ID), set(added.spk_id)
    for row in files.itertuples():
        its_id, its_speaker = known.get(real(row.wav), (None, None))
        if its_id in ids:
            raise ValueError(
                f"{shorten(row.wav)} is {shorten(its_id)} in a trial list and "
                f"{shorten(row.ID)} in `file_list`, so it would be trained on "
                "and tested; use one ID in both."
            )
        if its_speaker in speakers and its_speaker != row.spk_id:
            raise ValueError(
                f"{shorten(row.wav)} is of speaker {shorten(row.spk_id)} in "
                f"`file_list`, but its folder is that of {its_speaker}, a "
                "speaker of the trial lists, who would stay in training; add "
                "the files of the trial lists to `file_list`, with their "
                "speakers."
            )


def _real_paths():
    """A function that gives the real paths of files, folder by folder."""
    folder_of = functools.cache(os.path.realpath)

    def real(path):
        folder, name = os.path.split(path)
        path = os.path.join(folder_of(folder), name)
        return os.path.realpath(path) if os.path.islink(path) else path

    return real


def _check_ids(files, what):
    """Raises where two rows have one ID."""
    again = files[files.ID.duplicated(keep=False)]
    if len(again):
        one, other = again.wav.head(2)
        raise ValueError(
            f"{what} have the ID {shorten(again.ID.iloc[0])}: {shorten(one)} "
            f"and {shorten(other)}; keep one of them. The ID of a path is its "
            "last three parts; a CSV can give other IDs."
        )


def _read_lines(source, folders):
    rows = []
    for number, line in read_lines(source, "file list"):
        words = line.split(maxsplit=1)
        audio = [
            word.rpartition(".")[2].lower() in AUDIO_EXTENSIONS
            for word in words
        ]
        if len(words) != 2 or audio == [True, False]:  # the path is first
            raise ValueError(
                f"Line {number} of {source} is broken: `{shorten(line)}` "
                "must be `speaker path`."
            )
        speaker, path = words
        wav = path_below(path, folders)
        rows.append((utterance_id(path), wav, speaker, False))
    return pd.DataFrame(rows, columns=FILE_COLUMNS)


def read_csv_list(source, folders, needed=("ID", "wav", "spk_id")):
    """Reads a CSV of audio files, or of pieces of them.

    Arguments
    ---------
    source : str
        The CSV. ``start`` and ``stop`` (samples; a stop of -1 is the end) are
        read if it has them.
    folders : list of str
        Folders from which relative paths and ``$data_root`` start.
    needed : sequence of str
        Columns that it must have, with a value in each row.

    Returns
    -------
    pandas.DataFrame
        The needed columns, official_test (False), and start and stop of a CSV
        that has them, in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is not a table, a column is missing or a value is not valid, or
        it has one of start and stop without the other.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("ID,wav\\nid1-a,$data_root/a.wav\\n")
    >>> read_csv_list(path, ["/data"], ["ID", "wav"]).wav.tolist()
    ['/data/a.wav']
    """
    needed = list(needed)
    table = read_table(source, "file list", needed)
    for column in needed:
        empty = table.index[table[column] == ""]
        if len(empty):
            raise ValueError(
                f"{source} is broken in line {empty[0]}: {column} is empty."
            )
    kept = [name for name in ("spk_id_clean",) if name in table]
    files = table[needed + kept].copy()
    wavs = files.wav
    for root in ROOTS:
        wavs = wavs.str.replace(f"{root}/", "", regex=False)
    files["wav"] = [path_below(path, folders) for path in wavs]
    files["official_test"] = False
    pieces = {"start", "stop"} & set(table.columns)
    if len(pieces) == 1:
        raise ValueError(
            f"{source} has a column {pieces.pop()}, but a piece of a file "
            "needs both start and stop (in samples; a stop of -1 is the end); "
            "add the other one, or rename this one if rows are whole files."
        )
    if pieces:
        for column, least in (("start", 0), ("stop", -1)):
            numbers = parse_numbers(table[column], whole=True)
            bad = table[~(numbers >= least)]
            if len(bad):
                raise ValueError(
                    f"{source} is broken in line {bad.index[0]} (ID "
                    f"{shorten(bad.ID.iloc[0])}): {column} is "
                    f"{shorten(bad[column].iloc[0])}, not a number of samples."
                )
            files[column] = numbers.astype(np.int64)
    return files
