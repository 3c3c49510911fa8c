"""Normalization of embeddings, and batch normalization over all processes."""

import torch
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from speechbrain_ext.nnet.lengths import mask_frames
from speechbrain_ext.utils.distributed import world_size


class EmbeddingMean(torch.nn.Module):
    """Subtracts a fixed mean from embeddings.

    SpeechBrain's pretrained interface applies it if ``encode_batch`` is called
    with ``normalize=True``. A mean of zeros changes nothing.

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
            Not used; part of SpeechBrain's interface.

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        """
        return x - self.mean


class SharedBatchNorm(_BatchNorm):
    """Batch normalization with the statistics of all processes, on a CPU.

    ``torch.nn.SyncBatchNorm`` does the same, but on GPUs only. Each process is
    weighted by the number of its values, so the statistics are those of one
    process with all of the data, even if batches differ in size. On one
    process, and in evaluation, this is the batch normalization of torch. State
    dicts are those of torch's layers.

    Arguments
    ---------
    num_features : int
        Number of channels.
    eps : float
        Added to the variance.
    momentum : float
        Weight of a batch in the running statistics; None averages all
        batches.
    affine : bool
        Whether there are weights and biases.
    track_running_stats : bool
        Whether to keep running statistics.

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
        """Normalizes each channel.

        Arguments
        ---------
        input : torch.Tensor
            Shape [batch, channel, ...]. Rows and frames may differ between
            processes.

        Returns
        -------
        torch.Tensor
            Of the same shape and type.
        """
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        return _normalised(self, input, None)


def norm_true_frames(layers, x, frames=None):
    """Applies layers with batch statistics of the true frames only.

    In training, a batch norm computes mean and variance without the padded
    frames, so the output for an utterance does not depend on the padding of
    its batch. ``SharedBatchNorm`` and ``torch.nn.SyncBatchNorm`` do so over
    all processes. Without ``frames``, and in evaluation, the layers are
    applied as they are.

    Arguments
    ---------
    layers : torch.nn.Module
        A batch norm, another layer, or a Sequential of them.
    x : torch.Tensor
        Shape [batch, channel, ..., time].
    frames : torch.Tensor
        Number of frames of each utterance in ``x``, shape [batch]; None if
        nothing is padded.

    Returns
    -------
    torch.Tensor
        The output of the layers.

    Example
    -------
    >>> x = torch.tensor([[[1.0, 3.0]], [[5.0, 99.0]]])
    >>> norm = torch.nn.BatchNorm1d(1)
    >>> norm_true_frames(norm, x, torch.tensor([2, 1])).flatten()
    tensor([-1.2247,  0.0000,  1.2247,  0.0000], grad_fn=<ViewBackward0>)
    """
    if frames is None:
        return layers(x)
    if isinstance(layers, torch.nn.Sequential):
        for layer in layers:
            x = norm_true_frames(layer, x, frames)
        return x
    if not isinstance(layers, _BatchNorm) or not layers.training:
        return layers(x)
    return _normalised(layers, x, frames)


def _normalised(norm, x, frames):
    """The output of a batch norm in training, for the true frames."""
    group = None
    if world_size() > 1 and isinstance(norm, (SharedBatchNorm, SyncBatchNorm)):
        group = getattr(norm, "process_group", None)
        group = group or torch.distributed.group.WORLD
    y, mean, variance, count = _TrueFrameNorm.apply(
        x, norm.weight, norm.bias, frames, norm.eps, group
    )
    if norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
        weight = norm.momentum
        if weight is None:
            weight = 1 / float(norm.num_batches_tracked)
        variance = variance * (count / (count - 1).clamp(min=1))
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), weight)
    return y


class _TrueFrameNorm(torch.autograd.Function):
    """Batch normalization over true frames; padded frames become zero.

    Processes exchange what ``torch.nn.SyncBatchNorm`` exchanges: mean, inverse
    deviation and count in the forward pass, two sums in the backward pass. So
    a process whose batch has no padding may use torch's layer meanwhile.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, frames, eps, group):
        dims, shape = _channel_axis(x)
        values = mask_frames(_at_least_float32(x), frames)
        count = values.new_full((1,), x.numel() // x.shape[1])
        if frames is not None:
            a_frame = x[:1, 0, ..., 0].numel()  # values of a channel
            count = (a_frame * frames.sum(dim=0, keepdim=True)).to(values)
        some = count.clamp(min=1)
        mean = values.sum(dims) / some
        centred = mask_frames(values - mean.view(shape), frames)
        variance = centred.square().sum(dims) / some
        if group is not None:
            own = torch.cat([mean, (variance + eps).rsqrt(), count])
            every = own.new_empty(group.size() * len(own))
            torch.distributed.all_gather_into_tensor(every, own, group)
            every = every.view(-1, len(own))
            means, inverses, counts = every.tensor_split([len(mean), -1], 1)
            count = counts.sum(dim=0)
            variances = (inverses**-2 - eps).clamp(min=0)
            mean = (counts * means).sum(dim=0) / count
            spread = variances + (means - mean).square()
            variance = (counts * spread).sum(dim=0) / count
            centred = values - mean.view(shape)
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, frames, mean, inverse, count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, count)
        scale = inverse if weight is None else inverse * weight
        y = centred * scale.view(shape)
        if bias is not None:
            y = y + bias.view(shape)
        y = mask_frames(y, frames)
        # torch.compile loses the gradient of a `to` that changes nothing
        y = y if y.dtype == x.dtype else y.to(x.dtype)
        return y, mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, *_):
        x, weight, frames, mean, inverse, count = ctx.saved_tensors
        dims, shape = _channel_axis(x)
        gradient = mask_frames(_at_least_float32(gradient), frames)
        centred = _at_least_float32(x) - mean.view(shape)
        along = (gradient * centred).sum(dims)
        whole = gradient.sum(dims)
        to_weight = to_bias = to_x = None
        if weight is not None:
            to_weight = (along * inverse).to(weight.dtype)
            to_bias = whole.to(weight.dtype)
        if ctx.needs_input_grad[0]:
            if ctx.group is not None:
                sums = torch.cat([whole, along])
                torch.distributed.all_reduce(sums, group=ctx.group)
                whole, along = sums.chunk(2)
            along = along * inverse.square() / count
            pull = centred * along.view(shape) + (whole / count).view(shape)
            scale = inverse if weight is None else inverse * weight
            to_x = mask_frames(gradient - pull, frames) * scale.view(shape)
            to_x = to_x.to(x.dtype)
        return to_x, to_weight, to_bias, None, None, None


def _channel_axis(x):
    """The axes without that of the channels, and the shape of a statistic."""
    return [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)


def _at_least_float32(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def share_batch_statistics(module):
    """Replaces every batch normalization by ``SharedBatchNorm``.

    Arguments
    ---------
    module : torch.nn.Module
        A network; its parameters and buffers stay the same objects.

    Returns
    -------
    torch.nn.Module
        The network, changed in place. If the network is itself a batch norm,
        a new layer.

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
