"""Kaldi's data folders: wav.scp, utt2spk, spk2utt, utt2dur and segments."""

import os

import pandas as pd

from speechbrain_ext.dataio.corpus import FILE_COLUMNS
from speechbrain_ext.dataio.text_files import path_below, read_lines, shorten
from speechbrain_ext.utils.files import atomic_write


def read_kaldi(folder, roots=("",)):
    """Lists the utterances of a Kaldi data folder, without opening any.

    Arguments
    ---------
    folder : str
        Folder with ``wav.scp`` (utterance and file) and ``utt2spk``
        (utterance and speaker).
    roots : list of str
        Folders from which relative paths in wav.scp start; the first that has
        the file is taken.

    Returns
    -------
    pandas.DataFrame
        Columns ID, wav, spk_id and official_test (False), sorted by ID.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    OSError
        If one of them cannot be read.
    ValueError
        If one is not text, a line is broken, an utterance has no speaker or
        occurs twice, an entry is a command instead of a file, or the folder
        has ``segments``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "wav.scp").write_text("id1-a /data/a.wav\\n")
    >>> _ = (folder / "utt2spk").write_text("id1-a id1\\n")
    >>> read_kaldi(folder).spk_id.tolist()
    ['id1']
    """
    if os.path.exists(os.path.join(folder, "segments")):
        raise ValueError(
            f"{folder} has segments, which are not read; cut the recordings "
            "into one file an utterance, or give a CSV with start and stop."
        )
    wavs = read_scp(os.path.join(folder, "wav.scp"), roots)
    speakers = _read_pairs(os.path.join(folder, "utt2spk"))
    rows = []
    for name in sorted(wavs):
        if name not in speakers:
            raise ValueError(
                f"{folder}/utt2spk has no speaker of {shorten(name)}, which "
                "wav.scp names; add it."
            )
        rows.append((name, wavs[name], speakers[name], False))
    return pd.DataFrame(rows, columns=FILE_COLUMNS)


def read_scp(path, roots=("",)):
    """Reads a ``wav.scp``, without opening its files.

    Arguments
    ---------
    path : str
        Lines of an utterance and its file.
    roots : list of str
        Folders from which relative paths start; the first that has the file
        is taken.

    Returns
    -------
    dict
        Maps each utterance to the absolute path of its file, in order.

    Raises
    ------
    FileNotFoundError
        If the list is missing.
    OSError
        If it cannot be read.
    ValueError
        If it is not text, a line is broken, an utterance occurs twice, or an
        entry is a command instead of a file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "wav.scp"
    >>> _ = path.write_text("id1-a /data/a.wav\\n")
    >>> read_scp(path)
    {'id1-a': '/data/a.wav'}
    """
    wavs = _read_pairs(path)
    for name, wav in wavs.items():
        if wav.endswith("|"):
            raise ValueError(
                f"{path} gives a command for {shorten(name)}: "
                f"{shorten(wav)}; write the audio to files first "
                "(Kaldi: wav-copy)."
            )
        wavs[name] = os.path.abspath(path_below(wav, roots))
    return wavs


def _read_pairs(path):
    """Maps the first word of each line to the rest of it."""
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist; a Kaldi data folder has wav.scp and "
            "utt2spk."
        )
    pairs = {}
    for number, line in read_lines(path, "Kaldi file"):
        words = line.split(maxsplit=1)
        if len(words) != 2:
            raise ValueError(
                f"Line {number} of {path} is broken: `{shorten(line)}` "
                "must be two words."
            )
        if words[0] in pairs:
            raise ValueError(
                f"Line {number} of {path} has {shorten(words[0])} for the "
                "second time; IDs must be unique."
            )
        pairs[words[0]] = words[1]
    return pairs


def write_kaldi(manifest, folder, pieces=False):
    """Writes a manifest as a Kaldi data folder.

    Lines are sorted by bytes, as Kaldi requires. ``segments`` is written if
    rows are pieces of files.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start, stop and spk_id.
    folder : str
        The folder, which is created. Each file is written whole or not at all.
    pieces : bool
        Whether rows may be pieces that start at 0, which the manifest does not
        show.

    Raises
    ------
    ValueError
        If an ID, a speaker or a file has white space in its name.

    Example
    -------
    >>> row = ["id1/s/1", 0.5, "/d/id1/s/1.wav", 0, 8000, "id1"]
    >>> columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    >>> folder = getfixture("tmp_path")
    >>> write_kaldi(pd.DataFrame([row], columns=columns), folder)
    >>> (folder / "wav.scp").read_text()
    'id1/s/1 /d/id1/s/1.wav\\n'
    """
    for column in ("ID", "spk_id"):
        spaced = manifest[column][manifest[column].str.contains(r"\s")]
        if len(spaced):
            raise ValueError(
                f"Kaldi's files cannot hold `{shorten(spaced.iloc[0])}` "
                f"({column}): it has white space; rename it."
            )
    os.makedirs(folder, exist_ok=True)
    table = manifest.assign(key=manifest.ID.str.encode("utf-8"))
    table = table.sort_values("key")
    pieces |= table.wav.duplicated().any() or (table.start > 0).any()
    tables = {
        "utt2spk": zip(table.ID, table.spk_id, strict=True),
        "spk2utt": (
            (name, *group)
            for name, group in sorted(
                table.groupby("spk_id").ID, key=lambda each: each[0].encode()
            )
        ),
        "utt2dur": (
            (name, f"{seconds:.6f}")
            for name, seconds in zip(table.ID, table.duration, strict=True)
        ),
        "wav.scp": zip(table.ID, table.wav, strict=True),
    }
    if pieces:
        wavs = sorted(set(table.wav))
        recordings = {wav: f"rec{n:08}" for n, wav in enumerate(wavs)}
        rates = (table.stop - table.start) / table.duration
        tables["wav.scp"] = ((name, wav) for wav, name in recordings.items())
        tables["segments"] = (
            (name, recordings[wav], f"{start:.6f}", f"{stop:.6f}")
            for name, wav, start, stop in zip(
                table.ID,
                table.wav,
                table.start / rates,
                table.stop / rates,
                strict=True,
            )
        )
    for name, rows in tables.items():
        with atomic_write(os.path.join(folder, name)) as stream:
            stream.writelines(" ".join(row) + "\n" for row in rows)
