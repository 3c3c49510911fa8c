"""Normalisation: of embeddings, and of batches over all processes."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from speechbrain_ext.utils.distributed import gathered, world_size


class EmbeddingMean(torch.nn.Module):
    """Subtracts a fixed mean from embeddings.

    SpeechBrain's pretrained interface applies it where ``encode_batch`` is
    called with ``normalize=True``. A mean of zeros changes nothing.

    Arguments
    ---------
    size : int
        Size of the embeddings.

    Example
    -------
    >>> norm = EmbeddingMean(2)
    >>> norm(torch.tensor([[[1.0, 2.0]]]))
    tensor([[[1., 2.]]])
    """

    def __init__(self, size):
        super().__init__()
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}.")
        self.register_buffer("mean", torch.zeros(size))

    def forward(self, x, lengths=None):
        """Subtracts the mean.

        Arguments
        ---------
        x : torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        lengths : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        """
        return x - self.mean


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all processes, on a CPU.

    What ``torch.nn.SyncBatchNorm`` does on a GPU, which refuses a CPU: mean
    and variance of each process are gathered with their gradients. In one
    process, and in evaluation, it is torch's own batch normalisation. State
    dicts are those of torch's layers.

    Arguments
    ---------
    num_features : int
        Channels.
    eps : float
        Added to the variance.
    momentum : float
        Weight of a batch in the running statistics; None for their mean.
    affine : bool
        Whether there are weights and biases.
    track_running_stats : bool
        Whether there are running statistics.

    Example
    -------
    >>> norm = SharedBatchNorm(3)
    >>> norm(torch.rand(4, 3, 10)).shape
    torch.Size([4, 3, 10])
    """

    def _check_input_dim(self, input):
        if input.dim() < 2:
            raise ValueError(
                "`input` must be of shape [batch, channel, ...], got "
                f"{list(input.shape)}."
            )

    def forward(self, input):
        """Normalises each channel.

        Arguments
        ---------
        input : torch.Tensor
            Shape [batch, channel, ...], the same on every process.

        Returns
        -------
        torch.Tensor
            Of the same shape and type.
        """
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.double() if input.dtype == torch.double else input.float()
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        variance, mean = torch.var_mean(x, dims, correction=0)
        # [processes, 2, channel]
        every = gathered(torch.stack([mean, variance]).unsqueeze(0))
        mean = every[:, 0].mean(dim=0)
        variance = (every[:, 1] + (every[:, 0] - mean).square()).mean(dim=0)
        if self.track_running_stats:
            self._track(mean, variance, world_size() * x.numel() / len(mean))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        x = (x - mean.view(shape)) * scale.view(shape)
        if self.affine:
            x = x + self.bias.view(shape)
        return x.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean, variance, count):
        """Moves the running statistics, the variance without bias."""
        self.num_batches_tracked.add_(1)
        weight = self.momentum
        if weight is None:
            weight = 1 / float(self.num_batches_tracked)
        variance = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(variance.to(self.running_var.dtype), weight)


def share_batch_statistics(module):
    """Puts ``SharedBatchNorm`` in the place of every batch normalisation.

    Arguments
    ---------
    module : torch.nn.Module
        A network; its parameters and buffers stay the same objects.

    Returns
    -------
    torch.nn.Module
        The network, changed in place, or a new layer where it was one itself.

    Example
    -------
    >>> share_batch_statistics(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    Sequential(
      (0): SharedBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, \
track_running_stats=True)
    )
    """
    if isinstance(module, _BatchNorm):
        shared = SharedBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
        )
        shared._parameters = module._parameters
        shared._buffers = module._buffers
        shared.training = module.training
        return shared
    for name, child in module.named_children():
        setattr(module, name, share_batch_statistics(child))
    return module
