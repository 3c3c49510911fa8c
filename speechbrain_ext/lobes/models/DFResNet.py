"""Depth-first ResNets with the strides of Golden Gemini.

Liu, Lee, Wang, Li, "Golden Gemini is All You Need: Finding the Sweet Spots
for Speaker Verification", TASLP 2024, https://arxiv.org/abs/2312.03620; Liu
et al., "DF-ResNet", Interspeech 2022. Reference code:
Liu-Tianchi/Golden-Gemini-for-Speaker-Verification Gemini_df_resnet.py and
wespeaker@dfa7419 wespeaker/models/gemini_dfresnet.py.
"""

import torch

from speechbrain_ext.lobes.models.blocks import (
    Embedding,
    Encoder,
    pool_maps,
)
from speechbrain_ext.lobes.models.ResNet import GOLDEN_GEMINI
from speechbrain_ext.nnet.in_place import add, relu
from speechbrain_ext.nnet.lengths import mask_frames, strided_frames
from speechbrain_ext.nnet.normalization import norm_true_frames
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling


class InvertedBottleneck(torch.nn.Module):
    """A depthwise 3x3 convolution on four times the channels, with a residual.

    Arguments
    ---------
    channels : int
        Number of input and output channels.

    Example
    -------
    >>> InvertedBottleneck(8)(torch.rand(2, 8, 40, 50)).shape
    torch.Size([2, 8, 40, 50])
    """

    def __init__(self, channels):
        super().__init__()
        wide = 4 * channels
        self.conv1 = torch.nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(wide)
        self.conv2 = torch.nn.Conv2d(
            wide, wide, 3, padding=1, groups=wide, bias=False
        )
        self.bn2 = torch.nn.BatchNorm2d(wide)
        self.conv3 = torch.nn.Conv2d(wide, channels, 1, bias=False)
        self.bn3 = torch.nn.BatchNorm2d(channels)

    def forward(self, x, frames=None):
        """Applies the block to a batch.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, mel, time], zero where padded.
        frames : torch.Tensor
            Frames of each utterance, shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, channel, mel, time], zero where padded.
        """
        y = relu(norm_true_frames(self.bn1, self.conv1(x), frames))
        y = self.conv2(mask_frames(y, frames, overwrite=True))
        y = relu(norm_true_frames(self.bn2, y, frames))
        y = norm_true_frames(self.bn3, self.conv3(y), frames)
        return mask_frames(relu(add(y, x)), frames, overwrite=True)


class DFResNet(Encoder):
    """Gemini DF-ResNet: 60 layers (3, 3, 9, 3), 114 (3, 3, 27, 3), 183
    (3, 8, 45, 3), 237 (3, 8, 63, 3).

    Arguments
    ---------
    input_size : int
        Number of filterbanks; any number is valid.
    block_sizes : list of int
        Number of blocks in each of the four stages.
    channels : list of int
        Channels of the stem and of the four stages.
    lin_neurons : int
        Size of the embedding.
    strides : list
        Strides of the four stages, in frequency and in time.
    pooling : callable
        Called with the number of channels; returns the pooling. A class of
        ``speechbrain_ext.nnet.pooling``, in a YAML with ``!name:``.

    Example
    -------
    >>> model = DFResNet(80, (1, 1, 1, 1), (4, 4, 8, 8, 8), lin_neurons=16)
    >>> model(torch.rand(2, 100, 80)).shape
    torch.Size([2, 1, 16])
    """

    def __init__(
        self,
        input_size=80,
        block_sizes=(3, 3, 9, 3),
        channels=(32, 32, 64, 128, 256),
        lin_neurons=256,
        strides=GOLDEN_GEMINI,
        pooling=TemporalStatisticsPooling,
    ):
        super().__init__(input_size)
        self.strides = [tuple(stride) for stride in strides]
        # the stem, and a strided convolution before each stage
        self.downsampling = torch.nn.ModuleList()
        widths = zip([1, *channels], channels, strict=False)
        for (before, after), stride in zip(
            widths, [(1, 1), *self.strides], strict=True
        ):
            conv = torch.nn.Conv2d(
                before, after, 3, stride, padding=1, bias=False
            )
            norm = torch.nn.BatchNorm2d(after)
            self.downsampling.append(torch.nn.Sequential(conv, norm))
        self.stages = torch.nn.ModuleList(
            torch.nn.ModuleList(
                InvertedBottleneck(width) for _ in range(blocks)
            )
            for width, blocks in zip(channels[1:], block_sizes, strict=True)
        )
        bins = input_size
        for stride in self.strides:
            bins = -(-bins // stride[0])
        self.pooling = pooling(channels[-1] * bins)
        self.embedding = Embedding(
            self.pooling.widening * channels[-1] * bins, lin_neurons
        )

    def _pooled(self, x, frames):
        stem, *downsampling = self.downsampling
        x = norm_true_frames(stem, x.unsqueeze(1), frames)
        x = mask_frames(relu(x), frames, overwrite=True)
        for convolution, stride, stage in zip(
            downsampling, self.strides, self.stages, strict=True
        ):
            frames = strided_frames(frames, stride[1])
            x = norm_true_frames(convolution, x, frames)
            x = mask_frames(x, frames, overwrite=True)
            for block in stage:
                x = block(x, frames)
        return pool_maps(self.pooling, x, frames)
