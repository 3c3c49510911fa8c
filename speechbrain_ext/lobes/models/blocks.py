"""What the networks share, a family a file beside this one."""

import abc

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.lengths import frame_counts, mask_frames


class Encoder(torch.nn.Module, abc.ABC):
    """A network from features to one embedding an utterance.

    A network of this kind implements ``_pooled(x [batch, channel, time],
    frames)``, which gives [batch, 1, size], and has a layer ``embedding``.

    Arguments
    ---------
    input_size : int
        Channels of the features.
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
            Relative lengths of shape [batch], or None. An utterance in a
            padded batch gets the embedding that it gets alone.

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
                f"`x` must be of shape [batch, time, {self.input_size}] (the "
                f"network's `input_size`), got {list(x.shape)}."
            )
        frames = frame_counts(x, lengths)
        x = mask_frames(x.transpose(1, 2), frames)
        return self.embedding(self._pooled(x, frames))

    @abc.abstractmethod
    def _pooled(self, x, frames):
        """What was pooled of frames that are zero where padded."""


class SqueezeExcitation(torch.nn.Module):
    """Scales channels by what their mean over the whole utterance says.

    Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018.

    Arguments
    ---------
    channels : int
        Channels that come in and go out.
    reduction : int
        How many times fewer stand between the two layers.
    negative_slope : float
        Of the leaky ReLU between them; 0 for ReLU.

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
            Of the same shape.
        """
        count = x.shape[-1] if frames is None else frames.unsqueeze(1)
        if x.dim() == 4:
            count = x.shape[2] * count
        mean = x.flatten(2).sum(dim=2) / count
        scale = self.fc(mean.to(x.dtype))
        return x * scale.view(*scale.shape, *[1] * (x.dim() - 2))


class Embedding(torch.nn.Linear):
    """The linear layer to the embedding, and what may come after it.

    Arguments
    ---------
    input_size : int
        Size of what was pooled.
    lin_neurons : int
        Size of the embedding.
    activated : bool
        Whether ReLU and batch norm come after the layer, as in Open Speaker
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
    """What stands beside a block: nothing, or a 1x1 convolution that fits.

    Arguments
    ---------
    in_channels : int
        Channels that come in.
    out_channels : int
        Channels that go out.
    stride : tuple of int
        Stride of the block, in frequency and in time.

    Returns
    -------
    torch.nn.Sequential
        Empty where nothing changes.
    """
    if stride == (1, 1) and in_channels == out_channels:
        return torch.nn.Sequential()
    return torch.nn.Sequential(
        torch.nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        torch.nn.BatchNorm2d(out_channels),
    )


def residual_stages(block, width, channels, block_sizes, strides, bins):
    """Stages of residual blocks, the first block of each with its stride.

    Arguments
    ---------
    block : callable
        Makes a block of its incoming channels, its channels and its stride,
        and says by ``expansion`` how many times as many go out.
    width : int
        Channels that come in.
    channels : int
        Channels of the first stage, doubled by each further one.
    block_sizes : list of int
        Blocks of the stages.
    strides : list
        Stride of each stage: a number, or one for frequency and one for time.
    bins : int
        Frequencies that come in.

    Returns
    -------
    stages : torch.nn.ModuleList
        A ModuleList of blocks for each stage.
    shapes : list of tuple
        Channels and frequencies that go out of each stage.

    Raises
    ------
    ValueError
        If there is not a stride a stage.
    """
    if len(strides) != len(block_sizes):
        raise ValueError(
            f"`strides` must be one for each of the {len(block_sizes)} "
            f"stages, got {list(strides)}."
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
    """Pools maps of frequency and time over time.

    Arguments
    ---------
    pooling : torch.nn.Module
        Pooling of ``channel * mel`` channels.
    x : torch.Tensor
        Shape [batch, channel, mel, time].
    frames : torch.Tensor
        Frames of each utterance, shape [batch], or None.

    Returns
    -------
    torch.Tensor
        What the pooling makes of [batch, time, channel * mel].
    """
    x = x.flatten(1, 2).transpose(1, 2)
    return pooling(x, None if frames is None else frames / x.shape[1])


def set_norm_momentum(model, momentum):
    """Sets how fast batch norms forget: running = running + m (new - running).

    Arguments
    ---------
    model : torch.nn.Module
        The model, all of whose batch norms are set.
    momentum : float
        m in (0, 1]; 0.1 is PyTorch's.

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
