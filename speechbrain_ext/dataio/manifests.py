"""Manifests: the tables of utterances that training and verification read."""

import math
import os

import numpy as np
import pandas as pd

from speechbrain_ext.dataio.audio_headers import read_headers
from speechbrain_ext.dataio.corpus import EXTENSIONS, list_corpus
from speechbrain_ext.dataio.text_files import (
    parse_numbers,
    read_table,
    shorten,
)
from speechbrain_ext.utils.files import atomic_write

COLUMNS = ["ID", "duration", "wav", "start", "stop", "spk_id"]
AGAIN = "delete the file, not only its link, and run the preparation again"


def read_manifest(path):
    """Reads a manifest and checks it.

    Arguments
    ---------
    path : str
        CSV with at least the columns ID, duration (seconds), wav, start, stop
        (samples at the file's own rate) and spk_id, as SpeechBrain's datasets
        read it.

    Returns
    -------
    pandas.DataFrame
        The rows in the file's order. duration is float, start and stop are
        int, every other column is text: a speaker ``0012`` stays ``0012``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is not a table, columns are missing, a number is invalid, a name
        is empty, an ID occurs twice, or there are no rows.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> header = "ID,duration,wav,start,stop,spk_id"
    >>> _ = path.write_text(header + "\\n7/s/1,0.5,/d/7/s/1.wav,0,8000,7\\n")
    >>> read_manifest(path).spk_id.tolist()
    ['7']
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"The manifest {path} does not exist; run the preparation first."
        )
    manifest = read_table(path, "manifest", COLUMNS)
    if manifest.empty:
        raise ValueError(f"The manifest {path} has no rows; {AGAIN}.")
    for column in ("ID", "wav", "spk_id"):
        _raise_at(manifest[column] == "", manifest, path, f"{column} is empty")
    for column, kind in (("duration", float), ("start", int), ("stop", int)):
        manifest[column] = _numbers(manifest, column, kind, path)
    _check_unique(manifest, path)
    _raise_at(
        (manifest.start < 0) | (manifest.stop <= manifest.start),
        manifest,
        path,
        "stop must be above start, got {start} to {stop}",
    )
    return manifest.reset_index(drop=True)


def write_manifest(manifest, path):
    """Writes a manifest as CSV, whole or not at all.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Utterances, as ``read_manifest`` returns them.
    path : str
        The file to write; an existing one is replaced.

    Raises
    ------
    ValueError
        If columns are missing or an ID occurs twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "dev.csv"
    >>> row = ["7/s/1", 0.5, "/d/7/s/1.wav", 0, 8000, "7"]
    >>> write_manifest(pd.DataFrame([row], columns=COLUMNS), path)
    >>> len(read_manifest(path))
    1
    """
    _check_columns(manifest, path)
    _check_unique(manifest, path)
    with atomic_write(path) as stream:
        manifest.to_csv(stream, index=False, lineterminator="\n")


def scan_corpus(folders, extensions=EXTENSIONS, workers=None):
    """Makes the manifest of a corpus that is laid out like VoxCeleb.

    ``list_corpus`` finds the files and ``read_header`` reads their headers.
    The result depends neither on the file system's order nor on the number of
    workers.

    Arguments
    ---------
    folders : list of str
        The folders of the corpus.
    extensions : tuple of str
        Extensions of utterances, in lower case and without the dot.
    workers : int or None
        Processes that read; None for one per core.

    Returns
    -------
    manifest : pandas.DataFrame
        One row per readable file, sorted by ID: the columns of a manifest and
        official_test (bool), see ``list_corpus``.
    rejected : pandas.DataFrame
        wav and reason of each file that cannot be used.
    summary : dict
        Counts of the manifest's ``files``, ``speakers``, ``sessions``,
        ``seconds``, ``stereo`` (more than one channel), ``pieces`` (parts of
        files) and ``sample_rates`` (files by their rate); and of files that
        are left out, ``rejected``, ``misplaced`` and ``other_formats``.

    Raises
    ------
    FileNotFoundError
        If a folder is missing.
    ValueError
        If a folder holds no utterance, or two files have the same ID.

    Example
    -------
    >>> import numpy, soundfile
    >>> root = getfixture("tmp_path")
    >>> (root / "id1" / "s1").mkdir(parents=True)
    >>> soundfile.write(root / "id1/s1/1.wav", numpy.zeros(8000), 16000)
    >>> manifest, rejected, summary = scan_corpus([root])
    >>> manifest.duration.tolist(), summary["speakers"]
    ([0.5], 1)
    """
    files, left_out = list_corpus(folders, extensions)
    return scan_files(files, left_out, workers)


def scan_files(files, left_out, workers=None, journal=None):
    """Reads the headers of listed files; the second half of ``scan_corpus``.

    Arguments
    ---------
    files : pandas.DataFrame
        What ``list_corpus`` found. Pieces of files have columns start and
        stop, in samples (a stop of -1 is the end). A column spk_id_clean is
        kept.
    left_out : dict
        What ``list_corpus`` left out; becomes part of the summary.
    workers : int or None
        Processes that read; None for one per core.
    journal : str
        File that keeps the headers, so that a killed run can resume; see
        ``read_headers``.

    Returns
    -------
    manifest : pandas.DataFrame
        As ``scan_corpus`` returns it.
    rejected : pandas.DataFrame
        As ``scan_corpus`` returns it.
    summary : dict
        As ``scan_corpus`` returns it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "1.wav"
    >>> _ = path.write_text("no audio")
    >>> files = pd.DataFrame({"ID": ["a/b/1"], "wav": [str(path)]})
    >>> files = files.assign(spk_id="a", official_test=False)
    >>> manifest, rejected, summary = scan_files(files, {})
    >>> rejected.reason.tolist()
    ['unreadable header: Format not recognised.']
    """
    paths, of = list(files.wav.to_numpy()), slice(None)
    if "start" in files:  # a file may have many pieces
        of, paths = pd.factorize(files.wav)
    headers = read_headers(list(paths), workers, journal)
    reasons = np.array([reason for *_, reason in headers], dtype=object)[of]
    headers = [header[:3] for header in headers]
    headers = np.array(headers, dtype=np.int64).reshape(-1, 3)[of]
    starts, stops = np.zeros_like(headers[:, 0]), headers[:, 0]
    if "start" in files:
        starts = files.start.to_numpy()
        stops = np.where(files.stop < 0, stops, files.stop)
        outside = (starts >= stops) | (stops > headers[:, 0])
        reasons[outside & (reasons == "")] = "shorter than its list says"
    good = reasons == ""
    starts, stops, channels = starts[good], stops[good], headers[good, 2]
    rates = headers[good, 1]
    kept = files[good].reset_index(drop=True)
    manifest = pd.DataFrame(
        {
            "ID": kept.ID,
            "duration": (stops - starts) / rates,
            "wav": kept.wav,
            "start": starts,
            "stop": stops,
            "spk_id": kept.spk_id,
            "official_test": kept.official_test,
        }
    )
    if "spk_id_clean" in kept:
        manifest["spk_id_clean"] = kept.spk_id_clean
    rejected = pd.DataFrame(
        {"wav": files.wav[~good], "reason": reasons[~good]}
    ).reset_index(drop=True)
    summary = {
        "files": len(manifest),
        "speakers": manifest.spk_id.nunique(),
        "sessions": len(
            {name.rpartition("/")[0] for name in manifest.ID.to_numpy()}
        ),
        "seconds": float(manifest.duration.sum()),
        "stereo": int((channels > 1).sum()),
        "pieces": int(((starts > 0) | (stops < headers[good, 0])).sum()),
        "sample_rates": {
            str(rate): int(count)
            for rate, count in zip(
                *np.unique(rates, return_counts=True), strict=True
            )
        },
        "rejected": len(rejected),
        **left_out,
    }
    return manifest, rejected, summary


def require_readable(rejected, total, max_unreadable):
    """Raises where too many files cannot be read.

    Arguments
    ---------
    rejected : pandas.DataFrame
        wav and reason of each, as ``scan_files`` returns them.
    total : int
        Number of all files.
    max_unreadable : float
        Fraction of files that may be unreadable, in [0, 1].

    Raises
    ------
    ValueError
        If there are more; it names three and the fraction needed.

    Example
    -------
    >>> bad = pd.DataFrame({"wav": ["/d/a/s/1.wav"], "reason": ["empty"]})
    >>> require_readable(bad, total=100, max_unreadable=0.01)
    """
    if len(rejected) > max_unreadable * total:
        enough = math.ceil(1e4 * len(rejected) / total) / 1e4
        shown = "; ".join(
            f"{wav} ({reason})"
            for wav, reason in rejected.head(3).itertuples(index=False)
        )
        raise ValueError(
            f"{len(rejected)} of {total} audio files are unreadable, more than "
            f"`max_unreadable` = {max_unreadable} allows: {shown}; repair or "
            f"remove them, or set `max_unreadable` to {enough:.4f} to leave "
            "them out."
        )


def _check_columns(manifest, path):
    missing = [name for name in COLUMNS if name not in manifest.columns]
    if missing:
        raise ValueError(
            f"The manifest {path} lacks the columns {', '.join(missing)}; it "
            f"needs {', '.join(COLUMNS)}: {AGAIN}."
        )


def _check_unique(manifest, path):
    repeated = manifest.ID[manifest.ID.duplicated()]
    if len(repeated):
        raise ValueError(
            f"The manifest {path} has the ID {shorten(repeated.iloc[0])} "
            "twice; "
            "IDs must be unique: rename or remove one of the rows."
        )


def _numbers(manifest, column, kind, path):
    """A column of text as numbers; raises at the first invalid one."""
    numbers = parse_numbers(manifest[column], whole=kind is int)
    problem = f"{column} is {{{column}}}, not a number"
    if column == "duration":
        numbers, problem = numbers.where(numbers > 0), f"{problem} above 0"
    _raise_at(numbers.isna(), manifest, path, problem)
    return numbers.astype(kind)


def _raise_at(broken, manifest, path, problem):
    """Raises with the problem of the first row that is marked, if any."""
    if broken.any():
        row = manifest[broken].iloc[0]
        shown = {name: shorten(value) for name, value in row.items()}
        raise ValueError(
            f"The manifest {path} is broken in line {row.name} (ID "
            f"{shown['ID']}): {problem.format(**shown)}; {AGAIN}."
        )
