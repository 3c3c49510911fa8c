"""Embeddings of long files in bounded memory, block by block.

A block is 24 s long and is read with 8 s of context before it and 4 s after
it. The context covers what the resampling filter, the frames and the
convolutions see beyond the block. The normalisation over the whole file takes
a pass of its own. The pooling over time is accumulated from block to block.
"""

import contextlib
import ctypes
import math
import os
import sys

import torch

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.inference.speech import (
    LEAST_SECONDS,
    NoSpeechError,
    SpeechFeatures,
    no_speech_reasons,
    seconds_of_sound,
)
from speechbrain_ext.lobes.features import SentenceMeanNorm, SentenceMeanVarNorm
from speechbrain_ext.lobes.models.blocks import Encoder
from speechbrain_ext.nnet import pooling

# Seconds. 8 s are 800 frames, a multiple of every network's stride in time, so
# the frames of all blocks are on one grid. The widest network sees 3.3 s to
# either side.
BLOCK, BEFORE, AFTER = 24, 8, 4

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


@contextlib.contextmanager
def _little_memory():
    """Large tensors go back to the system as soon as they are freed.

    glibc keeps freed tensors of up to 32 MB in its heap, in pieces that the
    next tensor cannot always use, and its heap grows with the length of the
    file. A lower limit takes more time: the memory of each new tensor comes
    from the system. Afterwards the limit is 32 MB, to which glibc raises it by
    itself.
    """
    if _libc("mallopt") is None or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        yield
        return
    _libc("mallopt")(M_MMAP_THRESHOLD, 8 << 20)
    try:
        yield
    finally:
        _libc("mallopt")(M_MMAP_THRESHOLD, 32 << 20)


class RunningPooling:
    """Accumulates the pooling of one utterance from blocks of its frames.

    Sums are float64, so the result does not depend on the blocks beyond the
    rounding of float32.

    Arguments
    ---------
    module : speechbrain_ext.nnet.pooling.Pooling
        The pooling whose result is accumulated.

    Raises
    ------
    ValueError
        If this kind of pooling needs all frames at once.

    Example
    -------
    >>> module = pooling.TemporalStatisticsPooling()
    >>> running, frames = RunningPooling(module), torch.randn(1, 50, 8)
    >>> _ = running.add(frames[:, :20])
    >>> found = running.add(frames[:, 20:])
    >>> torch.testing.assert_close(found, module(frames))
    """

    def __init__(self, module):
        if not is_running(module):
            raise ValueError(
                f"{type(module).__name__} needs all frames at once; encode the "
                "whole file, or pieces of it."
            )
        self.module = module
        self.peak = self.total = self.mean = self.squares = None

    def add(self, x):
        """Adds frames.

        Arguments
        ---------
        x : torch.Tensor
            Frames of shape [1, time, channel]; there may be none.

        Returns
        -------
        torch.Tensor
            The pooling of all frames so far, [1, 1, widening * channel].
        """
        if x.shape[1]:
            logits = _logits(self.module, x.transpose(1, 2)).double()
            self._add(x[0].T.double(), logits[0])
        return self._result().to(x.dtype).view(1, 1, -1)

    def _add(self, x, logits):
        """Adds frames [channel, time] with weights exp(logits)."""
        peak = logits.amax(dim=1, keepdim=True)
        if isinstance(self.module, pooling.MaxPooling):
            peak = x.amax(dim=1, keepdim=True)
            self.peak = peak if self.peak is None else peak.max(self.peak)
            return
        weights = (logits - peak).exp()
        total = weights.sum(dim=1, keepdim=True)
        mean = (weights * x).sum(dim=1, keepdim=True) / total
        squares = (weights * (x - mean).square()).sum(dim=1, keepdim=True)
        if self.peak is not None:  # Chan, Golub, LeVeque 1979
            highest = peak.max(self.peak)
            old, new = (self.peak - highest).exp(), (peak - highest).exp()
            before, here = old * self.total, new * total
            step, peak, total = mean - self.mean, highest, before + here
            squares = old * self.squares + new * squares
            squares = squares + step.square() * before * here / total
            mean = self.mean + step * here / total
        self.peak, self.total = peak, total
        self.mean, self.squares = mean, squares

    def _result(self):
        """The pooling of all frames so far, [channels, 1]."""
        module = self.module
        if isinstance(module, pooling.MaxPooling):
            return self.peak
        if isinstance(module, pooling.TemporalStatisticsPooling):
            count = (self.total - int(module.unbiased)).clamp(min=1)
            deviation = (self.squares / count + module.epsilon).sqrt()
        elif isinstance(module, pooling.AttentiveStatisticsPooling):
            variance = self.squares / self.total
            deviation = variance.clamp(min=module.smallest_variance).sqrt()
        else:
            return self.mean
        return torch.cat([self.mean, deviation])


def is_running(module):
    """Whether a pooling can be accumulated from block to block.

    Arguments
    ---------
    module : torch.nn.Module
        The pooling.

    Returns
    -------
    bool
        False if the weights depend on statistics of the whole utterance.

    Example
    -------
    >>> is_running(pooling.TemporalAveragePooling())
    True
    """
    return type(module) in (
        pooling.TemporalAveragePooling,
        pooling.TemporalStatisticsPooling,
        pooling.MaxPooling,
        pooling.SelfAttentivePooling,
        pooling.MultiHeadAttentivePooling,
        pooling.AttentiveStatisticsPooling,
        pooling.ChannelAttentiveStatisticsPooling,
    ) and not getattr(module, "global_context", False)


def can_stream(modules):
    """Whether the embedding of a long file can be accumulated over blocks.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        The encoder's ``compute_features``, ``mean_var_norm`` and
        ``embedding_model``.

    Returns
    -------
    bool
        True for this package's front ends, sentence normalisations and
        encoders, if the pooling does not need the whole file and a second has
        a whole number of frames.

    Example
    -------
    >>> can_stream(
    ...     {
    ...         name: torch.nn.Identity()
    ...         for name in (
    ...             "compute_features",
    ...             "mean_var_norm",
    ...             "embedding_model",
    ...         )
    ...     }
    ... )
    False
    """
    features, norm = modules["compute_features"], modules["mean_var_norm"]
    model = modules["embedding_model"]
    return (
        isinstance(features, SpeechFeatures)
        and features.sample_rate % getattr(features.front_end, "shift", 1) == 0
        and type(norm) in (SentenceMeanNorm, SentenceMeanVarNorm)
        and isinstance(model, Encoder)
        and all(map(is_running, _poolings(model)))
    )


@_little_memory()
def stream_embedding(modules, path, frames, file_rate, rate, device="cpu"):
    """The embedding of a long file, accumulated over blocks.

    Arguments
    ---------
    modules : dict of torch.nn.Module
        As in ``can_stream``, which must be true of them; in evaluation mode.
    path : str
        The audio file, longer than two blocks.
    frames : int
        Its number of samples per channel.
    file_rate : int
        Its sample rate, Hz.
    rate : int
        The sample rate of the encoder, Hz.
    device : str
        The device of the modules.

    Returns
    -------
    torch.Tensor
        Shape [1, 1, embedding].

    Raises
    ------
    AudioError
        If the file cannot be read, or has samples that are not finite.
    NoSpeechError
        If the file has no speech.
    """
    front_end = modules["compute_features"].front_end

    def blocks():
        """Features with context, and the range of them in the block."""
        for start, stop, first, last in block_ranges(frames, file_rate):
            _return_free_memory()
            signal = read_audio(
                path, start, stop, sample_rate=rate, file_rate=file_rate
            )
            features = front_end(signal[None].to(device))
            per_second = _frames_per_second(features, rate)
            yield signal, features, first * per_second, last * per_second

    shift, scale = _normalisation(
        modules["mean_var_norm"], blocks(), path, rate
    )
    model = modules["embedding_model"]
    running, kept = {}, [0, 0, 0]

    def pool(module, arguments, _):
        """Replaces the pooling of a block by that of all blocks so far."""
        x = arguments[0]  # [1, time, channel]
        if module not in running:
            # a power of 2; convolutions without padding lose some frames
            stride = 2 ** round(math.log2(kept[2] / x.shape[1]))
            running[module] = RunningPooling(module), stride
        sums, stride = running[module]
        last = None if kept[1] == math.inf else kept[1] // stride
        return sums.add(x[:, kept[0] // stride : last])

    hooks = [m.register_forward_hook(pool) for m in _poolings(model)]
    try:
        for _, features, first, last in blocks():
            kept[:] = first, last, features.shape[1]
            features = (features - shift) * scale
            embedding = model(features)  # no lengths: nothing is masked
    finally:
        for hook in hooks:
            hook.remove()
    return embedding


def block_ranges(frames, file_rate):
    """The samples to read for each block, with its context.

    Arguments
    ---------
    frames : int
        Number of samples of the file.
    file_rate : int
        Its sample rate, Hz.

    Returns
    -------
    list of tuple
        First sample to read, the sample after the last, and the seconds from
        the first sample read to the start and to the end of the block itself.
        The last block ends with the file (infinity).

    Example
    -------
    >>> block_ranges(45, 1)
    [(0, 28, 0, 24), (16, 45, 8, inf)]
    """
    ranges = []
    for start in range(0, -(-frames // file_rate), BLOCK):
        first = max(start - BEFORE, 0)
        stop = min((start + BLOCK + AFTER) * file_rate, frames)
        last = start + BLOCK - first
        if (start + BLOCK) * file_rate >= frames:
            last = math.inf
        ranges.append((first * file_rate, stop, start - first, last))
    return ranges


@_little_memory()
def piecewise_embedding(encode, path, frames, file_rate, rate):
    """The mean of the embeddings of a file's blocks.

    Each embedding is brought to length 1 and weighted by the duration of its
    block. The mean gets the mean length of the embeddings, so that it can be
    compared with those of short files. Blocks without speech are left out.
    For encoders that need all frames at once.

    Arguments
    ---------
    encode : callable
        Called with waveforms [1, time]; returns embeddings [1, 1, embedding].
    path : str
        The audio file.
    frames : int
        Its number of samples per channel.
    file_rate : int
        Its sample rate, Hz.
    rate : int
        The sample rate of the encoder, Hz.

    Returns
    -------
    torch.Tensor
        Shape [1, 1, embedding].

    Raises
    ------
    AudioError
        If the file cannot be read, or has samples that are not finite.
    NoSpeechError
        If no block has speech.
    """
    total, length, weights = 0.0, 0.0, 0.0
    step = BLOCK * file_rate
    # a short rest belongs to the last block
    starts = list(range(0, max(frames - step // 2, 1), step))
    for start, stop in zip(starts, [*starts[1:], frames], strict=True):
        _return_free_memory()
        signal = read_audio(
            path, start, stop, sample_rate=rate, file_rate=file_rate
        )[None]
        if not no_speech_reasons(signal, rate)[0]:
            found, weight = encode(signal), (stop - start) / frames
            total = total + weight * torch.nn.functional.normalize(
                found, dim=-1
            )
            length = length + weight * found.norm(dim=-1, keepdim=True)
            weights += weight
    if not torch.is_tensor(total):
        raise NoSpeechError({str(path): "no block has 0.1 s of sound"})
    return torch.nn.functional.normalize(total, dim=-1) * length / weights


def _normalisation(norm, blocks, path, rate):
    """Shift and scale of a file's features by a sentence normalisation."""
    statistics = RunningPooling(
        pooling.TemporalStatisticsPooling(epsilon=0.0, unbiased=False)
    )
    seconds = 0.0
    for signal, features, first, last in blocks:
        seconds += seconds_of_sound(signal[None], rate).item()
        last = None if last == math.inf else last
        found = statistics.add(features[:, first:last])
    if seconds < LEAST_SECONDS:
        raise NoSpeechError({str(path): f"{seconds:.3f} s of sound"})
    mean, deviation = found.chunk(2, dim=2)
    if isinstance(norm, SentenceMeanVarNorm):
        return mean, (deviation.square() + 1e-5).rsqrt()
    return mean, torch.ones_like(mean)


def _return_free_memory():
    """Gives memory that is free in the heap back to the system."""
    if _libc("malloc_trim") is not None:
        _libc("malloc_trim")(0)


def _libc(name):
    """A function of the C library, None where there is none (musl, macOS)."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)


def _frames_per_second(features, rate):
    """Frames per second of a front end, from its note."""
    shift = features.framing[2]
    if rate % shift:
        raise ValueError(
            f"The front end has {rate / shift} frames per second; a long file "
            "can only be encoded in blocks if they are a whole number."
        )
    return rate // shift


def _poolings(model):
    """The poolings over time of an encoder."""
    return [m for m in model.modules() if isinstance(m, pooling.Pooling)]


def _logits(module, x):
    """Logarithms of the weights of frames [1, channel, time]."""
    if isinstance(module, pooling.SelfAttentivePooling):
        x = x.transpose(1, 2)
        return (module.linear(x).tanh() @ module.attention).transpose(1, 2)
    if isinstance(module, pooling.MultiHeadAttentivePooling):
        heads, size = module.attention.shape
        logits = torch.einsum(
            "bhdt,hd->bht", x.unflatten(1, (heads, size)), module.attention
        )
        return (logits / math.sqrt(size)).repeat_interleave(size, dim=1)
    if isinstance(module, pooling.AttentiveStatisticsPooling):
        return module.attention(x)
    return x.new_zeros(1, 1, x.shape[2])
