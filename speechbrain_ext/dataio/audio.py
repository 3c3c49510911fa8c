"""Reading speech: a piece of a file, as one channel at one rate."""

import contextlib
import math
import os
from fractions import Fraction
from functools import cache

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from speechbrain.dataio.preprocess import AudioNormalizer

from speechbrain_ext.dataio.audio_headers import RATES, read_header
from speechbrain_ext.dataio.input_files import require_regular
from speechbrain_ext.dataio.shards import open_member

# without the deletion the preparation would be up to date
AGAIN = "delete prepare.json in the save folder and run the preparation again"
REMEDY = (
    f"replace or remove it, then {AGAIN}: rejected.csv lists what it rejects"
)

# SpeechBrain filters once per phase; 11,025 to 16,000 Hz has 640
MOST_PHASES = 1000


class AudioError(ValueError, RuntimeError):
    """Audio that cannot be used; the message is a sentence with the file.

    A DataLoader worker sends an error to the main process with its whole
    traceback as the message. Only the sentence is kept.

    Arguments
    ---------
    message : str
        The sentence.

    Example
    -------
    >>> text = "Caught AudioError in worker.\\n...audio.AudioError: Gone."
    >>> str(AudioError(text))
    'Gone.'
    """

    def __init__(self, message):
        super().__init__(str(message).rpartition("AudioError: ")[2].strip())


def read_audio(
    path, start=0, stop=None, sample_rate=16000, file_rate=None, speed=1.0
):
    """Reads a piece of an audio file as one channel at one sample rate.

    Only the piece is read. SpeechBrain's ``AudioNormalizer`` resamples it and
    mixes it down, as in ``load_audio`` of the pretrained interface, so that
    training and inference get the same samples. For rates at which that would
    take minutes (15,999 to 16,000 samples per second), SciPy resamples.

    Arguments
    ---------
    path : str
        The audio file, or a place in a tar shard as ``write_shards`` names
        them.
    start : int
        First sample to read, at the file's own rate.
    stop : int or None
        The sample after the last, at the file's own rate; None reads to the
        end.
    sample_rate : int
        Rate of what is returned, samples per second.
    file_rate : int or None
        Rate at which ``start`` and ``stop`` were counted; None for the rate of
        the file.
    speed : float
        Factor of the speed, positive. The pitch changes too: 0.9 makes a
        slower and deeper voice.

    Returns
    -------
    torch.Tensor
        Samples in [-1, 1], float32. [time]

    Raises
    ------
    ValueError
        If ``start`` and ``stop`` enclose no samples, or the speed is not
        positive.
    AudioError
        If the file is missing, unreadable or not a regular file, is too
        short, has another rate than ``file_rate``, an impossible rate, or
        samples that are not finite.

    Example
    -------
    >>> path = str(getfixture("tmp_path") / "stereo.wav")
    >>> soundfile.write(path, torch.rand(8000, 2).numpy(), 8000)
    >>> read_audio(path, start=0, stop=4000).shape
    torch.Size([8000])
    """
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(
            f"`start` and `stop` must enclose samples, got {start} to {stop} "
            f"of {path}; pass `stop` as the sample after the last."
        )
    if not speed > 0:
        raise ValueError(f"`speed` must be positive, got {speed}.")
    audio, rate = _load(path, start, -1 if stop is None else stop - start)
    if len(audio) < (1 if stop is None else stop - start):
        raise AudioError(
            f"{path} has {len(audio)} samples from sample {start} to "
            f"{'its end' if stop is None else stop}, fewer than its manifest "
            f"says; {REMEDY}."
        )
    if file_rate is not None and rate != file_rate:
        raise AudioError(
            f"{path} has {rate} samples per second, but `file_rate` says "
            f"{file_rate}: the file has changed, or the duration in its "
            f"manifest is not (stop - start) / {rate}; {AGAIN}."
        )
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"{path} must have {RATES[0]} to {RATES[1]} samples per second, "
            f"got {rate}; {REMEDY}."
        )
    # the sum is a faster test; if it overflows, the samples decide
    with np.errstate(over="ignore", invalid="ignore"):
        total = audio.sum()
    if not np.isfinite(total) and not np.isfinite(audio).all():
        raise AudioError(
            f"{path} has samples that are not finite (NaN or infinite) from "
            f"sample {start} on; write the file again, or remove it."
        )
    audio = torch.from_numpy(audio)
    if rate == sample_rate and audio.shape[1] == 1:
        signal = audio[:, 0]
    elif sample_rate // math.gcd(rate, sample_rate) > MOST_PHASES:
        signal = _resampled(audio.mean(dim=1), Fraction(rate, sample_rate))
    else:
        signal = _normalizer(sample_rate)(audio, rate)
    if speed == 1:
        return signal
    return _resampled(signal, Fraction(speed).limit_denominator(1000))


def file_header(path):
    """Length, sample rate and channels of one audio file.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    tuple of int
        Samples per channel, samples per second, channels.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    AudioError
        If it cannot be used.

    Example
    -------
    >>> file_header("no.wav")
    Traceback (most recent call last):
    FileNotFoundError: no.wav does not exist; check its path.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; check its path.")
    try:
        return read_header(path)
    except ValueError as error:
        raise AudioError(
            f"{path} cannot be used: {str(error).removesuffix('.')}; give a "
            "file of speech."
        ) from error


@contextlib.contextmanager
def explain_reading():
    """Replaces the advice on prepared corpora in the errors of a reader.

    Yields
    ------
    None

    Raises
    ------
    AudioError
        If the block raises one.

    Example
    -------
    >>> with explain_reading():
    ...     raise AudioError(f"Cannot read a.wav; {REMEDY}.")
    Traceback (most recent call last):
    speechbrain_ext.dataio.audio.AudioError: Cannot read a.wav; give another...
    """
    try:
        yield
    except AudioError as error:
        words = str(error).replace(REMEDY, "give another file")
        raise AudioError(words) from error


def _load(path, start, frames):
    """Samples as they are in the file, [time, channels], and its rate."""
    try:
        with open_member(str(path)) as source:
            if isinstance(source, str):
                require_regular(source)
            # not SpeechBrain's `audio_io`, which looks for its lazy import in
            # the source of its caller, at each call
            with soundfile.SoundFile(source) as sound:
                start = min(start, sound.frames)
                if sound.seekable():
                    sound.seek(start)
                elif start:  # such as GSM and G.721, which telephones use
                    sound.read(start, dtype="int16")
                if frames < 0:
                    frames = sound.frames - start
                return _samples(sound, frames), sound.samplerate
    except (RuntimeError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        reason = " ".join(str(reason).split()).removesuffix(".")
        raise AudioError(
            f"Cannot read {path} from sample {start} ({reason}); {REMEDY}."
        ) from error


def _samples(sound, frames):
    """The next samples of an open file in [-1, 1], [time, channels]."""
    if sound.subtype != "PCM_16" or sound.format == "SDS":
        return sound.read(frames, dtype="float32", always_2d=True)
    # the same numbers as by dtype="float32", in less time
    whole = sound.read(frames, dtype="int16", always_2d=True)
    return np.multiply(whole, np.float32(2**-15), dtype=np.float32)


def _resampled(signal, ratio):
    """A signal played ``ratio`` times as fast."""
    # not by torch: the last digit of its convolution depends on the number of
    # threads at these ratios, and a DataLoader's worker has only one
    found = resample_poly(signal.numpy(), ratio.denominator, ratio.numerator)
    return torch.from_numpy(found)


@cache
def _normalizer(sample_rate):
    """The one normaliser of this process; it keeps a filter for each rate.

    It holds only tensors on the CPU, so that a forked DataLoader worker can
    use its copy.
    """
    return AudioNormalizer(sample_rate)
