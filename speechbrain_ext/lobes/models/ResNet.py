"""ResNets for speaker verification as WeSpeaker builds them.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385; Zeinali et al., "BUT System Description to
VoxCeleb Speaker Recognition Challenge 2019", https://arxiv.org/abs/1910.12592.
Reference code: wespeaker@dfa7419 wespeaker/models/resnet.py. Differences from
SpeechBrain's ResNet:

- 32 channels at first and post-activation blocks without squeeze-excitation;
- statistics pooling over time, and one linear layer to the embedding;
- ``lengths`` is honoured in every convolution, not in the pooling alone.
"""

import math

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.lengths import (
    frame_counts,
    mask_frames,
    strided_frames,
)
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling


class BasicBlock(torch.nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Arguments
    ---------
    in_channels : int
        Channels that come in.
    out_channels : int
        Channels that go out.
    stride : int
        Stride of the first convolution, in frequency and in time.

    Example
    -------
    >>> block = BasicBlock(8, 16, stride=2)
    >>> block(torch.rand(2, 8, 80, 100)).shape
    torch.Size([2, 16, 40, 50])
    """

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.stride = stride
        self.conv1 = torch.nn.Conv2d(
            in_channels, out_channels, 3, stride, padding=1, bias=False
        )
        self.bn1 = torch.nn.BatchNorm2d(out_channels)
        self.conv2 = torch.nn.Conv2d(
            out_channels, out_channels, 3, padding=1, bias=False
        )
        self.bn2 = torch.nn.BatchNorm2d(out_channels)
        self.shortcut = torch.nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = torch.nn.Sequential(
                torch.nn.Conv2d(
                    in_channels, out_channels, 1, stride, bias=False
                ),
                torch.nn.BatchNorm2d(out_channels),
            )

    def forward(self, x, frames=None):
        """Passes a batch on.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, mel, time], zero beyond ``frames``.
        frames : torch.Tensor
            Frames of each utterance after the block's stride, shape [batch],
            or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, channel, mel, time], zero beyond ``frames``.
        """
        y = torch.relu(self.bn1(self.conv1(x)))
        # batch norm shifts the zeros of the padding, the next kernel sees it
        y = self.bn2(self.conv2(mask_frames(y, frames)))
        return mask_frames(torch.relu(y + self.shortcut(x)), frames)


class ResNet(torch.nn.Module):
    """ResNet with temporal statistics pooling.

    Arguments
    ---------
    input_size : int
        Number of filterbanks, any.
    block_sizes : list of int
        Blocks of the four stages: (3, 4, 6, 3) is ResNet34, (2, 2, 2, 2)
        ResNet18.
    channels : int
        Channels of the first stage, doubled by each further one.
    lin_neurons : int
        Size of the embedding.

    Raises
    ------
    ValueError
        If the features have another number of channels.

    Example
    -------
    >>> model = ResNet(input_size=80, channels=8, lin_neurons=128)
    >>> model(torch.rand(2, 200, 80)).shape
    torch.Size([2, 1, 128])
    """

    def __init__(
        self,
        input_size=80,
        block_sizes=(3, 4, 6, 3),
        channels=32,
        lin_neurons=256,
    ):
        super().__init__()
        self.input_size = input_size
        self.conv1 = torch.nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.stages = torch.nn.ModuleList()
        width = channels
        for stage, blocks in enumerate(block_sizes):
            out_channels = channels * 2**stage
            layers = torch.nn.ModuleList()
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(width, out_channels, stride))
                width = out_channels
            self.stages.append(layers)
        self.pooling = TemporalStatisticsPooling()
        # each later stage halves the filterbanks, rounding up
        bins = math.ceil(input_size / 2 ** (len(block_sizes) - 1))
        self.embedding = torch.nn.Linear(2 * width * bins, lin_neurons)

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
        """
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(
                f"`x` must be of shape [batch, time, {self.input_size}] (the "
                f"network's `input_size`), got {list(x.shape)}."
            )
        frames = frame_counts(x, lengths)
        x = mask_frames(x.transpose(1, 2), frames).unsqueeze(1)
        x = mask_frames(torch.relu(self.bn1(self.conv1(x))), frames)
        for stage in self.stages:
            for block in stage:
                frames = strided_frames(frames, block.stride)
                x = block(x, frames)
        # [batch, time, channel * mel]
        return self._embed(x.flatten(1, 2).transpose(1, 2), frames)

    @fwd_default_precision
    def _embed(self, x, frames):
        lengths = None if frames is None else frames / x.shape[1]
        return self.embedding(self.pooling(x, lengths))
