"""Detection of signals without speech: silence, or less than 0.1 s."""

import torch

LEAST_SECONDS = 0.1  # eight frames of 25 ms
# A smaller difference of neighbouring samples counts as 0: -120 dB of full
# scale, below half a quantization step of 16 bits (1.5e-5), above rounding
LEAST_CHANGE = 1e-6
SHOWN = 20


class NoSpeechError(ValueError, RuntimeError):
    """Utterances have no speech, so their embeddings would be meaningless.

    All silent files have the same embedding, so two of them would count as
    the same speaker. It is a RuntimeError too: pyannote.audio catches those
    when it looks for the shortest signal that an encoder accepts.

    Arguments
    ---------
    reasons : dict
        Maps the name of each utterance to the reason.

    Example
    -------
    >>> print(NoSpeechError({"a/s/1": "digital silence"}))
    1 utterance has no speech: a/s/1 (digital silence); restore the audio, \
or remove the utterance from the lists.
    """

    def __init__(self, reasons):
        self.reasons = dict(reasons)
        shown = list(self.reasons.items())[:SHOWN]
        named = ", ".join(f"{name} ({reason})" for name, reason in shown)
        count, more = len(self.reasons), len(self.reasons) - len(shown)
        one = count == 1
        super().__init__(
            f"{count} utterance{' has' if one else 's have'} no speech: "
            f"{named}{f' and {more} more' if more else ''}; restore the "
            f"audio, or remove the utterance{'' if one else 's'} from the "
            "lists."
        )

    def __reduce__(self):
        return type(self), (self.reasons,)


def seconds_of_sound(wavs, sample_rate):
    """Durations of signals without the constant samples at both ends.

    Arguments
    ---------
    wavs : torch.Tensor
        Shape [batch, time].
    sample_rate : int
        Sample rate, Hz.

    Returns
    -------
    torch.Tensor
        Seconds from the first to the last change between neighbouring
        samples, [batch]; 0 if all samples of a signal are equal.

    Example
    -------
    >>> seconds_of_sound(torch.tensor([[0.0, 1, -1, 0, 0], [2] * 5]), 10)
    tensor([0.4000, 0.0000])
    """
    if wavs.shape[1] < 2:
        return torch.zeros(len(wavs), device=wavs.device)
    changed = (wavs.diff(dim=1).abs() > LEAST_CHANGE).to(torch.uint8)
    first = changed.argmax(dim=1)
    last = changed.shape[1] - 1 - changed.flip(1).argmax(dim=1)
    return (last - first + 2) * changed.any(dim=1) / sample_rate


def no_speech_reasons(wavs, sample_rate):
    """Gives the reasons why signals have no speech.

    Arguments
    ---------
    wavs : torch.Tensor
        Shape [batch, time]; zero padding is ignored.
    sample_rate : int
        Sample rate, Hz.

    Returns
    -------
    list of str
        One reason per signal; ``""`` for a signal with speech.

    Example
    -------
    >>> no_speech_reasons(torch.zeros(1, 16000), 16000)
    ['digital silence: all its samples are equal']
    >>> no_speech_reasons(torch.rand(1, 800), 16000)
    ['0.050 s of sound, less than 0.1 s']
    """
    reasons = [""] * len(wavs)
    sure = _clearly_sound(wavs, sample_rate)
    rows = [row for row in range(len(wavs)) if not sure[row]]
    if not rows:
        return reasons
    wavs = wavs[rows]
    finite = wavs.isfinite().all(dim=1).tolist()
    for row, seconds, fine in zip(
        rows,
        seconds_of_sound(wavs, sample_rate).tolist(),
        finite,
        strict=True,
    ):
        if not fine:
            reasons[row] = "samples that are not finite"
        elif seconds == 0:
            reasons[row] = "digital silence: all its samples are equal"
        elif seconds < LEAST_SECONDS * (1 - 1e-6):
            reasons[row] = (
                f"{seconds:.3f} s of sound, less than {LEAST_SECONDS} s"
            )
    return reasons


def _clearly_sound(wavs, sample_rate):
    """Whether a look at a few samples is enough to find sound, for each signal.

    The samples at the beginning of each sixteenth are looked at. All are
    summed up, so that a number that is not finite is found.
    """
    step = wavs.shape[1] // 16
    seen = min(step, sample_rate // 50)
    if seen < 2:
        return [False] * len(wavs)
    parts = wavs[:, : 16 * step].unflatten(1, (16, step))[:, :, :seen]
    changed = (parts.diff(dim=2).abs() > LEAST_CHANGE).any(dim=2)
    finite = wavs.sum(dim=1, keepdim=True).isfinite()
    least = LEAST_SECONDS * sample_rate + seen
    return [
        fine and True in row and _span(row) * step >= least
        for *row, fine in torch.cat([changed, finite], dim=1).tolist()
    ]


def _span(row):
    """Places from the first to the last that is True."""
    return len(row) - 1 - row[::-1].index(True) - row.index(True)


def require_speech(signal, sample_rate, name):
    """Raises if a signal has no speech.

    Arguments
    ---------
    signal : torch.Tensor
        Shape [time], or [1, time].
    sample_rate : int
        Sample rate, Hz.
    name : str
        Name of the file or utterance, for the error message.

    Raises
    ------
    NoSpeechError
        If the signal is silent, not finite, or shorter than 0.1 s without the
        silence at both ends.

    Example
    -------
    >>> require_speech(torch.rand(16000), 16000, "a.wav")
    """
    (reason,) = no_speech_reasons(signal.reshape(1, -1), sample_rate)
    if reason:
        raise NoSpeechError({name: reason})


class SpeechFeatures(torch.nn.Module):
    """A front end that raises for signals without speech.

    Exported folders use it, so that SpeechBrain's ``encode_batch`` and
    ``verify_files`` never compare silence with silence. In training mode it
    only computes the features.

    Arguments
    ---------
    front_end : torch.nn.Module
        Computes features [batch, time, channel] from waveforms [batch, time].
    sample_rate : int
        Sample rate, Hz.

    Example
    -------
    >>> features = SpeechFeatures(torch.nn.Identity(), 16000).eval()
    >>> features(torch.rand(2, 16000)).shape
    torch.Size([2, 16000])
    >>> features(torch.zeros(1, 16000))
    Traceback (most recent call last):
    speechbrain_ext.inference.speech.NoSpeechError: 1 utterance has no \
speech: signal 1 of 1 (digital silence...
    """

    def __init__(self, front_end, sample_rate=16000):
        super().__init__()
        self.front_end = front_end
        self.sample_rate = sample_rate

    def forward(self, wavs):
        """Computes the features.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms of shape [batch, time], samples in [-1, 1].

        Returns
        -------
        torch.Tensor
            Features of shape [batch, time, channel].

        Raises
        ------
        NoSpeechError
            If a signal has no speech, in evaluation mode.
        """
        if not self.training and wavs.dim() == 2:
            reasons = no_speech_reasons(wavs, self.sample_rate)
            bad = {
                f"signal {number} of {len(wavs)}": reason
                for number, reason in enumerate(reasons, start=1)
                if reason
            }
            if bad:
                raise NoSpeechError(bad)
        return self.front_end(wavs)
