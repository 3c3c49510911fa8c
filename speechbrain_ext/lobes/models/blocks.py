"""What the networks share, a family a file beside this one."""

import torch
from speechbrain.utils.autocast import fwd_default_precision


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


def check_features(x, input_size):
    """Raises where a network gets features that it was not built for.

    Arguments
    ---------
    x : torch.Tensor
        Features, to be of shape [batch, time, ``input_size``].
    input_size : int
        Channels that the network takes.
    """
    if x.dim() != 3 or x.shape[2] != input_size:
        raise ValueError(
            f"`x` must be of shape [batch, time, {input_size}] (the "
            f"network's `input_size`), got {list(x.shape)}."
        )


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
