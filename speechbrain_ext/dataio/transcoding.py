"""Conversion of m4a and other formats by ffmpeg, file by file, resumable."""

import io
import os
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import soundfile
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.corpus import AUDIO_EXTENSIONS, EXTENSIONS
from speechbrain_ext.dataio.manifests import SAMPLE_RATE, replacing
from speechbrain_ext.dataio.parallel import cores, exclusive

logger = get_logger(__name__)

CONVERTED = AUDIO_EXTENSIONS - set(EXTENSIONS)
AT_ONCE = 4096  # files that are queued
REJECTED = "not_converted.csv"


def convert_corpus(source, target, form="wav", workers=None, most_bad=0.01):
    """Converts every m4a (mp4, aac, mp3, ...) below a folder by ffmpeg.

    What comes of ``source/dev/aac/id1/s/1.m4a`` is
    ``target/dev/aac/id1/s/1.wav``, one channel of 16 bits at 16 kHz. Each
    file is written beside and renamed, so that a run that was killed goes on
    with the files that are missing. A file that ffmpeg complains about is left
    out: one warning each, all of them in ``not_converted.csv``.

    Arguments
    ---------
    source : str
        The folder of the corpus.
    target : str
        Where the converted files go.
    form : str
        ``wav``, or ``flac`` for half the space.
    workers : int or None
        Files at a time; None for one a core.
    most_bad : float
        Share of files that may fail, in [0, 1].

    Returns
    -------
    dict
        Counts: ``converted`` now, ``there`` from a run before, ``failed``.

    Raises
    ------
    FileNotFoundError
        If ffmpeg or the source is missing.
    ValueError
        If nothing is to be converted, two files would become one, or too
        many fail.
    OSError
        If the target cannot be written into or its disk is full.

    Example
    -------
    >>> convert_corpus("/no/such/folder", "/tmp/wav")
    Traceback (most recent call last):
    FileNotFoundError: The folder /no/such/folder does not exist.
    """
    source, target = os.path.abspath(source), os.path.abspath(target)
    if not os.path.isdir(source):
        raise FileNotFoundError(f"The folder {source} does not exist.")
    if form not in ("wav", "flac"):
        raise ValueError(f"`form` must be 'wav' or 'flac', got {form!r}.")
    if not 0 <= most_bad <= 1:
        raise ValueError(f"`most_bad` must be in [0, 1], got {most_bad}.")
    if shutil.which("ffmpeg") is None:
        raise FileNotFoundError(
            "ffmpeg is not installed, which converts m4a; install it (Debian: "
            "apt-get install ffmpeg)."
        )
    pairs = _pairs(source, target, form)
    counts, failed = Counter(converted=0, there=0, failed=0), []
    with exclusive(target):
        with ThreadPoolExecutor(workers or cores()) as pool:
            try:
                for start in range(0, len(pairs), AT_ONCE):
                    some = pairs[start : start + AT_ONCE]
                    for (path, _), (what, reason) in zip(
                        some, pool.map(_convert, some), strict=True
                    ):
                        counts[what] += 1
                        if reason:
                            failed.append((path, reason))
                            logger.warning("%s: %s", path, reason)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        path = os.path.join(target, REJECTED)
        with replacing(path) as stream:
            table = pd.DataFrame(failed, columns=["path", "reason"])
            table.to_csv(stream, index=False, lineterminator="\n")
    if len(failed) > most_bad * len(pairs):
        raise ValueError(
            f"{len(failed)} of {len(pairs)} files were not converted, more "
            f"than a share of {most_bad}: see {path}; repair or remove them, "
            "or allow more."
        )
    return dict(counts)


def _pairs(source, target, form):
    """What is converted and what comes of it, sorted."""
    made = {}
    for folder, folders, names in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        place = os.path.join(target, os.path.relpath(folder, source))
        for name in names:
            stem, _, ending = name.rpartition(".")
            if ending.lower() not in CONVERTED or not stem:
                continue
            path = os.path.join(folder, name)
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
    return sorted((path, result) for result, path in made.items())


def _convert(pair):
    """Converts one file; what was done, and why not."""
    path, result = pair
    if os.path.exists(result):
        return "there", ""
    # Raw samples come by a pipe: an ffmpeg whose parent was killed ends with
    # it and leaves no file behind.
    done = subprocess.run(
        [
            *("ffmpeg", "-nostdin", "-v", "error", "-threads", "1"),
            *("-xerror", "-err_detect", "explode", "-i", path, "-vn"),
            *("-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "s16le", "pipe:1"),
        ],
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(errors="replace").split("\n")
    said = [line.strip() for line in said if line.strip()]
    if done.returncode or said or not done.stdout:
        reason = said[-1] if said else "no samples"
        return "failed", reason.replace(path, "").strip(" :")
    sound = io.BytesIO()
    samples = np.frombuffer(done.stdout, dtype="<i2")
    form = os.path.splitext(result)[1][1:]
    soundfile.write(sound, samples, SAMPLE_RATE, "PCM_16", format=form)
    os.makedirs(os.path.dirname(result), exist_ok=True)
    temporary = f"{result}.tmp"
    try:
        with open(temporary, "wb") as stream:
            stream.write(sound.getbuffer())
        os.replace(temporary, result)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return "converted", ""
