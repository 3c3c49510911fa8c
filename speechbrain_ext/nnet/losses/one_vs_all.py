"""The terms of one-vs-all losses for all classes but the true one.

Sums of softplus and of sigmoid over logits, and the gradient, in one pass over
[batch, classes]: once for a compiler, and once by hand. New memory costs more
time than arithmetic, on a processor and on a GPU.
"""

import functools
import math

import torch

from speechbrain_ext.nnet.losses.angles import sine

# Of inductor, which would otherwise make two passes with a tensor between them
ONE_PASS = {"realize_opcount_threshold": 200, "realize_reads_threshold": 50}

# the memory of the last gradient, and its holders when it was new
KEPT = []


def negatives(cosines, targets, bias, turn, scale, exponent, straight, weight):
    """Sums of softplus and sigmoid over all other classes, and the gradient.

    A logit is scale * g(cos(theta - margin)) + bias with the similarity g(z) =
    2 ((z + 1) / 2)^exponent - 1 of SphereFace2. This form is for a compiler.

    Arguments
    ---------
    cosines : torch.Tensor
        Cosines of the angles theta, shape [batch, classes].
    targets : torch.Tensor
        True classes, shape [batch, 1]. A row whose number is not a column of
        ``cosines``, such as -1, has no true class among them.
    bias : torch.Tensor
        Added to each logit, shape [1].
    turn : tuple of torch.Tensor
        Cosine and sine of the margin; None for no margin.
    scale : float
        Factor of the similarity.
    exponent : float
        Exponent of the similarity.
    straight : bool
        Whether the slope of a logit is ``scale`` whatever the cosine.
    weight : float | torch.Tensor
        The gradient is that of ``weight`` times the sum of softplus. A weight
        per row, [batch, 1], is in the sums too.

    Returns
    -------
    torch.Tensor
        Sum of softplus.
    torch.Tensor
        Sum of sigmoid.
    torch.Tensor
        The gradient, shape [batch, classes].

    Example
    -------
    >>> cosines, targets = torch.zeros(1, 3), torch.tensor([[0]])
    >>> bias = torch.zeros(1)
    >>> total, _, _ = negatives(cosines, targets, bias, None, 8, 1, False, 1)
    >>> total.item() == 2 * torch.nn.functional.softplus(bias).item()
    True
    """
    stretch = 2 * scale / 2**exponent
    slope = weight * (scale if straight else exponent * stretch)
    if turn is None:
        above = 1 + cosines
    else:
        sines = sine(cosines)
        # as by autograd through `sine`: at its least value it is flat
        flat = (1 - cosines) * (1 + cosines) < torch.finfo(sines.dtype).eps
        ratio = torch.where(flat, 0, cosines / sines)
        slope = slope * turn[0] - slope * turn[1] * ratio
        above = 1 + (turn[0] * cosines + turn[1] * sines)
    if exponent != int(exponent):
        above = above.clamp(min=0)  # rounding can make it negative
    power = above ** (exponent - 1)
    logits = stretch * (above * power) + (bias - scale)
    if not straight:
        slope = slope * power
    # int32 is compared twice as fast as int64
    classes = torch.arange(
        cosines.shape[1], dtype=torch.int32, device=cosines.device
    )
    logits = torch.where(classes == targets.int(), -math.inf, logits)
    # softplus and sigmoid from one exponential, which cannot overflow
    small = torch.exp(-logits.abs())
    softplus = logits.clamp(min=0) + _log1p(small)
    sigmoid = torch.where(logits >= 0, 1, small) / (1 + small)
    own = weight if torch.is_tensor(weight) else None
    return _sum(softplus, own), _sum(sigmoid, own), sigmoid * slope


@functools.cache
def compiled_negatives():
    """``negatives``, compiled at its first call.

    Returns
    -------
    collections.abc.Callable
        The function. Before the arguments of ``negatives`` it takes a tensor
        that gets the gradient, which it does not return.
    """
    return torch.compile(_write_negatives, dynamic=False, options=ONE_PASS)


def _write_negatives(gradient, *arguments):
    """``negatives`` that writes the gradient; a compiler makes no other."""
    total, pull, found = negatives(*arguments)
    gradient.copy_(found)
    return total, pull


def gradient_memory(cosines):
    """Memory for a gradient with respect to cosines.

    On a CPU it is the memory of the last gradient, if that has the same shape
    and nothing else holds it any more. To get new memory from the system can
    take nearly a tenth of the time of layer and loss.

    Arguments
    ---------
    cosines : torch.Tensor
        Shape [batch, classes].

    Returns
    -------
    torch.Tensor
        Any numbers, shape [batch, classes].

    Example
    -------
    >>> cosines = torch.zeros(2, 3)
    >>> first, second = gradient_memory(cosines), gradient_memory(cosines)
    >>> first.data_ptr() == second.data_ptr()
    False
    """
    if cosines.device.type != "cpu" or torch.is_inference_mode_enabled():
        return torch.empty_like(cosines)
    try:
        last, alone = KEPT.pop()  # no other thread gets it too
    except IndexError:
        last, alone = cosines, None
    if (
        last.shape != cosines.shape
        or last.dtype != cosines.dtype
        or _holders(last) != alone
    ):
        last = torch.empty_like(cosines)
        alone = _holders(last)
    given = last.detach()
    if type(last) is torch.Tensor:  # has numbers, unlike a FakeTensor
        KEPT[:] = [(last, alone)]
    return given


def _holders(tensor):
    """Number of tensors and other objects that hold the same memory."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def negatives_in_place(
    gradient,
    cosines,
    rows,
    columns,
    bias,
    turn,
    scale,
    exponent,
    straight,
    weight,
):
    """``negatives`` without a compiler.

    A few utterances at a time are computed in the same blocks, which stay in
    the cache.

    Arguments
    ---------
    gradient : torch.Tensor
        Gets the gradient, shape [batch, classes].
    cosines : torch.Tensor
        Cosines of the angles theta, shape [batch, classes].
    rows : torch.Tensor
        Rows with a true class among the columns, shape [rows].
    columns : torch.Tensor
        Those classes, shape [rows].
    bias : torch.Tensor
        Added to each logit, shape [1].
    turn : tuple of float
        Cosine and sine of the margin; None for no margin.
    scale : float
        See ``negatives``.
    exponent : float
        See ``negatives``.
    straight : bool
        See ``negatives``.
    weight : float | torch.Tensor
        See ``negatives``.

    Returns
    -------
    torch.Tensor
        Sum of softplus.
    torch.Tensor
        Sum of sigmoid.

    Example
    -------
    >>> cosines, true, bias = (
    ...     torch.zeros(1, 3),
    ...     torch.tensor([0]),
    ...     torch.ones(1),
    ... )
    >>> gradient = torch.empty(1, 3)
    >>> parts = [gradient, cosines, true, true, bias, None, 8, 1, False, 1]
    >>> total, pull = negatives_in_place(*parts)
    >>> (gradient.sum() == 8 * pull).item()
    True
    """
    batch, classes = cosines.shape
    total, pull = 0.0, 0.0
    # a sixteenth of the batch at a time, or more if that is very small
    step = min(max(-(-batch // 16), 2**18 // classes, 1), batch)
    blocks = cosines.new_empty(4 if turn is None else 6, step, classes)
    zero, unit = cosines.new_zeros(()), cosines.new_ones(())
    shift, stretch = bias - scale, 2 * scale / 2**exponent
    steepness = scale if straight else exponent * stretch
    if not torch.is_tensor(weight):
        steepness = weight * steepness
    for start in range(0, batch, step):
        part = cosines[start : start + step]
        own = weight[start : start + step] if torch.is_tensor(weight) else None
        slopes = gradient[start : start + step]
        logits, power, small, one = blocks[:4, : len(part)]
        torch.add(part, 1, out=logits)
        if turn is not None:
            sines, turned = blocks[4:, : len(part)]
            torch.sub(unit, part, out=sines).mul_(logits)  # see `sine`
            least = torch.finfo(sines.dtype).eps
            # infinite where the sine is flat, so that its slope is 0
            torch.threshold_(sines, least, math.inf).sqrt_()
            ratio = {"value": -turn[1], "out": turned}
            torch.addcdiv(turn[0] * unit, part, sines, **ratio)
            sines.nan_to_num_(nan=math.nan, posinf=math.sqrt(least))
            torch.add(unit, part, alpha=turn[0], out=logits)
            logits.add_(sines, alpha=turn[1])
        if exponent != int(exponent):
            logits.clamp_(min=0)
        torch.pow(logits, exponent - 1, out=power)
        torch.addcmul(shift, logits, power, value=stretch, out=logits)
        here = slice(start, start + step)
        if len(rows) < batch:  # of a shard
            here = (rows >= start) & (rows < start + step)
        logits[rows[here] - start, columns[here]] = -math.inf
        # softplus(z) = max(z, 0) + log(1 + exp(-|z|)), which cannot overflow
        torch.copysign(logits, -1, out=small).exp_()
        torch.add(small, 1, out=one)
        torch.sigmoid(logits, out=slopes)
        pull = pull + _sum(slopes, own)
        total = total + _sum(logits.clamp_(min=0), own)
        # log1p takes twelve times as long as log; add what rounding removed
        small.sub_(torch.sub(one, 1, out=logits))
        total = total + _sum(small, own) + _sum(one.log_(), own)
        if turn is not None:
            slopes.mul_(turned)
        if straight:
            slopes.mul_(steepness)
        else:
            torch.addcmul(zero, slopes, power, value=steepness, out=slopes)
        if own is not None:
            slopes.mul_(own)
    return total, pull


def _log1p(x):
    """log(1 + x) for x in [0, 1], exact to rounding, for a compiler.

    log(1 + x) = 2 artanh(x / (2 + x)), by the series of artanh. Compiled,
    torch.log takes a large part of the pass, and torch.log1p even more.
    """
    last = 13 if x.dtype == torch.float32 else 33
    share = x / (2 + x)  # at most 1/3
    square, series = share * share, 1 / last
    for odd in range(last - 2, 0, -2):
        series = 1 / odd + square * series
    return 2 * share * series


def _sum(terms, weight):
    """Sum of terms [batch, classes], with a weight per row if there is one."""
    if weight is None:
        return terms.sum()
    return terms.sum(dim=1) @ weight.squeeze(1)
