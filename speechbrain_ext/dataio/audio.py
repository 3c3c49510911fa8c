"""Reading speech: a piece of a file, as one channel at one rate."""

from fractions import Fraction
from functools import cache

import torch
from scipy.signal import resample_poly
from speechbrain.dataio import audio_io
from speechbrain.dataio.preprocess import AudioNormalizer

from speechbrain_ext.dataio.tar_members import opened

# Without the deletion the preparation finds nothing to do.
AGAIN = "delete prepare.json in the save folder and run the preparation again"
REMEDY = f"{AGAIN}: it lists unreadable files in rejected.csv"


def read_audio(
    path, start=0, stop=None, sample_rate=16000, file_rate=None, speed=1.0
):
    """Read a piece of an audio file as one channel at one sample rate.

    Only the piece is read. It is resampled and mixed down by SpeechBrain's
    ``AudioNormalizer``, as the pretrained interface does in ``load_audio``, so
    that training and use hear the same samples.

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
        Rate at which ``start`` and ``stop`` were counted. None takes whatever
        the file has.
    speed : float
        How many times as fast the speech is to be, pitch and all, positive:
        0.9 makes a slower and deeper voice, without SoX.

    Returns
    -------
    torch.Tensor
        Samples in [-1, 1], float32. [time]

    Raises
    ------
    ValueError
        If ``start`` and ``stop`` enclose no samples, the speed is not
        positive, if the file has fewer
        samples than that, or if its rate is not ``file_rate``.
    RuntimeError
        If the file cannot be read.

    Example
    -------
    >>> path = str(getfixture("tmp_path") / "stereo.wav")
    >>> audio_io.save(path, torch.rand(2, 8000), 8000)
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
    wanted = -1 if stop is None else stop - start
    try:
        with opened(str(path)) as source:
            # [time, channels]
            audio, rate = audio_io.load(
                source,
                channels_first=False,
                dtype=torch.float32,
                frame_offset=start,
                num_frames=wanted,
            )
    except (RuntimeError, OSError) as error:
        raise RuntimeError(
            f"Cannot read {path} from sample {start} "
            f"({error.__cause__ or error}); {REMEDY}."
        ) from error
    if len(audio) < max(wanted, 1):
        raise ValueError(
            f"{path} has {len(audio)} samples from sample {start} to "
            f"{'its end' if stop is None else stop}, fewer than its manifest "
            f"says; {REMEDY}."
        )
    if file_rate is not None and rate != file_rate:
        raise ValueError(
            f"{path} has {rate} samples per second, but `file_rate` says "
            f"{file_rate}: the file has changed; {AGAIN}."
        )
    if rate == sample_rate and audio.shape[1] == 1:
        signal = audio[:, 0]
    else:
        signal = _normalizer(sample_rate)(audio, rate)
    return signal if speed == 1 else _at_speed(signal, speed)


def _at_speed(signal, speed):
    """A signal as many times as fast, by samples at other places."""
    # not torch's convolution: at these ratios its last digit depends on the
    # number of threads, and a DataLoader's worker has one
    ratio = Fraction(speed).limit_denominator(1000)
    found = resample_poly(signal.numpy(), ratio.denominator, ratio.numerator)
    return torch.from_numpy(found)


@cache
def _normalizer(sample_rate):
    """The one normaliser of this process; it keeps a filter for each rate.

    It holds nothing but tensors on the CPU, so a forked DataLoader worker
    goes on with its copy.
    """
    return AudioNormalizer(sample_rate)
