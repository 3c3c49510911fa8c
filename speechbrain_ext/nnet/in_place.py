"""Operations that write their result over their input while nothing is learned.

New memory costs more time than the arithmetic. With gradients they make new
tensors, so hooks on the layers before them see and keep their own outputs.
Without gradients, a hook that keeps the output of a batch norm must copy it.
"""

import torch


def relu(x):
    """ReLU of a tensor that is not needed any more.

    Arguments
    ---------
    x : torch.Tensor
        Any shape; overwritten if gradients are off.

    Returns
    -------
    torch.Tensor
        The same shape.

    Example
    -------
    >>> relu(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return torch.relu(x) if torch.is_grad_enabled() else torch.relu_(x)


def add(x, other):
    """Sum of a tensor that is not needed any more and another one.

    Arguments
    ---------
    x : torch.Tensor
        Any shape; overwritten if gradients are off.
    other : torch.Tensor
        The same shape; never overwritten.

    Returns
    -------
    torch.Tensor
        The same shape.

    Example
    -------
    >>> add(torch.ones(2), torch.ones(2))
    tensor([2., 2.])
    """
    return x + other if torch.is_grad_enabled() else x.add_(other)
