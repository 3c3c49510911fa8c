"""Collectives that carry gradients, and processes that end together.

Everything here works in one process too, and on gloo as on nccl. Gradients
follow one rule: ``DistributedDataParallel`` takes the mean of the processes'
gradients, so that what is computed of all processes' data, or of a part of
the classes, hands ``world_size`` times its gradient to what is replicated.
"""

import contextlib
import dataclasses
import datetime
import os
import sys

import torch
from speechbrain.utils.distributed import (
    if_main_process,
    infer_device,
    is_distributed_initialized,
)
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# The store that the processes met by: the first that fails counts up in it
_MET = {}


def rank():
    """The number of this process, 0 where there is but one.

    Returns
    -------
    int
        Counted from 0 over all machines.

    Example
    -------
    >>> rank()
    0
    """
    return torch.distributed.get_rank() if is_distributed_initialized() else 0


def world_size():
    """The number of processes, over all machines.

    Returns
    -------
    int
        1 where nothing is distributed.

    Example
    -------
    >>> world_size()
    1
    """
    if not is_distributed_initialized():
        return 1
    return torch.distributed.get_world_size()


def init_processes(run_opts):
    """Checks the device and joins the processes that torchrun started.

    Without a GPU they talk by gloo.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's options of the command line.

    Returns
    -------
    speechbrain.utils.run_opts.RunOptions
        The options, the backend being one that the device has.

    Raises
    ------
    ValueError
        If there is no such device, there are fewer GPUs than processes, or
        the processes cannot meet.

    Example
    -------
    >>> from speechbrain.utils.run_opts import RunOptions
    >>> init_processes(RunOptions(device="cpu"))["device"]
    'cpu'
    """
    _check_device(run_opts["device"])
    if "RANK" not in os.environ or "LOCAL_RANK" not in os.environ:
        return run_opts
    if (run_opts["device"] or infer_device()) == "cpu":
        run_opts = dataclasses.replace(run_opts, distributed_backend="gloo")
    elif int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
        raise ValueError(
            f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes on a "
            f"machine of {torch.cuda.device_count()} GPUs; lower "
            "`--nproc_per_node`, or pass --device=cpu."
        )
    else:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        _meet(run_opts["distributed_backend"])
    except (RuntimeError, ValueError) as error:
        place = f"{os.getenv('MASTER_ADDR')}:{os.getenv('MASTER_PORT')}"
        raise ValueError(
            f"The processes cannot meet at {place}: "
            f"{str(error).splitlines()[0]} Give torchrun another "
            "`--master_port`."
        ) from error
    return run_opts


def _check_device(name):
    """Raises where a device of the command line is not there."""
    if name is None:
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"`--device` must be cpu, cuda or cuda:<number>, got {name!r}."
        ) from error
    if device.type != "cuda":
        return
    if not torch.cuda.is_available():
        raise ValueError(
            f"`--device` is {name}, but PyTorch finds no GPU and driver; see "
            "what nvidia-smi says, or pass --device=cpu."
        )
    if (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"`--device` is {name}, but the GPUs are cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}."
        )


def _meet(backend):
    """Makes the group, apart from those of a launcher's earlier attempts."""
    store, number, processes = next(torch.distributed.rendezvous("env://"))
    # torchrun restarts processes with the store that it had: on gloo they
    # would look for the dead ones' addresses
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = torch.distributed.PrefixStore(f"attempt {attempt}", store)
    _MET["store"] = store
    torch.distributed.init_process_group(
        backend,
        store=store,
        rank=number,
        world_size=processes,
        timeout=datetime.timedelta(hours=2),  # a corpus may be prepared
    )


class CommonFailureError(ValueError):
    """An error that every process has raised, which one need report."""


def raise_on_all(function, *arguments):
    """Calls a function on every process; if one fails, all end with its error.

    Within the function ``raise_on_all(bool)`` waits for the other processes,
    and hears of one that has failed.

    Arguments
    ---------
    function : callable
        What is called, on every process. It may raise ValueError or OSError.
    *arguments : tuple
        What it is called with.

    Returns
    -------
    object
        What the function returned on this process.

    Raises
    ------
    CommonFailureError
        On every process, with the message of the first that failed. Where
        there is one process, its error.

    Example
    -------
    >>> raise_on_all(max, 1, 2)
    2
    """
    result, said = None, None
    try:
        result = function(*arguments)
    except CommonFailureError:  # of a call within: the others have it too
        raise
    except (ValueError, OSError) as error:
        if world_size() == 1:
            raise
        said = str(error)
    if world_size() > 1:
        every = [None] * world_size()
        torch.distributed.all_gather_object(every, said)
        for number, message in enumerate(every):
            if message is not None:
                where = f" (process {number})" if number else ""
                raise CommonFailureError(message + where)
    return result


def main_process_first(function, *arguments, once_per_node=False):
    """Calls a function on the main process, then on the others.

    The others find what the main process has written. If one fails, all end
    with its error.

    Arguments
    ---------
    function : callable
        What is called. It may raise ValueError or OSError.
    *arguments : tuple
        What it is called with.
    once_per_node : bool
        Call it on one process of each machine only. Machines without a
        shared disk write their own files.

    Returns
    -------
    object
        What the function returned on this process, or on the one of this
        machine that called it.

    Raises
    ------
    CommonFailureError
        On every process, with the message of the first that failed. Where
        there is one process, its error.

    Example
    -------
    >>> main_process_first(max, 1, 2)
    2
    """
    main = if_main_process()
    other = not main and (
        not once_per_node or os.environ.get("LOCAL_RANK") == "0"
    )
    result = None
    for turn in (main, other):
        made = raise_on_all(
            lambda turn=turn: function(*arguments) if turn else None
        )
        result = made if turn else result
    if not once_per_node or world_size() == 1:
        return result
    every = [None] * world_size()
    torch.distributed.all_gather_object(every, (main or other, result))
    # processes are numbered machine by machine: the last call up to this one
    return [made for called, made in every[: rank() + 1] if called][-1]


def exit_with_error(error):
    """Ends this process with code 1 and a message.

    Of several processes that fail, the first one's message is shown.

    Arguments
    ---------
    error : Exception
        What the user reads.

    Raises
    ------
    SystemExit
        Always.
    """
    if world_size() == 1:
        sys.exit(f"error: {error}")
    common = isinstance(error, (CommonFailureError, FloatingPointError))
    if rank() == 0 if common else _fails_first(error):
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    if common:
        # torchrun ends all once one has left: not before it is said
        shut_down_processes()
    sys.exit(1)


def _fails_first(error):
    """Whether no other process of the run has failed before."""
    store = _MET.get("store")
    if store is None:
        return True
    with contextlib.suppress(RuntimeError):
        if isinstance(error, ConnectionError):  # the other one may say more
            store.wait(["failed"], datetime.timedelta(seconds=3))
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # it has ended with the main process
        return True


def shut_down_processes():
    """Ends what ``init_processes`` began, once all have come here.

    Example
    -------
    >>> shut_down_processes()
    """
    if is_distributed_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def all_reduce_mean(value):
    """The mean of a number over the processes, without a gradient.

    Arguments
    ---------
    value : torch.Tensor
        Of the same shape on every process.

    Returns
    -------
    torch.Tensor
        Of the same shape.

    Example
    -------
    >>> all_reduce_mean(torch.tensor(2.0))
    tensor(2.)
    """
    if world_size() == 1:
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / world_size()


def all_gather(x, weight=1):
    """The rows of all processes, with gradients that travel back.

    Every process must hold as many rows. The gradient of a row is the sum
    over the processes of what they made of it, times ``weight``.

    Arguments
    ---------
    x : torch.Tensor
        Shape [rows, ...].
    weight : float
        Factor on the gradient: 1 where every process computes the whole loss
        of the gathered rows, ``world_size()`` where each computes a part.

    Returns
    -------
    torch.Tensor
        Shape [processes * rows, ...], in the order of the processes.

    Example
    -------
    >>> all_gather(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return x if world_size() == 1 else _Gather.apply(x, weight)


def all_reduce_sum(x):
    """The sum over the processes, the gradient being that of one's own part.

    Arguments
    ---------
    x : torch.Tensor
        This process's part, of the same shape on every process.

    Returns
    -------
    torch.Tensor
        Of the same shape, the same on every process.

    Example
    -------
    >>> all_reduce_sum(torch.tensor(2.0))
    tensor(2.)
    """
    return x if world_size() == 1 else _Sum.apply(x)


def replicated(x):
    """A replicated parameter of which each process uses a part.

    Arguments
    ---------
    x : torch.Tensor
        The parameter, in a module that DistributedDataParallel wraps.

    Returns
    -------
    torch.Tensor
        The same, its gradient times the number of processes: the mean that is
        taken later is then the sum.

    Example
    -------
    >>> replicated(torch.tensor(2.0))
    tensor(2.)
    """
    return x if world_size() == 1 else _Replicated.apply(x)


class _Gather(torch.autograd.Function):
    """All-gather; backwards the sum of all gradients of one's own rows."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        x = x.contiguous()
        every = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        torch.distributed.all_gather_into_tensor(every, x)
        return every

    @staticmethod
    def backward(ctx, gradient):
        rows = gradient.shape[0] // world_size()
        own = gradient.new_empty(rows, *gradient.shape[1:])
        torch.distributed.reduce_scatter_tensor(own, gradient.contiguous())
        return own * ctx.weight, None


class _Sum(torch.autograd.Function):
    """All-reduce; backwards nothing is exchanged."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class _Replicated(torch.autograd.Function):
    """Identity, the gradient times the number of processes."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * world_size()
