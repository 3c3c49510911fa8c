"""The subcommand ``embed``: embeddings of many files, as one file."""

import importlib
import math
import pathlib
import re

import numpy as np
import pandas as pd
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.cli.answer import Answer
from speechbrain_ext.cli.encoders import open_verifier
from speechbrain_ext.dataio.audio import AudioError, file_header
from speechbrain_ext.dataio.audio_files import list_audio
from speechbrain_ext.dataio.manifests import scan_files
from speechbrain_ext.inference.embedding import embed_batches
from speechbrain_ext.inference.loading import explain_torch_errors
from speechbrain_ext.inference.speaker import LONG
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.files import (
    atomic_path,
    atomic_write,
    explain_disk_full,
    remove_own,
    require_own,
)

logger = get_logger(__name__)

# What each ending needs besides this package
WRITERS = {".npz": (), ".parquet": ("pyarrow",), ".ark": ("kaldiio",)}
SHOWN = 20  # files that an error names


def embed_files(
    verifier, files, batch_seconds=16.0, workers=0, progressbar=False
):
    """Embeds audio files; those that cannot be used are left out.

    Files up to 60 s are embedded in batches of similar length, longer ones in
    blocks, see ``SpeakerVerifier.encode_stream``.

    Arguments
    ---------
    verifier : speechbrain_ext.inference.speaker.SpeakerVerifier
        The encoder.
    files : pandas.DataFrame
        Columns ID and wav, and maybe start and stop, see ``list_audio``.
    batch_seconds : float
        Largest duration of a batch with its padding.
    workers : int
        Number of processes that read audio; 0 for this process.
    progressbar : bool
        Whether to show a progress bar, if the standard error is a terminal.

    Returns
    -------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop of the embedded files, in the
        order of ``files``.
    embeddings : np.ndarray
        float32, [files, embedding].
    failures : dict
        The reason by the ID of each file that cannot be used.

    Raises
    ------
    OSError
        If a process that reads audio has ended.
    ValueError
        If the encoder cannot compute, for example without enough memory.
    """
    listed = files.assign(spk_id="", official_test=False)
    found, _, _ = scan_files(listed, {})
    manifest = found.drop(columns=["spk_id", "official_test"])
    lost = files[~files.ID.isin(manifest.ID)]
    failures = {row.ID: _flaw(row) for row in lost.itertuples()}
    rows = {}
    long = [row.Index for row in manifest.itertuples() if _is_long(row)]
    short = manifest.drop(index=long)
    bar = tqdm(
        total=len(manifest),
        unit="file",
        disable=None if progressbar else True,  # None: not on a terminal
        dynamic_ncols=True,
    )
    with bar, explain_torch_errors("The embeddings"):
        batches = embed_batches(
            verifier, short, batch_seconds, workers, failures=failures
        )
        for places, embeddings in batches:
            bar.update(len(places))
            ids = short.ID.iloc[places]
            rows.update(zip(ids, embeddings.numpy(), strict=True))
        for row in manifest.loc[long].itertuples():
            bar.update()
            try:
                embedding = verifier.encode_stream(row.wav).reshape(-1)
                rows[row.ID] = embedding.float().cpu().numpy()
            except (AudioError, NoSpeechError) as error:
                failures[row.ID] = str(error)
    for name, embedding in list(rows.items()):
        if not np.isfinite(embedding).all() or not embedding.any():
            failures[name] = "its embedding is zero or not finite"
            del rows[name]
    kept = manifest[manifest.ID.isin(rows)].reset_index(drop=True)
    stacked = [rows[name] for name in kept.ID]
    table = np.stack(stacked) if stacked else np.zeros((0, 0), np.float32)
    return kept, table, {x: failures[x] for x in files.ID if x in failures}


def _flaw(row):
    """Why the header of a file cannot be used."""
    try:
        frames, _, _ = file_header(row.wav)
    except (ValueError, OSError) as error:
        return str(error)
    return f"{row.wav} has {frames} samples, fewer than its list says"


def _is_long(row):
    """Whether a row of a manifest is a whole file that is read in blocks."""
    if row.duration <= LONG or row.start != 0:
        return False
    return row.stop == file_header(row.wav)[0]


def require_few(failures, total, allowed, shown=SHOWN):
    """Raises if too many files cannot be used.

    Arguments
    ---------
    failures : dict
        The reason by the ID of each file that cannot be used.
    total : int
        Number of all files.
    allowed : str
        Number of files that may fail, or their share with a percent sign.
    shown : int
        Number of files that the message names.

    Raises
    ------
    ValueError
        If more have failed, nothing is left, or ``allowed`` is not valid.

    Example
    -------
    >>> require_few({"a.wav": "silence"}, total=200, allowed="1%")
    >>> require_few({"a.wav": "silence"}, total=200, allowed="0")
    Traceback (most recent call last):
    ValueError: 1 of 200 files cannot be used, and --max-failed allows 0: ...
    """
    most = most_failures(allowed, total)
    if len(failures) <= most and len(failures) < total:
        return
    said = "; ".join(
        f"{name}: {reason.removesuffix('.')}"
        for name, reason in list(failures.items())[:shown]
    )
    if len(failures) > shown:
        said += f"; and {len(failures) - shown} more"
    if len(failures) > most:
        raise ValueError(
            f"{len(failures)} of {total} files cannot be used, and "
            f"--max-failed allows {allowed}: {said}. Nothing is written; "
            "repair or remove them, or raise --max-failed to leave them out."
        )
    raise ValueError(f"No file can be used: {said}. Nothing is written.")


def most_failures(allowed, total):
    """The number of files that may fail.

    Arguments
    ---------
    allowed : str
        A number, or a share with a percent sign.
    total : int
        Number of all files.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ValueError
        If it is neither.

    Example
    -------
    >>> most_failures("3", 200), most_failures("1%", 250)
    (3, 2)
    """
    if re.fullmatch(r"\d+", allowed):
        return int(allowed)
    if re.fullmatch(r"\d+(\.\d+)?%", allowed):
        share = float(allowed[:-1])
        if share <= 100:
            return math.floor(share * total / 100 + 1e-9)
    raise ValueError(
        "--max-failed must be a number of files such as 3, or a share such as "
        f"1%, got {allowed}."
    )


def require_writable(path):
    """Raises unless a file of embeddings can be written.

    Arguments
    ---------
    path : str
        The file; its ending names the format.

    Raises
    ------
    ValueError
        If the format is unknown.
    ImportError
        If a package for it is not installed.
    FileExistsError
        If the file exists and this project did not write it.

    Example
    -------
    >>> require_writable("embeddings.txt")
    Traceback (most recent call last):
    ValueError: --out must end in .npz, .parquet or .ark, got embeddings.txt.
    """
    path = pathlib.Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(
            f"--out must end in .npz, .parquet or .ark, got {path}."
        )
    for name in WRITERS[path.suffix]:
        _require(name, path.suffix)
    for written in {path, path.with_suffix(_index_of(path))}:
        require_own(written)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"The folder {path.parent} does not exist; create it, or name "
            "another file."
        )


def _index_of(path):
    """The ending of the second file that is written with an ark."""
    return ".scp" if path.suffix == ".ark" else path.suffix


def _require(name, suffix):
    """A package that a format needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} is not installed; files ending in {suffix} need it: "
            f"pip install {name}, or write .npz."
        ) from error


def write_embeddings(path, ids, embeddings, fingerprint):
    """Writes embeddings; the ending names the format.

    =========== ==========================================================
    ``.npz``    NumPy: ``ids`` [files], ``embeddings`` [files, embedding] and
                the ``fingerprint`` of the encoder
    ``.parquet`` columns ``id`` and ``embedding``; needs pyarrow
    ``.ark``    Kaldi's vectors, and their index as ``.scp``; needs kaldiio
    =========== ==========================================================

    Arguments
    ---------
    path : str
        The file.
    ids : list of str
        ID of each file.
    embeddings : np.ndarray
        float32, [files, embedding].
    fingerprint : str
        Fingerprint of the encoder.

    Raises
    ------
    ValueError
        If the format is unknown, or an ID has white space, which Kaldi's
        files cannot have.
    ImportError
        If a package for the format is not installed.
    FileExistsError
        If the file exists and this project did not write it.
    OSError
        If the disk is full.

    Example
    -------
    >>> path = getfixture("tmp_path") / "embeddings.npz"
    >>> write_embeddings(path, ["a.wav"], np.ones((1, 4), np.float32), "0f")
    >>> np.load(path)["ids"].tolist()
    ['a.wav']
    """
    require_writable(path)
    path, ids = pathlib.Path(path), list(ids)
    if path.suffix == ".npz":
        with atomic_write(path, "wb") as stream:
            np.savez(
                stream,
                ids=np.array(ids, dtype=np.str_),
                embeddings=embeddings,
                fingerprint=np.str_(fingerprint),
            )
    elif path.suffix == ".parquet":
        table = pd.DataFrame({"id": ids, "embedding": list(embeddings)})
        table.attrs["fingerprint"] = fingerprint
        with atomic_path(path) as temporary:
            table.to_parquet(temporary, index=False)
    else:
        _write_ark(path, ids, embeddings)


def _write_ark(path, ids, embeddings):
    """Writes Kaldi's vectors and their index."""
    for name in ids:
        if name.split() != [name]:
            raise ValueError(
                f"Kaldi's files cannot have the ID {name!r}, which has white "
                "space; rename the file, or give IDs in a table (CSV)."
            )
    kaldiio = _require("kaldiio", ".ark")
    with explain_disk_full(path.parent), atomic_path(path) as temporary:
        index = pathlib.Path(f"{temporary}.scp")
        try:
            rows = dict(zip(ids, embeddings, strict=True))
            kaldiio.save_ark(temporary, rows, scp=str(index))
            lines = index.read_text(encoding="utf-8")
        finally:
            index.unlink(missing_ok=True)
        # an old index would have the places of the new vectors wrong
        remove_own(path.with_suffix(".scp"))
    with atomic_write(path.with_suffix(".scp")) as stream:
        stream.write(lines.replace(str(temporary), str(path.absolute())))


def embed(arguments):
    """Embeds audio files and writes one file.

    Arguments
    ---------
    arguments : argparse.Namespace
        Of the subcommand.

    Returns
    -------
    Answer
        What was written, and the files that were left out.
    """
    most_failures(arguments.max_failed, 0)
    require_batches(arguments)
    require_writable(arguments.out)
    files = list_audio(arguments.sources, arguments.root)
    verifier = open_verifier(
        arguments.encoder, arguments.device, arguments.trust
    )
    manifest, embeddings, failures = embed_files(
        verifier,
        files,
        arguments.batch_seconds,
        arguments.workers,
        not arguments.quiet,
    )
    require_few(failures, len(files), arguments.max_failed)
    for name, reason in failures.items():
        logger.warning(f"left out: {name}: {reason}")
    write_embeddings(
        arguments.out, manifest.ID, embeddings, verifier.fingerprint
    )
    count, size = embeddings.shape
    text = f"{arguments.out}: {count} embeddings of {size} numbers"
    if failures:
        text += f", {len(failures)} files left out"
    values = {
        "out": arguments.out,
        "embeddings": count,
        "embedding_size": size,
        "seconds": float(manifest.duration.sum()),
        "fingerprint": verifier.fingerprint,
        "failed": failures,
    }
    return Answer(text, values)


def require_batches(arguments):
    """Raises if the options on batches are not valid.

    Arguments
    ---------
    arguments : argparse.Namespace
        With ``batch_seconds`` and ``workers``.

    Raises
    ------
    ValueError
        If a number is negative or not finite.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> require_batches(SimpleNamespace(batch_seconds=60.0, workers=-1))
    Traceback (most recent call last):
    ValueError: --workers must be 0 or more, got -1.
    """
    if not 0 <= arguments.batch_seconds < math.inf:
        raise ValueError(
            "--batch-seconds must be 0 or more, got "
            f"{arguments.batch_seconds:g}; 0 gives each file a batch of its "
            "own."
        )
    if arguments.workers < 0:
        raise ValueError(
            f"--workers must be 0 or more, got {arguments.workers}."
        )
