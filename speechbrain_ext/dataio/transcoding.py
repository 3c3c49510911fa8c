"""Converts m4a and other formats by ffmpeg; a killed run can resume."""

import contextlib
import functools
import io
import os
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import soundfile
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.audio_headers import RATES, read_headers
from speechbrain_ext.dataio.corpus import AUDIO_EXTENSIONS, EXTENSIONS
from speechbrain_ext.dataio.parallel import cores
from speechbrain_ext.utils.files import atomic_write, locked_folder

logger = get_logger(__name__)

CONVERTED = AUDIO_EXTENSIONS - set(EXTENSIONS)
QUEUED = 4096  # files
FILES = 32  # per call of ffmpeg
REJECTED = "not_converted.csv"


def convert_corpus(
    source,
    target,
    form="wav",
    workers=None,
    max_unreadable=0.01,
    sample_rate=16000,
):
    """Converts every m4a (mp4, aac, mp3, ...) below a folder by ffmpeg.

    ``source/dev/aac/id1/s/1.m4a`` becomes ``target/dev/aac/id1/s/1.wav``, one
    channel of 16 bits. Each file is written whole or not at all; a second run
    converts the files that are missing. A file that ffmpeg cannot read without
    an error is left out, with a warning and a row in ``not_converted.csv``.
    Files that need no conversion (wav, flac, ogg) are not copied; the log says
    how many there are.

    Arguments
    ---------
    source : str
        The folder of the corpus.
    target : str
        Where the converted files go.
    form : str
        ``wav``, or ``flac`` for half the space.
    workers : int or None
        Files at a time; None for one per core.
    max_unreadable : float
        Share of files that may fail, in [0, 1].
    sample_rate : int
        Samples per second of the converted files, as the model needs it.

    Returns
    -------
    dict
        Counts: ``converted`` now, ``there`` from an earlier run, ``failed``.

    Raises
    ------
    FileNotFoundError
        If ffmpeg or the source is missing.
    ValueError
        If an argument is out of range, there is nothing to convert, two
        files would become one, the target has files of another sample rate,
        or too many fail.
    OSError
        If the target cannot be written into or its disk is full.

    Example
    -------
    >>> convert_corpus("/no/such/folder", "/no/such/wav")
    Traceback (most recent call last):
    FileNotFoundError: The folder /no/such/folder does not exist.
    """
    source, target = os.path.abspath(source), os.path.abspath(target)
    if not os.path.isdir(source):
        raise FileNotFoundError(f"The folder {source} does not exist.")
    if form not in ("wav", "flac"):
        raise ValueError(f"`form` must be 'wav' or 'flac', got {form!r}.")
    if not 0 <= max_unreadable <= 1:
        raise ValueError(
            f"`max_unreadable` must be in [0, 1], got {max_unreadable}."
        )
    if not RATES[0] <= sample_rate <= RATES[1]:
        raise ValueError(
            f"`sample_rate` must be {RATES[0]} to {RATES[1]} samples per "
            f"second, got {sample_rate}."
        )
    if shutil.which("ffmpeg") is None:
        raise FileNotFoundError(
            "ffmpeg, which converts m4a, is not installed; install it "
            "(Debian: apt-get install ffmpeg)."
        )
    pairs, ready = _pairs(source, target, form)
    if ready:
        logger.warning(
            f"{len(ready)} files below {source} need no conversion and are not "
            f"copied, among them {min(ready)}; to train on them too, pass both "
            f"folders: --data_folder={source},{target}"
        )
    failed = []
    with locked_folder(target):
        missing = [pair for pair in pairs if not os.path.exists(pair[1])]
        _check_rates(sorted(set(pairs) - set(missing)), sample_rate)
        stopped = threading.Event()
        convert = functools.partial(
            _convert, sample_rate=sample_rate, stopped=stopped
        )
        with ThreadPoolExecutor(workers or cores()) as pool:
            try:
                for start in range(0, len(missing), QUEUED):
                    some = missing[start : start + QUEUED]
                    some = [
                        some[i : i + FILES] for i in range(0, len(some), FILES)
                    ]
                    for bad in pool.map(convert, some):
                        failed += bad
                        for path, reason in bad:
                            logger.warning("%s: %s", path, reason)
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        path = os.path.join(target, REJECTED)
        with atomic_write(path) as stream:
            table = pd.DataFrame(failed, columns=["path", "reason"])
            table.to_csv(stream, index=False, lineterminator="\n")
    if len(failed) > max_unreadable * len(pairs):
        raise ValueError(
            f"{len(failed)} of {len(pairs)} files were not converted, more "
            f"than a share of {max_unreadable}: see {path}; repair or remove "
            "them, or allow more with --max_unreadable."
        )
    return {
        "converted": len(missing) - len(failed),
        "there": len(pairs) - len(missing),
        "failed": len(failed),
    }


def _folders(source):
    """Each folder and its files, also through links that do not lead back."""
    passed = {source: ()}  # the real folders on the way to a folder
    for folder, folders, names in os.walk(source, followlinks=True):
        way = (*passed.pop(folder), os.path.realpath(folder))
        paths = {name: os.path.join(folder, name) for name in folders}
        folders[:] = [
            name
            for name, path in paths.items()
            if not name.startswith(".")
            and not (os.path.islink(path) and _leads_back(path, way))
        ]
        passed |= {paths[name]: way for name in folders}
        yield folder, names


def _leads_back(link, way):
    """Whether a link's target holds one of some folders, or is one of them."""
    target = os.path.realpath(link)
    return any(os.path.commonpath([target, one]) == target for one in way)


def _pairs(source, target, form):
    """Pairs of an input and its output, sorted; files that need none."""
    made, ready = {}, set()
    for folder, names in _folders(source):
        place = os.path.join(target, os.path.relpath(folder, source))
        for name in names:
            if name.startswith("."):  # such as macOS's ._x.m4a, without audio
                continue
            stem, _, ending = name.rpartition(".")
            path = os.path.join(folder, name)
            if ending.lower() in EXTENSIONS and stem:
                ready.add(path)
            if ending.lower() not in CONVERTED or not stem:
                continue
            result = os.path.normpath(os.path.join(place, f"{stem}.{form}"))
            if result in made:
                raise ValueError(
                    f"{made[result]} and {path} would both become {result}; "
                    "remove one of them."
                )
            made[result] = path
    if not made:
        raise ValueError(
            f"{source} holds nothing to convert "
            f"({', '.join(sorted(CONVERTED))})."
        )
    pairs = sorted((path, result) for result, path in made.items())
    return pairs, ready - set(made)


def _check_rates(pairs, sample_rate):
    """Raises where an earlier run has written files of another rate."""
    results = [result for _, result in pairs]
    for result, (_, rate, *_) in zip(
        results, read_headers(results), strict=True
    ):
        if rate not in (0, sample_rate):
            raise ValueError(
                f"{result} has {rate} samples per second, but `sample_rate` "
                f"is {sample_rate}; name another target folder, or the rate "
                "of the run before."
            )


def _convert(pairs, sample_rate, stopped):
    """Converts some files; returns path and reason of those that failed."""
    if stopped.is_set():
        return []
    held, reason = _decode([path for path, _ in pairs], sample_rate)
    if reason and len(pairs) > 1:  # one of them is bad: convert each alone
        alone = [_convert([pair], sample_rate, stopped) for pair in pairs]
        return [bad for one in alone for bad in one]
    if reason:
        return [(pairs[0][0], reason)]
    for (_, result), samples in zip(pairs, held, strict=True):
        _write(result, samples, sample_rate)
    return []


def _decode(paths, sample_rate):
    """Samples of each file, or why one of them cannot be decoded.

    Starting ffmpeg takes longer than converting a file, so it gets several. It
    writes into files without a name, so that nothing is left of them if this
    process is killed.
    """
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in paths]
        command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror"]
        for path in paths:
            command += ["-threads", "1", "-err_detect", "explode", "-i", path]
        for number, stream in enumerate(streams):
            command += ["-map", f"{number}:a:0", "-ac", "1", "-ar"]
            command += [str(sample_rate), "-f", "s16le"]
            command += [f"pipe:{stream.fileno()}"]
        done = subprocess.run(
            command,
            pass_fds=[stream.fileno() for stream in streams],
            capture_output=True,
            check=False,
        )
        held = []
        for stream in streams:
            stream.seek(0)
            held.append(np.frombuffer(stream.read(), dtype="<i2"))
    said = done.stderr.decode(errors="replace").split("\n")
    said = [line.strip() for line in said if line.strip()]
    if done.returncode or said:
        reason = said[-1] if said else f"ffmpeg ended with {done.returncode}"
        return held, reason.replace(paths[0], "").strip(" :")
    return held, "" if all(map(len, held)) else "no samples"


def _write(result, samples, sample_rate):
    """Writes a sound, whole or not at all."""
    sound = io.BytesIO()
    form = os.path.splitext(result)[1][1:]
    soundfile.write(sound, samples, sample_rate, "PCM_16", format=form)
    os.makedirs(os.path.dirname(result), exist_ok=True)
    with atomic_write(result, "wb", record=False) as stream:
        stream.write(sound.getbuffer())
