"""Which frames of a padded batch are an utterance's own.

SpeechBrain hands relative lengths (a share of the longest utterance's
samples) to every module. A front end that snips edges has
1 + (samples - window) // shift frames, which a share of the frames cannot
tell exactly: half of 198 frames is 99, half of the samples makes 98. A front
end of this package therefore notes on its output how it framed it, and
``frame_counts`` uses the note where there is one.
"""

import torch


def note_framing(features, samples, window, shift):
    """Notes on a batch of features how many samples it was framed from.

    Arguments
    ---------
    features : torch.Tensor
        Features of shape [batch, time, channel].
    samples : int
        Samples of the longest utterance.
    window : int
        Samples of a frame.
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
    """Hands a note of the framing on to features made from others.

    Arguments
    ---------
    features : torch.Tensor
        Features of shape [batch, time, channel].
    source : torch.Tensor
        The features that they were made from, frame by frame.

    Returns
    -------
    torch.Tensor
        ``features`` itself.
    """
    if hasattr(source, "framing"):
        features.framing = source.framing
    return features


def frame_counts(features, lengths):
    """The number of frames that each utterance of a padded batch has.

    Arguments
    ---------
    features : torch.Tensor
        Features of shape [batch, time, channel].
    lengths : torch.Tensor
        Relative lengths of shape [batch], in (0, 1]: shares of the longest
        utterance's samples where the features carry a note of their framing,
        of its frames elsewhere. None where nothing is padded.

    Returns
    -------
    torch.Tensor
        Frames of shape [batch], int64, at least 1; None for None.

    Raises
    ------
    ValueError
        If there are not as many lengths as utterances.

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
    total = features.shape[1]
    lengths = lengths.double()  # float32 miscounts samples from minutes on
    if hasattr(features, "framing"):
        samples, window, shift = features.framing
        frames = 1 + ((lengths * samples).round().long() - window) // shift
    else:
        frames = (lengths * total).round().long()
    return frames.clamp(1, total)


def mask_frames(values, frames, fill=0.0):
    """Sets all that lies beyond an utterance's last frame to zero.

    Arguments
    ---------
    values : torch.Tensor
        Shape [batch, ..., time].
    frames : torch.Tensor
        Frames of each utterance, shape [batch], or None.
    fill : float
        What stands there instead of zero.

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
    beyond = torch.arange(
        values.shape[-1], device=values.device
    ) >= frames.unsqueeze(1)
    shape = [values.shape[0]] + [1] * (values.dim() - 2) + [values.shape[-1]]
    return values.masked_fill(beyond.view(shape), fill)


def strided_frames(frames, stride):
    """Frames that are left after a convolution that keeps its edges.

    Arguments
    ---------
    frames : torch.Tensor
        Frames of shape [batch], or None.
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
