"""Norms of gradients, including those of sharded parameters."""

import torch

from speechbrain_ext.utils.distributed import world_size


def total_gradient_norm(parameters):
    """The norm of all gradients, summed over processes if they are sharded.

    Arguments
    ---------
    parameters : list of torch.nn.Parameter
        Replicated parameters, and sharded ones (with an attribute ``shard``).

    Returns
    -------
    torch.Tensor
        The norm, a scalar.

    Example
    -------
    >>> parameter = torch.nn.Parameter(torch.zeros(2))
    >>> parameter.grad = torch.tensor([3.0, 4.0])
    >>> total_gradient_norm([parameter])
    tensor(5.)
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    split = [p.grad for p in with_gradient if hasattr(p, "shard")]
    norm = torch.nn.utils.get_total_norm(
        p.grad for p in with_gradient if not hasattr(p, "shard")
    )
    if split:
        squared = torch.nn.utils.get_total_norm(split).square()
        if world_size() > 1:
            torch.distributed.all_reduce(squared)
        norm = (norm.square() + squared).sqrt()
    return norm
