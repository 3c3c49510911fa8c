"""Reads length, rate and channels of audio files from their headers.

Truncated files are detected too.
"""

import os
import struct

import soundfile

from speechbrain_ext.dataio.input_files import irregular_kind
from speechbrain_ext.dataio.parallel import ordered_map

# Samples per second. Other values mean a broken header, and resampling would
# need filters of gigabytes.
RATES = 100, 768_000
MOST_CHANNELS = 1024  # that libsndfile reads

# Programs that write to a pipe put a large number for an unknown length: SoX
# 0x7ffff000, FFmpeg 0xffffffff, others a little less (minus the header).
STREAMING_SIZE = 0x7FFFF000

# libsndfile's answer for a FLAC stream whose header leaves the length out.
UNKNOWN_FRAMES = 2**62

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
PLAIN_SAMPLES = {(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32)}
PLAIN_SAMPLES |= {(FLOAT, 32), (FLOAT, 64)}

OGG_PAGE = 65307  # bytes; the longest page that the format allows
OGG_LAST_PAGE = 0x04
HEAD = 512  # bytes; reaches the samples of nearly every wav

NOT_OPENED = "cannot be opened"
CHUNK = 256  # files per task of a process
FEW = 4096  # files that one process reads faster than others can start


def read_header(path):
    """Reads the header of one audio file, and checks its end.

    A plain wav (integer or float samples) is parsed here, several times as
    fast as by ``soundfile.info`` and with the same result. soundfile reads all
    other files. The header of a wav shows whether its end is missing. Of other
    files the end is read too: the last Ogg page must have the end-of-stream
    mark, and the last samples of any other compressed file must decode.

    Arguments
    ---------
    path : str
        The audio file. Its content decides the format, not its name.

    Returns
    -------
    frames : int
        Samples per channel, at least 1.
    sample_rate : int
        Samples per second.
    channels : int

    Raises
    ------
    ValueError
        If the file cannot be opened, is not a regular file, is not audio, is
        truncated, has no samples or an impossible rate. The message is the
        reason, without the path.

    Example
    -------
    >>> import numpy
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, numpy.zeros((800, 2)), 8000)
    >>> read_header(path)
    (800, 8000, 2)
    """
    try:
        kind = irregular_kind(path)
        if kind:
            raise ValueError(f"not a file: {kind}")
        with open(path, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            header = _read_stream(stream, size)
        if header is None:
            header = _ask_soundfile(path)
    except OSError as error:
        raise ValueError(f"{NOT_OPENED}: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise ValueError(f"unreadable header: {error.error_string}") from error
    frames, rate, _ = header
    if frames == 0:
        raise ValueError("no samples: its header gives a length of 0")
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(
            f"its header gives {rate} samples per second, not {RATES[0]} to "
            f"{RATES[1]}"
        )
    return header


def read_headers(paths, workers=None, journal=None):
    """Reads the headers of many files in parallel, bad files included.

    Arguments
    ---------
    paths : list of str
        The audio files.
    workers : int or None
        Processes that read; None for one per core. Fewer than 4096 files are
        read in this process.
    journal : str
        A file that keeps what was read, so that a killed run can resume; see
        ``ordered_map``. None for none.

    Returns
    -------
    list of tuple
        (frames, sample_rate, channels, reason) of each file in the order of
        the paths. The reason says why a file cannot be used, and the numbers
        are then 0; it is empty for a good file.

    Example
    -------
    >>> read_headers(["/no/such.wav"])
    [(0, 0, 0, 'cannot be opened: No such file or directory')]
    """
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    if len(paths) <= FEW:
        workers = 1
    results = ordered_map(_read_chunk, chunks, workers, journal)
    headers = [tuple(header) for chunk in results for header in chunk]
    for place, header in enumerate(headers):
        # a disk or a network may have failed for a moment, in an earlier run
        # with this journal too
        if header[3].startswith(NOT_OPENED):
            headers[place] = _read_chunk([paths[place]])[0]
    return headers


def _read_chunk(paths):
    """(frames, rate, channels, reason) of each file."""
    headers = []
    for path in paths:
        try:
            headers.append((*read_header(path), ""))
        except ValueError as error:
            headers.append((0, 0, 0, str(error)))
    return headers


def _read_stream(stream, size):
    """The header of a plain wav; None where soundfile has to be asked."""
    head = stream.read(HEAD)
    if not head:
        raise ValueError("empty file: 0 bytes")
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _read_wav(stream, size, head)
    if head[:4] == b"OggS":
        _check_last_ogg_page(stream, size)
    return None


def _read_wav(stream, size, head):
    """Reads the RIFF chunks up to the samples, and compares their size."""
    layout, position = b"", 12
    while position + 8 <= size:
        name, length = struct.unpack(
            "<4sI", _read_at(stream, head, position, 8)
        )
        position += 8
        if name == b"fmt ":
            layout = _read_at(stream, head, position, min(length, 40))
        elif name == b"data":
            return _measure_wav(layout, length, size - position)
        position += length + length % 2  # chunks start at even offsets
    return None


def _read_at(stream, head, position, length):
    """Bytes of the file, from the head if it is long enough."""
    if position + length <= len(head):
        return head[position : position + length]
    stream.seek(position)
    piece = stream.read(length)
    if len(piece) < length:
        raise ValueError("truncated: the file ends inside its header")
    return piece


def _measure_wav(layout, promised, held):
    """(frames, rate, channels) of plain samples; None for any other kind."""
    if promised >= STREAMING_SIZE or len(layout) < 16:
        return None
    if promised > held:
        raise ValueError(
            f"truncated: its header promises {promised} bytes of samples, "
            f"the file holds {held}"
        )
    kind, channels, rate, _, block, bits = struct.unpack("<HHIIHH", layout[:16])
    if kind == EXTENSIBLE and len(layout) >= 26:
        (kind,) = struct.unpack("<H", layout[24:26])
    if (kind, bits) not in PLAIN_SAMPLES or 0 in (rate, channels):
        return None
    if channels > MOST_CHANNELS:
        return None
    if block != channels * bits // 8:
        return None
    return promised // block, rate, channels


def _check_last_ogg_page(stream, size):
    """Raises unless the file ends with a page with the end-of-stream mark.

    libsndfile takes the length from the last page that is there, so that a
    truncated file would pass as a shorter one.
    """
    stream.seek(max(0, size - OGG_PAGE))
    tail = stream.read(OGG_PAGE)
    start = tail.rfind(b"OggS")
    while start >= 0:
        if _closes_stream(tail[start:]):
            return
        start = tail.rfind(b"OggS", 0, start)
    raise ValueError("truncated: the last page of its Ogg stream is missing")


def _closes_stream(page):
    """Whether the bytes begin with a whole Ogg page that ends its stream."""
    if len(page) < 27 or not page[5] & OGG_LAST_PAGE:
        return False
    segments = page[26]
    return len(page) >= 27 + segments + sum(page[27 : 27 + segments])


def _ask_soundfile(path):
    """(frames, rate, channels) by libsndfile, which decodes the end too."""
    with soundfile.SoundFile(path) as sound:
        header = sound.frames, sound.samplerate, sound.channels
        if sound.frames >= UNKNOWN_FRAMES:
            raise ValueError(
                "its header does not give its length; encode it again"
            )
        checked = sound.format in ("WAV", "WAVEX", "OGG")
        if checked or not sound.seekable():  # a telephone's format
            return header
        wanted = min(sound.frames, 16)
        try:
            sound.seek(sound.frames - wanted)
            held = len(sound.read(wanted, dtype="float32"))
        except soundfile.LibsndfileError as error:
            raise ValueError(
                "truncated: its last samples cannot be decoded"
            ) from error
        if held < wanted:
            raise ValueError("truncated: its last samples are missing")
    return header
