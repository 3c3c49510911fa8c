"""RES-SE-TDNN of Open Speaker Verification.

Reference code: 1017549629/open-speaker-verification@0d415d5
mmcls/models/backbones/RES_SE_TDNN.py and mmcls/models/utils/TDNN.py. The
published network cannot be built without a change: the backbone passes a
`bn_momentum` that its blocks do not accept.
"""

import torch

from speechbrain_ext.lobes.models.blocks import (
    Embedding,
    Encoder,
    SqueezeExcitation,
    set_norm_momentum,
)
from speechbrain_ext.nnet.lengths import mask_frames
from speechbrain_ext.nnet.normalization import norm_true_frames
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling

SLOPE = 0.01  # of every leaky ReLU


class TDNNBlock(torch.nn.Module):
    """A convolution over time, squeeze-excitation, leaky ReLU, batch norm.

    Arguments
    ---------
    in_channels : int
        Number of input channels.
    out_channels : int
        Number of output channels.
    kernel_size : int
        Kernel size in frames, odd.
    reduction : int
        Reduction of the squeeze-excitation; None for no squeeze-excitation.

    Example
    -------
    >>> TDNNBlock(80, 16, 5, reduction=8)(torch.rand(2, 80, 50)).shape
    torch.Size([2, 16, 50])
    """

    def __init__(self, in_channels, out_channels, kernel_size, reduction=None):
        super().__init__()
        self.conv = torch.nn.Conv1d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2
        )
        self.se = None
        if reduction:
            self.se = SqueezeExcitation(out_channels, reduction, SLOPE)
        self.activation = torch.nn.LeakyReLU(SLOPE)
        self.norm = torch.nn.BatchNorm1d(out_channels)

    def forward(self, x, frames=None):
        """Applies the block to a batch.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, time], zero where padded.
        frames : torch.Tensor
            Frames of each utterance, shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, channel, time], zero where padded.
        """
        y = mask_frames(self.conv(x), frames)
        if self.se is not None:
            y = self.se(y, frames)
        y = norm_true_frames(self.norm, self.activation(y), frames)
        return mask_frames(y, frames)


class ResidualTDNNBlock(torch.nn.Module):
    """A 1x1 TDNN block, a convolution and squeeze-excitation, with a residual.

    Arguments
    ---------
    channels : int
        Number of input and output channels.
    kernel_size : int
        Kernel size of the convolution in frames, odd.
    reduction : int
        Reduction of the squeeze-excitation.

    Example
    -------
    >>> ResidualTDNNBlock(16, 7)(torch.rand(2, 16, 50)).shape
    torch.Size([2, 16, 50])
    """

    def __init__(self, channels, kernel_size, reduction=8):
        super().__init__()
        self.first = TDNNBlock(channels, channels, 1)
        self.conv = torch.nn.Conv1d(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            bias=False,
        )
        self.se = SqueezeExcitation(channels, reduction, SLOPE)
        self.activation = torch.nn.LeakyReLU(SLOPE)
        self.norm = torch.nn.BatchNorm1d(channels)

    def forward(self, x, frames=None):
        """Applies the block to a batch.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, time], zero where padded.
        frames : torch.Tensor
            Frames of each utterance, shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, channel, time], zero where padded.
        """
        y = mask_frames(self.conv(self.first(x, frames)), frames)
        y = self.activation(x + self.se(y, frames))
        return mask_frames(norm_true_frames(self.norm, y, frames), frames)


class ResSETDNN(Encoder):
    """Time-delay network with residual squeeze-excitation blocks.

    Arguments
    ---------
    input_size : int
        Number of filterbanks; any number is valid.
    channels : int
        Channels of the blocks.
    block_sizes : list of int
        Number of blocks with each kernel size.
    kernel_sizes : list of int
        Kernel sizes in frames, odd.
    pooled_channels : int
        Channels before the pooling.
    lin_neurons : int
        Size of the embedding.
    reduction : int
        Reduction of the squeeze-excitation.
    pooling : callable
        Called with the number of channels; returns the pooling. A class of
        ``speechbrain_ext.nnet.pooling``, in a YAML with ``!name:``.
    activated : bool
        Whether ReLU and batch norm follow the embedding layer.
    norm_momentum : float
        Momentum of the batch norms.

    Example
    -------
    >>> model = ResSETDNN(80, 16, pooled_channels=32, lin_neurons=8)
    >>> model(torch.rand(2, 100, 80)).shape
    torch.Size([2, 1, 8])
    """

    def __init__(
        self,
        input_size=81,
        channels=512,
        block_sizes=(2, 2, 2),
        kernel_sizes=(5, 7, 1),
        pooled_channels=1500,
        lin_neurons=256,
        reduction=8,
        pooling=TemporalStatisticsPooling,
        activated=True,
        norm_momentum=0.5,
    ):
        super().__init__(input_size)
        self.blocks = torch.nn.ModuleList(
            [TDNNBlock(input_size, channels, 5, reduction)]
        )
        for kernel_size, blocks in zip(kernel_sizes, block_sizes, strict=True):
            for _ in range(blocks):
                self.blocks.append(
                    ResidualTDNNBlock(channels, kernel_size, reduction)
                )
        self.blocks.append(TDNNBlock(channels, pooled_channels, 1, reduction))
        self.pooling = pooling(pooled_channels)
        self.embedding = Embedding(
            self.pooling.widening * pooled_channels, lin_neurons, activated
        )
        # where these are linear layers, the published code has convolutions
        for module in self.blocks.modules():
            if isinstance(module, (torch.nn.Conv1d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(module.weight)
        set_norm_momentum(self, norm_momentum)

    def _pooled(self, x, frames):
        for block in self.blocks:
            x = block(x, frames)
        lengths = None if frames is None else frames / x.shape[2]
        return self.pooling(x.transpose(1, 2), lengths)
