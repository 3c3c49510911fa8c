"""Pooling of frames into one vector, exact for padded batches."""

import abc
import math

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.lengths import frame_counts, mask_frames
from speechbrain_ext.nnet.normalization import norm_true_frames


class Pooling(torch.nn.Module, abc.ABC):
    """The base class of poolings over time.

    A subclass takes the number of input channels. It implements ``_pool(x
    [batch, channel, time], frames)``, where padded frames are zero, and returns
    [batch, widening * channel]. ``widening`` is the number of outputs per
    channel.
    """

    widening = 1

    @fwd_default_precision
    def forward(self, x, lengths=None):
        """Pools over time.

        Arguments
        ---------
        x : torch.Tensor
            Frames of shape [batch, time, channel].
        lengths : torch.Tensor
            Relative lengths of shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, 1, widening * channel]; means come before
            deviations.
        """
        frames = frame_counts(x, lengths)
        x = mask_frames(x.transpose(1, 2), frames)
        return self._pool(x, frames).unsqueeze(1)

    @abc.abstractmethod
    def _pool(self, x, frames):
        """Pools frames; padded frames are zero."""


class TemporalStatisticsPooling(Pooling):
    """Mean and standard deviation over time (TSTP).

    The deviation is sqrt(variance + epsilon) with the unbiased variance, as
    in wespeaker@dfa7419 wespeaker/models/pooling_layers.py, TSTP. Unlike
    SpeechBrain's StatisticsPooling it adds no noise, and the variance of a
    single frame is 0 and not NaN.

    Arguments
    ---------
    input_size : int
        Number of channels. Not used; every pooling has this argument.
    epsilon : float
        Added to the variance: 1e-7 in WeSpeaker, 1e-10 in Golden Gemini's
        code, 1e-8 in Open Speaker Verification's.
    unbiased : bool
        Whether to divide the variance by the number of frames minus one, as
        in WeSpeaker. Open Speaker Verification divides by their number.

    Example
    -------
    >>> pooling = TemporalStatisticsPooling(input_size=1)
    >>> pooling(torch.tensor([[[1.0], [3.0]]])).squeeze()
    tensor([2.0000, 1.4142])
    """

    widening = 2

    def __init__(self, input_size=None, epsilon=1e-7, unbiased=True):
        super().__init__()
        self.epsilon = epsilon
        self.unbiased = unbiased

    def _pool(self, x, frames):
        mean, variance = _statistics(x, frames, self.unbiased)
        return torch.cat([mean, (variance + self.epsilon).sqrt()], dim=1)


class TemporalAveragePooling(Pooling):
    """Mean over time (TAP).

    Arguments
    ---------
    input_size : int
        Number of channels. Not used; every pooling has this argument.

    Example
    -------
    >>> TemporalAveragePooling()(torch.tensor([[[1.0], [3.0]]])).squeeze()
    tensor(2.)
    """

    def __init__(self, input_size=None):
        super().__init__()

    def _pool(self, x, frames):
        return _statistics(x, frames)[0]


class MaxPooling(Pooling):
    """Maximum over time (MAX).

    Arguments
    ---------
    input_size : int
        Number of channels. Not used; every pooling has this argument.

    Example
    -------
    >>> MaxPooling()(torch.tensor([[[1.0], [3.0]]])).squeeze()
    tensor(3.)
    """

    def __init__(self, input_size=None):
        super().__init__()

    def _pool(self, x, frames):
        return mask_frames(x, frames, -math.inf).amax(dim=2)


class SelfAttentivePooling(Pooling):
    """Weighted mean over time, with one attention vector (SAP).

    Cai, Chen, Li, "Exploring the Encoding Layer and Loss Function in
    End-to-End Speaker and Language Recognition System", Odyssey 2018. The
    weights are the softmax over time of u . tanh(W x + b). Reference code:
    clovaai/voxceleb_trainer@f51bab8 models/ResNetSE34L.py.

    Arguments
    ---------
    input_size : int
        Channels.

    Example
    -------
    >>> SelfAttentivePooling(8)(torch.rand(2, 50, 8)).shape
    torch.Size([2, 1, 8])
    """

    def __init__(self, input_size):
        super().__init__()
        self.linear = torch.nn.Linear(input_size, input_size)
        self.attention = torch.nn.Parameter(torch.empty(input_size, 1))
        torch.nn.init.xavier_normal_(self.attention)

    def _pool(self, x, frames):
        x = x.transpose(1, 2)
        logits = self.linear(x).tanh() @ self.attention  # [batch, time, 1]
        weights = _masked_softmax(logits.transpose(1, 2), frames)
        return (weights @ x).squeeze(1)


class AttentiveStatisticsPooling(Pooling):
    """Weighted mean and deviation over time, per channel (ASP).

    Okabe, Koshinaka, Shinoda, Interspeech 2018, with weights for each
    channel: the softmax over time of two layers with ReLU and batch norm
    between them. Reference code: clovaai/voxceleb_trainer@f51bab8
    models/ResNetSE34V2.py.

    Arguments
    ---------
    input_size : int
        Number of channels.
    attention_channels : int
        Number of channels between the two layers.

    Example
    -------
    >>> AttentiveStatisticsPooling(8)(torch.rand(2, 50, 8)).shape
    torch.Size([2, 1, 16])
    """

    widening = 2
    smallest_variance = 1e-5

    def __init__(self, input_size, attention_channels=128):
        super().__init__()
        self.attention = torch.nn.Sequential(
            torch.nn.Conv1d(input_size, attention_channels, 1),
            torch.nn.ReLU(),
            torch.nn.BatchNorm1d(attention_channels),
            torch.nn.Conv1d(attention_channels, input_size, 1),
        )

    def _pool(self, x, frames):
        weights = _masked_softmax(self._logits(x, frames), frames)
        mean = (weights * x).sum(dim=2, keepdim=True)
        # sum(w x^2) - mean^2 would cancel
        variance = (weights * (x - mean).square()).sum(dim=2)
        deviation = variance.clamp(min=self.smallest_variance).sqrt()
        return torch.cat([mean.squeeze(2), deviation], dim=1)

    def _logits(self, x, frames):
        return norm_true_frames(self.attention, x, frames)


class ChannelAttentiveStatisticsPooling(AttentiveStatisticsPooling):
    """Channel- and context-dependent attentive statistics (ASTP).

    Desplanques, Thienpondt, Demuynck, "ECAPA-TDNN", Interspeech 2020. Like
    ``AttentiveStatisticsPooling``, but with tanh between the layers. With
    ``global_context`` the layers also get the mean and the deviation of the
    utterance beside each frame. Reference code:
    wespeaker@dfa7419 wespeaker/models/pooling_layers.py, ASTP.

    Arguments
    ---------
    input_size : int
        Number of channels.
    attention_channels : int
        Number of channels between the two layers.
    global_context : bool
        Whether the layers get mean and deviation of the utterance.

    Example
    -------
    >>> pooling = ChannelAttentiveStatisticsPooling(8, global_context=True)
    >>> pooling(torch.rand(2, 50, 8)).shape
    torch.Size([2, 1, 16])
    """

    smallest_variance = 1e-7

    def __init__(
        self, input_size, attention_channels=128, global_context=False
    ):
        super().__init__(input_size, attention_channels)
        self.global_context = global_context
        seen = 3 * input_size if global_context else input_size
        self.attention = torch.nn.Sequential(
            torch.nn.Conv1d(seen, attention_channels, 1),
            torch.nn.Tanh(),
            torch.nn.Conv1d(attention_channels, input_size, 1),
        )

    def _logits(self, x, frames):
        if self.global_context:
            mean, variance = _statistics(x, frames)
            deviation = (variance + 1e-7).sqrt()
            context = torch.cat([mean, deviation], dim=1).unsqueeze(2)
            x = torch.cat([x, context.expand(-1, -1, x.shape[2])], dim=1)
        return self.attention(x)


class MultiHeadAttentivePooling(Pooling):
    """Weighted mean over time, with weights for each head of channels.

    India, Safari, Hernando, "Self Multi-Head Attention for Speaker
    Recognition", Interspeech 2019: the channels are split into heads of d,
    and the weights of a head are the softmax over time of x . u / sqrt(d).

    Arguments
    ---------
    input_size : int
        Number of channels, a multiple of ``heads``.
    heads : int
        Number of heads.

    Raises
    ------
    ValueError
        If ``input_size`` is not a multiple of ``heads``.

    Example
    -------
    >>> MultiHeadAttentivePooling(8, heads=2)(torch.rand(2, 50, 8)).shape
    torch.Size([2, 1, 8])
    """

    def __init__(self, input_size, heads=4):
        super().__init__()
        if heads < 1 or input_size % heads:
            raise ValueError(
                f"`heads` must divide the {input_size} channels, got {heads}."
            )
        size = input_size // heads
        self.attention = torch.nn.Parameter(torch.empty(heads, size))
        torch.nn.init.xavier_normal_(self.attention)

    def _pool(self, x, frames):
        heads = x.unflatten(1, self.attention.shape)  # [batch, head, d, time]
        logits = torch.einsum("bhdt,hd->bht", heads, self.attention)
        logits = logits / math.sqrt(self.attention.shape[1])
        weights = _masked_softmax(logits, frames)
        pooled = torch.einsum("bhdt,bht->bhd", heads, weights)
        return pooled.flatten(1)


def _statistics(x, frames, unbiased=True):
    """Mean and variance of [batch, channel, time], each [batch, channel]."""
    if frames is None:
        # torch.tensor would make a GPU wait for the copy
        count = torch.full((), x.shape[2], dtype=torch.int64, device=x.device)
    else:
        count = frames[:, None]  # [batch, 1]
    mean = x.sum(dim=2) / count
    deviations = mask_frames(x - mean.unsqueeze(2), frames, 0.0, True)
    squared = deviations.square().sum(dim=2)
    return mean, squared / (count - int(unbiased)).clamp(min=1)


def _masked_softmax(logits, frames):
    """Softmax over time, the last axis; padding has a weight of zero."""
    return mask_frames(logits, frames, -math.inf).softmax(dim=-1)
