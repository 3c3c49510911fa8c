"""The number of frames that each utterance of a padded batch has.

SpeechBrain passes relative lengths to every module: shares of the samples of
the longest utterance. A front end without padding at the edges makes
1 + (samples - window) // shift frames. A share of the frames is not exact
then: half of 198 frames is 99, but half of the samples makes 98 frames. The
front ends of this package therefore attach the framing to their output, and
``frame_counts`` uses it if it is there.
"""

import itertools

import torch

ROUNDING = 1e-3  # of a length of 1, as float16 has it


def note_framing(features, samples, window, shift):
    """Attaches to features the framing that they were made with.

    Arguments
    ---------
    features : torch.Tensor
        Features of shape [batch, time, channel].
    samples : int
        Samples of the longest utterance.
    window : int
        Samples per frame.
    shift : int
        Samples from one frame to the next.

    Returns
    -------
    torch.Tensor
        ``features`` itself.
    """
    features.framing = (samples, window, shift)
    return features


def keep_framing(features, source):
    """Copies the framing of features to those that were made from them.

    Arguments
    ---------
    features : torch.Tensor
        Features of shape [batch, time, channel].
    source : torch.Tensor
        The features that ``features`` was made from, frame by frame.

    Returns
    -------
    torch.Tensor
        ``features`` itself.
    """
    if hasattr(source, "framing"):
        features.framing = source.framing
    return features


def frame_counts(features, lengths):
    """Computes the number of frames of each utterance of a padded batch.

    Arguments
    ---------
    features : torch.Tensor
        Features of shape [batch, time, channel].
    lengths : torch.Tensor
        Relative lengths of shape [batch], in (0, 1]: shares of the samples
        of the longest utterance if the features have their framing, else
        shares of its frames. None if nothing is padded.

    Returns
    -------
    torch.Tensor
        Numbers of frames of shape [batch], int64, at least 1. None if
        ``lengths`` is None.

    Raises
    ------
    ValueError
        If the numbers of lengths and utterances differ, or, on a CPU and
        outside of torch.compile and torch.export, a length is not in (0, 1].

    Example
    -------
    >>> frame_counts(torch.zeros(2, 198, 80), torch.tensor([1.0, 0.5]))
    tensor([198,  99])
    >>> framed = note_framing(torch.zeros(2, 198, 80), 32000, 400, 160)
    >>> frame_counts(framed, torch.tensor([1.0, 0.5]))
    tensor([198,  98])
    """
    if lengths is None:
        return None
    if lengths.shape != features.shape[:1]:
        raise ValueError(
            "`lengths` must be one number an utterance, "
            f"{features.shape[0]}, got shape {list(lengths.shape)}."
        )
    # reading values would make a GPU wait, and fix them in a trace
    if lengths.device.type == "cpu" and not is_traced():
        inside = (lengths > 0) & (lengths <= 1 + ROUNDING)
        if not inside.all():
            raise ValueError(
                "`lengths` must be above 0 and at most 1, got "
                f"{lengths[~inside][0].item():g}; divide the utterances' "
                "numbers of samples by the largest."
            )
    total = features.shape[1]
    lengths = lengths.double()  # float32 is too coarse for minutes of audio
    if hasattr(features, "framing"):
        samples, window, shift = features.framing
        frames = 1 + ((lengths * samples).round().long() - window) // shift
    else:
        frames = (lengths * total).round().long()
    return frames.clamp(1, total)


def mask_frames(values, frames, fill=0.0, overwrite=False):
    """Sets everything after the last frame of an utterance to zero.

    Arguments
    ---------
    values : torch.Tensor
        Shape [batch, ..., time].
    frames : torch.Tensor
        Number of frames of each utterance, shape [batch], or None.
    fill : float
        The value to set instead of zero.
    overwrite : bool
        Whether ``values`` may be changed, because nothing else needs them.
        This is faster for inference on a processor.

    Returns
    -------
    torch.Tensor
        Shape [batch, ..., time].

    Example
    -------
    >>> mask_frames(torch.ones(2, 3), torch.tensor([3, 1]))
    tensor([[1., 1., 1.],
            [1., 0., 0.]])
    """
    if frames is None:
        return values
    if (
        overwrite
        and not torch.is_grad_enabled()
        and values.device.type == "cpu"
        and not is_traced()
    ):
        first, longest = 0, values.shape[-1]
        # neighbours of the same length together: each call takes time
        for count, same in itertools.groupby(frames.tolist()):
            last = first + len(list(same))
            if count < longest:
                values[first:last, ..., count:] = fill
            first = last
        return values
    beyond = torch.arange(
        values.shape[-1], device=values.device
    ) >= frames.unsqueeze(1)
    shape = [values.shape[0]] + [1] * (values.dim() - 2) + [values.shape[-1]]
    return values.masked_fill(beyond.view(shape), fill)


def is_traced():
    """Whether the operations of this call are recorded for other inputs.

    Numbers that are read from a tensor would then be constants.

    Returns
    -------
    bool
        True within torch.compile, torch.export and torch.jit.trace.

    Example
    -------
    >>> is_traced()
    False
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def strided_frames(frames, stride):
    """Computes the frames that are left after a padded convolution.

    Arguments
    ---------
    frames : torch.Tensor
        Numbers of frames of shape [batch], or None.
    stride : int
        Stride in time.

    Returns
    -------
    torch.Tensor
        ceil(frames / stride), or None.
    """
    if frames is None or stride == 1:
        return frames
    return (frames + stride - 1) // stride
