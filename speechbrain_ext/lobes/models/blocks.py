"""Building blocks that the networks in this folder share."""

import abc

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.lengths import frame_counts, mask_frames


class Encoder(torch.nn.Module, abc.ABC):
    """Base class of networks that compute one embedding per utterance.

    A subclass implements ``_pooled(x [batch, channel, time], frames)``, which
    returns [batch, 1, size], and has a layer ``embedding``.

    Arguments
    ---------
    input_size : int
        Number of channels of the features.
    """

    def __init__(self, input_size):
        super().__init__()
        self.input_size = input_size

    def forward(self, x, lengths=None):
        """Computes the embedding of each utterance.

        Arguments
        ---------
        x : torch.Tensor
            Features of shape [batch, time, channel].
        lengths : torch.Tensor
            Relative lengths of shape [batch], or None. An utterance has the
            same embedding in a padded batch as alone.

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, 1, embedding].

        Raises
        ------
        ValueError
            If the features have another number of channels.
        """
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(
                f"`x` must have shape [batch, time, {self.input_size}] (the "
                f"network's `input_size`), got {list(x.shape)}."
            )
        frames = frame_counts(x, lengths)
        x = mask_frames(x.transpose(1, 2), frames)
        return self.embedding(self._pooled(x, frames))

    @abc.abstractmethod
    def _pooled(self, x, frames):
        """Pools frames over time; padded frames are zero."""


class SqueezeExcitation(torch.nn.Module):
    """Scales channels depending on their means over the whole utterance.

    Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018.

    Arguments
    ---------
    channels : int
        Number of input and output channels.
    reduction : int
        The hidden layer has ``channels // reduction`` units.
    negative_slope : float
        Slope of the leaky ReLU of the hidden layer; 0 for ReLU.

    Example
    -------
    >>> SqueezeExcitation(16)(torch.rand(2, 16, 20, 30)).shape
    torch.Size([2, 16, 20, 30])
    """

    def __init__(self, channels, reduction=8, negative_slope=0.0):
        super().__init__()
        fewer = max(channels // reduction, 1)
        self.fc = torch.nn.Sequential(
            torch.nn.Linear(channels, fewer),
            torch.nn.LeakyReLU(negative_slope),
            torch.nn.Linear(fewer, channels),
            torch.nn.Sigmoid(),
        )

    def forward(self, x, frames=None):
        """Scales a batch.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, time] or [batch, channel, mel, time], zero
            where padded.
        frames : torch.Tensor
            Frames of each utterance, shape [batch], or None.

        Returns
        -------
        torch.Tensor
            The scaled batch, of the same shape.
        """
        count = x.shape[-1] if frames is None else frames.unsqueeze(1)
        if x.dim() == 4:
            count = x.shape[2] * count
        mean = x.flatten(2).sum(dim=2) / count
        scale = self.fc(mean.to(x.dtype))
        return x * scale.view(*scale.shape, *[1] * (x.dim() - 2))


class Embedding(torch.nn.Linear):
    """The linear layer to the embedding, optionally with an activation.

    Arguments
    ---------
    input_size : int
        Size of the pooled vector.
    lin_neurons : int
        Size of the embedding.
    activated : bool
        Whether ReLU and batch norm follow the layer, as in Open Speaker
        Verification.

    Example
    -------
    >>> Embedding(8, 4)(torch.rand(2, 1, 8)).shape
    torch.Size([2, 1, 4])
    """

    def __init__(self, input_size, lin_neurons, activated=False):
        super().__init__(input_size, lin_neurons)
        self.norm = None
        if activated:
            self.norm = torch.nn.BatchNorm1d(lin_neurons)

    @fwd_default_precision
    def forward(self, pooled):
        """Computes the embeddings.

        Arguments
        ---------
        pooled : torch.Tensor
            Shape [batch, 1, size].

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        """
        embeddings = super().forward(pooled)
        if self.norm is None:
            return embeddings
        return self.norm(embeddings.relu().squeeze(1)).unsqueeze(1)


def shortcut(in_channels, out_channels, stride):
    """The shortcut of a residual block: the identity or a 1x1 convolution.

    Arguments
    ---------
    in_channels : int
        Number of input channels.
    out_channels : int
        Number of output channels.
    stride : tuple of int
        Stride of the block, in frequency and in time.

    Returns
    -------
    torch.nn.Sequential
        Empty if the block does not change the shape.
    """
    if stride == (1, 1) and in_channels == out_channels:
        return torch.nn.Sequential()
    return torch.nn.Sequential(
        torch.nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        torch.nn.BatchNorm2d(out_channels),
    )


def residual_stages(block, width, channels, block_sizes, strides, bins):
    """Builds stages of residual blocks; the first block of each has a stride.

    Arguments
    ---------
    block : callable
        Called with (input channels, channels, stride); returns a block with
        ``expansion * channels`` output channels.
    width : int
        Number of input channels.
    channels : int
        Channels of the first stage; each further stage has twice as many.
    block_sizes : list of int
        Number of blocks in each stage.
    strides : list
        Stride of each stage: a number, or one for frequency and one for time.
    bins : int
        Number of input frequencies.

    Returns
    -------
    stages : torch.nn.ModuleList
        A ModuleList of blocks for each stage.
    shapes : list of tuple
        Output channels and frequencies of each stage.

    Raises
    ------
    ValueError
        If the number of strides is not the number of stages.
    """
    if len(strides) != len(block_sizes):
        raise ValueError(
            f"`strides` must have one value for each of the "
            f"{len(block_sizes)} stages, got {list(strides)}."
        )
    stages, shapes = torch.nn.ModuleList(), []
    for blocks, stride in zip(block_sizes, strides, strict=True):
        stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
        bins = -(-bins // stride[0])
        layers = torch.nn.ModuleList()
        for index in range(blocks):
            layers.append(
                block(width, channels, stride if index == 0 else (1, 1))
            )
            width = layers[-1].expansion * channels
        channels *= 2
        stages.append(layers)
        shapes.append((width, bins))
    return stages, shapes


def pool_maps(pooling, x, frames):
    """Pools maps over time.

    Arguments
    ---------
    pooling : torch.nn.Module
        A pooling with ``channel * mel`` input channels.
    x : torch.Tensor
        Shape [batch, channel, mel, time].
    frames : torch.Tensor
        Frames of each utterance, shape [batch], or None.

    Returns
    -------
    torch.Tensor
        Output of the pooling for [batch, time, channel * mel].
    """
    x = x.flatten(1, 2).transpose(1, 2)
    return pooling(x, None if frames is None else frames / x.shape[1])


def set_norm_momentum(model, momentum):
    """Sets the momentum m of all batch norms: running += m * (new - running).

    Arguments
    ---------
    model : torch.nn.Module
        The model.
    momentum : float
        m in (0, 1]; PyTorch's default is 0.1.

    Raises
    ------
    ValueError
        If the momentum is outside its range.
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"`norm_momentum` must be in (0, 1], got {momentum}.")
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
