"""VGG-M-40, the smallest network of "In defence of metric learning".

Chung et al., Interspeech 2020, https://arxiv.org/abs/2003.11982. Reference
code: clovaai/voxceleb_trainer@f51bab8 models/VGGVox.py.
"""

import torch

from speechbrain_ext.lobes.models.blocks import (
    Embedding,
    Encoder,
    pool_maps,
)
from speechbrain_ext.nnet.lengths import mask_frames
from speechbrain_ext.nnet.normalization import norm_true_frames
from speechbrain_ext.nnet.pooling import SelfAttentivePooling

# (channels, kernel, stride, padding) of each convolution and (kernel, stride)
# of the max pooling after it, in frequency and in time
LAYERS = (
    ((96, (5, 7), (1, 2), (2, 2)), ((1, 3), (1, 2))),
    ((256, (5, 5), (2, 2), (1, 1)), ((3, 3), (2, 2))),
    ((384, (3, 3), (1, 1), (1, 1)), None),
    ((256, (3, 3), (1, 1), (1, 1)), None),
    ((256, (3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2))),
)
LAST = 512


class VGG(Encoder):
    """VGG-M with 40 filterbanks and pooling over time.

    The kernel of the last convolution covers all remaining frequencies (four,
    if there are 40 filterbanks).

    Arguments
    ---------
    input_size : int
        Number of filterbanks, at least 15.
    lin_neurons : int
        Size of the embedding.
    width : float
        Factor of the published numbers of channels.
    pooling : callable
        Called with the number of channels; returns the pooling. The paper
        uses SelfAttentivePooling, TemporalAveragePooling and MaxPooling. In a
        YAML with ``!name:``.

    Raises
    ------
    ValueError
        If there are too few filterbanks, or an utterance is too short.

    Example
    -------
    >>> VGG(40, lin_neurons=32, width=0.1)(torch.rand(2, 200, 40)).shape
    torch.Size([2, 1, 32])
    """

    def __init__(
        self,
        input_size=40,
        lin_neurons=512,
        width=1.0,
        pooling=SelfAttentivePooling,
    ):
        super().__init__(input_size)
        self.layers = torch.nn.ModuleList()
        self.sizes = []  # (kernel, stride, padding) in time, of each layer
        before, bins = 1, input_size
        for (channels, *conv), pool in LAYERS:
            channels = max(round(width * channels), 1)
            layer = [
                torch.nn.Conv2d(before, channels, *conv),
                torch.nn.BatchNorm2d(channels),
                torch.nn.ReLU(),
            ]
            bins = _left(bins, *(size[0] for size in conv))
            sizes = [tuple(size[1] for size in conv)]
            if pool:
                layer.append(torch.nn.MaxPool2d(*pool))
                bins = _left(bins, pool[0][0], pool[1][0], 0)
                sizes.append((pool[0][1], pool[1][1], 0))
            self.layers.append(torch.nn.Sequential(*layer))
            self.sizes.append(sizes)
            before = channels
        if bins < 1:
            raise ValueError(
                f"`input_size` must be at least 15, got {input_size}."
            )
        last = max(round(width * LAST), 1)
        self.layers.append(
            torch.nn.Sequential(
                torch.nn.Conv2d(before, last, (bins, 1)),
                torch.nn.BatchNorm2d(last),
                torch.nn.ReLU(),
            )
        )
        self.sizes.append([(1, 1, 0)])
        self.pooling = pooling(last)
        self.embedding = Embedding(self.pooling.widening * last, lin_neurons)

    def _pooled(self, x, frames):
        shortest = x.shape[2] if frames is None else int(frames.min())
        left = shortest
        for sizes in self.sizes:
            for size in sizes:
                left = _left(left, *size)
        if left < 1:
            raise ValueError(
                f"`x` has an utterance of {shortest} frames, too few for this "
                "network; repeat it up to one second, or leave it out."
            )
        x = x.unsqueeze(1)
        for layer, sizes in zip(self.layers, self.sizes, strict=True):
            # the batch norm comes between the convolution and the pooling
            frames = None if frames is None else _left(frames, *sizes[0])
            x = norm_true_frames(layer, x, frames)
            for size in sizes[1:]:
                frames = None if frames is None else _left(frames, *size)
            x = mask_frames(x, frames, overwrite=True)
        return pool_maps(self.pooling, x, frames)


def _left(size, kernel, stride, padding):
    """Output size of a convolution or a pooling."""
    return (size + 2 * padding - kernel) // stride + 1
