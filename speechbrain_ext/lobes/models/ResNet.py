"""WeSpeaker's ResNets for speaker verification.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
https://arxiv.org/abs/1512.03385; Zeinali et al., "BUT System Description to
VoxCeleb Speaker Recognition Challenge 2019", https://arxiv.org/abs/1910.12592.
Reference code: wespeaker@dfa7419 wespeaker/models/resnet.py. Differences from
SpeechBrain's ResNet:

- 32 channels in the first stage, and post-activation blocks without
  squeeze-excitation;
- statistics pooling over time, and one linear layer to the embedding;
- ``lengths`` masks padding in every convolution, not only in the pooling.

``strides=GOLDEN_GEMINI`` keeps more resolution in time and less in frequency:
Liu et al., "Golden Gemini is All You Need", TASLP 2024,
https://arxiv.org/abs/2312.03620 (T14c). Squeeze-excitation, pooling of all
stages (MSEA) and the activated embedding follow Open Speaker Verification
(1017549629/open-speaker-verification@0d415d5 mmcls/models).
"""

import functools

import torch

from speechbrain_ext.lobes.models.blocks import (
    Embedding,
    Encoder,
    SqueezeExcitation,
    pool_maps,
    residual_stages,
    set_norm_momentum,
    shortcut,
)
from speechbrain_ext.nnet.in_place import add, relu
from speechbrain_ext.nnet.lengths import mask_frames, strided_frames
from speechbrain_ext.nnet.normalization import norm_true_frames
from speechbrain_ext.nnet.pooling import TemporalStatisticsPooling

# Strides of the four stages, in frequency and in time
GOLDEN_GEMINI = ((2, 1), (2, 2), (2, 1), (2, 1))


class BasicBlock(torch.nn.Module):
    """Two 3x3 convolutions with a shortcut.

    Arguments
    ---------
    in_channels : int
        Number of input channels.
    channels : int
        Channels of the convolutions and of the output.
    stride : tuple of int
        Stride of the first convolution, in frequency and in time.
    reduction : int
        Reduction of the squeeze-excitation before the sum; None for no
        squeeze-excitation.

    Example
    -------
    >>> block = BasicBlock(8, 16, stride=(2, 2))
    >>> block(torch.rand(2, 8, 80, 100)).shape
    torch.Size([2, 16, 40, 50])
    """

    expansion = 1

    def __init__(self, in_channels, channels, stride=(1, 1), reduction=None):
        super().__init__()
        self.stride = tuple(stride)
        self.conv1 = torch.nn.Conv2d(
            in_channels, channels, 3, stride, padding=1, bias=False
        )
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(
            channels, channels, 3, padding=1, bias=False
        )
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.se = None
        if reduction:
            self.se = SqueezeExcitation(channels, reduction)
        self.shortcut = shortcut(in_channels, channels, self.stride)

    def forward(self, x, frames=None):
        """Applies the block to a batch.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, mel, time], zero where padded.
        frames : torch.Tensor
            Frames of each utterance before the block's stride, shape [batch],
            or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, channel, mel, time], zero where padded.
        """
        frames = strided_frames(frames, self.stride[1])
        y = self._first(x, frames)
        # batch norm shifts the padding away from zero: mask it again
        y = self.conv2(mask_frames(y, frames, overwrite=True))
        y = norm_true_frames(self.bn2, y, frames)
        if self.se is not None:
            y = self.se(mask_frames(y, frames, overwrite=True), frames)
        y = add(y, norm_true_frames(self.shortcut, x, frames))
        return mask_frames(relu(y), frames, overwrite=True)

    def _first(self, x, frames):
        return relu(norm_true_frames(self.bn1, self.conv1(x), frames))


class Bottleneck(torch.nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, with a shortcut.

    Arguments
    ---------
    in_channels : int
        Number of input channels.
    channels : int
        Channels of the 3x3 convolution; the output has four times as many.
    stride : tuple of int
        Stride of the 3x3 convolution, in frequency and in time.
    reduction : int
        Reduction of the squeeze-excitation before the sum; None for no
        squeeze-excitation.

    Example
    -------
    >>> block = Bottleneck(8, 16, stride=(2, 1))
    >>> block(torch.rand(2, 8, 80, 100)).shape
    torch.Size([2, 64, 40, 100])
    """

    expansion = 4

    def __init__(self, in_channels, channels, stride=(1, 1), reduction=None):
        super().__init__()
        self.stride = tuple(stride)
        out_channels = self.expansion * channels
        self.conv1 = torch.nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(
            channels, channels, 3, stride, padding=1, bias=False
        )
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.conv3 = torch.nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = torch.nn.BatchNorm2d(out_channels)
        self.se = None
        if reduction:
            self.se = SqueezeExcitation(out_channels, reduction)
        self.shortcut = shortcut(in_channels, out_channels, self.stride)

    def forward(self, x, frames=None):
        """Applies the block to a batch.

        Arguments
        ---------
        x : torch.Tensor
            Shape [batch, channel, mel, time], zero where padded.
        frames : torch.Tensor
            Frames of each utterance before the block's stride, shape [batch],
            or None.

        Returns
        -------
        torch.Tensor
            Shape [batch, channel, mel, time], zero where padded.
        """
        y = relu(norm_true_frames(self.bn1, self.conv1(x), frames))
        y = self.conv2(mask_frames(y, frames, overwrite=True))
        frames = strided_frames(frames, self.stride[1])
        y = relu(norm_true_frames(self.bn2, y, frames))
        y = norm_true_frames(self.bn3, self.conv3(y), frames)
        if self.se is not None:
            y = self.se(mask_frames(y, frames, overwrite=True), frames)
        y = add(y, norm_true_frames(self.shortcut, x, frames))
        return mask_frames(relu(y), frames, overwrite=True)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(Encoder):
    """ResNet with pooling over time.

    ====== ============== ===========
    layers block_sizes    block
    ====== ============== ===========
    18     (2, 2, 2, 2)   basic
    34     (3, 4, 6, 3)   basic
    50     (3, 4, 6, 3)   bottleneck
    101    (3, 4, 23, 3)  bottleneck
    152    (3, 8, 36, 3)  bottleneck
    221    (6, 16, 48, 3) bottleneck
    293    (10, 20, 64, 3) bottleneck
    ====== ============== ===========

    Arguments
    ---------
    input_size : int
        Number of filterbanks; any number is valid.
    block_sizes : list of int
        Number of blocks in each stage.
    channels : int
        Channels of the first stage; each further stage has twice as many.
    lin_neurons : int
        Size of the embedding.
    block : str
        ``basic`` or ``bottleneck``.
    strides : list
        Stride of each stage: a number, or one for frequency and one for time.
    pooling : callable
        Called with the number of channels; returns the pooling. A class of
        ``speechbrain_ext.nnet.pooling``, in a YAML with ``!name:``.
    reduction : int
        Reduction of the squeeze-excitation in each block (16 in Open Speaker
        Verification); None for no squeeze-excitation.
    all_stages : bool
        Whether to pool every stage (MSEA), not only the last.
    activated : bool
        Whether ReLU and batch norm follow the embedding layer.
    norm_momentum : float
        Momentum of the batch norms (0.5 in Open Speaker Verification).
    weight_init : str
        ``pytorch`` for PyTorch's initial weights, or ``mmcls`` for those of
        MMClassification (Open Speaker Verification): normal kernels with the
        variance 2 / fan-out, biases of the squeeze-excitation 0, and weight 0
        in the last batch norm of each block.

    Raises
    ------
    ValueError
        If the block or the kind of initial weights is unknown, or the number
        of strides is not the number of stages.

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
        block="basic",
        strides=(1, 2, 2, 2),
        pooling=TemporalStatisticsPooling,
        reduction=None,
        all_stages=False,
        activated=False,
        norm_momentum=0.1,
        weight_init="pytorch",
    ):
        super().__init__(input_size)
        if weight_init not in ("pytorch", "mmcls"):
            raise ValueError(
                "`weight_init` must be 'pytorch' or 'mmcls', got "
                f"{weight_init!r}."
            )
        if block not in BLOCKS:
            raise ValueError(
                f"`block` must be one of {sorted(BLOCKS)}, got {block!r}."
            )
        block = functools.partial(BLOCKS[block], reduction=reduction)
        self.conv1 = torch.nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.all_stages = all_stages
        self.stages, shapes = residual_stages(
            block, channels, channels, block_sizes, strides, input_size
        )
        sizes = [width * bins for width, bins in shapes]
        if all_stages:
            self.pooling = torch.nn.ModuleList(pooling(s) for s in sizes)
            pooled = sum(
                p.widening * s for p, s in zip(self.pooling, sizes, strict=True)
            )
        else:
            self.pooling = pooling(sizes[-1])
            pooled = self.pooling.widening * sizes[-1]
        self.embedding = Embedding(pooled, lin_neurons, activated)
        set_norm_momentum(self, norm_momentum)
        if weight_init == "mmcls":
            self._init_as_mmcls()

    def _init_as_mmcls(self):
        for part in (self.conv1, *self.stages.modules()):
            # squeeze-excitation is linear here and a convolution there
            if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(part.weight, mode="fan_out")
                if part.bias is not None:
                    torch.nn.init.zeros_(part.bias)
            elif isinstance(part, BasicBlock):
                torch.nn.init.zeros_(part.bn2.weight)
            elif isinstance(part, Bottleneck):
                torch.nn.init.zeros_(part.bn3.weight)

    def _pooled(self, x, frames):
        x = self.conv1(x.unsqueeze(1))
        x = norm_true_frames(self.bn1, x, frames)
        x = mask_frames(relu(x), frames, overwrite=True)
        pooled = []
        for index, stage in enumerate(self.stages):
            for block in stage:
                x = block(x, frames)
                frames = strided_frames(frames, block.stride[1])
            if self.all_stages:
                pooled.append(pool_maps(self.pooling[index], x, frames))
        if not self.all_stages:
            return pool_maps(self.pooling, x, frames)
        return torch.cat(pooled, dim=2)
