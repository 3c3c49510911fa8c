"""Squeeze-excitation ResNets of "In defence of metric learning".

Chung et al., Interspeech 2020, https://arxiv.org/abs/2003.11982. Reference
code: clovaai/voxceleb_trainer@f51bab8 models/ResNetSE34L.py (Fast),
ResNetSE34V2.py, and @c43bced models/ResNetSE34.py (Thin).
"""

import torch

from speechbrain_ext.lobes.models.blocks import (
    Embedding,
    Encoder,
    pool_maps,
    residual_stages,
)
from speechbrain_ext.lobes.models.ResNet import BasicBlock
from speechbrain_ext.nnet.lengths import mask_frames, strided_frames
from speechbrain_ext.nnet.normalization import norm_true_frames
from speechbrain_ext.nnet.pooling import SelfAttentivePooling

# Layers before the first stage in the published forms
STEMS = {
    "fast": {"kernel": 7, "stride": (2, 1), "bias": False, "pool": False},
    "thin": {"kernel": 7, "stride": (2, 1), "bias": False, "pool": True},
    "v2": {"kernel": 3, "stride": (1, 1), "bias": True, "pool": False},
}


class SEBasicBlock(BasicBlock):
    """A ``BasicBlock`` with squeeze-excitation and batch norm after ReLU.

    Arguments
    ---------
    in_channels : int
        Number of input channels.
    channels : int
        Number of output channels.
    stride : tuple of int
        Stride of the first convolution, in frequency and in time.

    Example
    -------
    >>> block = SEBasicBlock(8, 16, stride=(2, 2))
    >>> block(torch.rand(2, 8, 80, 100)).shape
    torch.Size([2, 16, 40, 50])
    """

    def __init__(self, in_channels, channels, stride=(1, 1)):
        super().__init__(in_channels, channels, stride, reduction=8)

    def _first(self, x, frames):
        return norm_true_frames(self.bn1, torch.relu(self.conv1(x)), frames)


class SEResNet(Encoder):
    """Squeeze-excitation ResNet34 in three published forms.

    - Fast (``ResNetSE34L``): 40 log mel filterbanks, 16 channels, strides
      1, 2, 2, 1, and the mean over frequency before the pooling.
    - Thin (``ResNetSE34``): a 257-bin spectrogram, max pooling in frequency,
      strides 1, 2, 2, 2, and the mean over frequency.
    - V2 (``ResNetSE34V2``): 64 filterbanks, 32 channels, strides 1, 2, 2, 2,
      without a mean over frequency.

    Arguments
    ---------
    input_size : int
        Number of filterbanks or bins; any number is valid.
    block_sizes : list of int
        Number of blocks in each stage.
    channels : int
        Channels of the first stage; each further stage has twice as many.
    lin_neurons : int
        Size of the embedding.
    form : str
        ``fast``, ``thin`` or ``v2``; it selects the layers before the first
        stage.
    strides : list
        Stride of each stage: a number, or one for frequency and one for time.
    average_frequency : bool
        Whether to average frequencies before the pooling over time.
    pooling : callable
        Called with the number of channels; returns the pooling. A class of
        ``speechbrain_ext.nnet.pooling``, in a YAML with ``!name:``.

    Raises
    ------
    ValueError
        If the form is unknown, or the features have another number of
        channels.

    Example
    -------
    >>> model = SEResNet(40, (1, 1, 1, 1), 8, lin_neurons=32)
    >>> model(torch.rand(2, 200, 40)).shape
    torch.Size([2, 1, 32])
    """

    def __init__(
        self,
        input_size=40,
        block_sizes=(3, 4, 6, 3),
        channels=16,
        lin_neurons=512,
        form="fast",
        strides=(1, 2, 2, 1),
        average_frequency=True,
        pooling=SelfAttentivePooling,
    ):
        super().__init__(input_size)
        if form not in STEMS:
            raise ValueError(
                f"`form` must be one of {sorted(STEMS)}, got {form!r}."
            )
        stem = STEMS[form]
        self.form = form
        self.average_frequency = average_frequency
        self.conv1 = torch.nn.Conv2d(
            1,
            channels,
            stem["kernel"],
            stem["stride"],
            padding=stem["kernel"] // 2,
            bias=stem["bias"],
        )
        self.bn1 = torch.nn.BatchNorm2d(channels)
        bins = -(-input_size // stem["stride"][0])
        self.maxpool = torch.nn.Identity()
        if stem["pool"]:
            self.maxpool = torch.nn.MaxPool2d(3, stride=(2, 1), padding=1)
            bins = -(-bins // 2)
        self.stages, shapes = residual_stages(
            SEBasicBlock, channels, channels, block_sizes, strides, bins
        )
        width, bins = shapes[-1]
        pooled = width if average_frequency else width * bins
        self.pooling = pooling(pooled)
        self.embedding = Embedding(self.pooling.widening * pooled, lin_neurons)
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def _pooled(self, x, frames):
        x = self.conv1(x.unsqueeze(1))
        if self.form == "v2":
            x = norm_true_frames(self.bn1, torch.relu(x), frames)
        else:
            x = torch.relu(norm_true_frames(self.bn1, x, frames))
        x = mask_frames(self.maxpool(mask_frames(x, frames)), frames)
        for stage in self.stages:
            for block in stage:
                x = block(x, frames)
                frames = strided_frames(frames, block.stride[1])
        if self.average_frequency:
            x = x.mean(dim=2, keepdim=True)
        return pool_maps(self.pooling, x, frames)
