"""Collectives with gradients, and errors that stop all processes.

Everything here also works with one process. ``DistributedDataParallel``
averages the gradients of the processes. If a process computes its loss from
the data of all processes, or from a part of the classes, it must therefore
pass ``world_size`` times its gradient to replicated parameters.
"""

import contextlib
import dataclasses
import datetime
import os
import sys
import time

import torch
from speechbrain.utils.distributed import (
    if_main_process,
    infer_device,
    is_distributed_initialized,
)
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.devices import check_device

logger = get_logger(__name__)

# The store of the process group; the first process that fails is marked there
_MET = {}


def rank():
    """The number of this process, 0 if there is only one.

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
        1 if training is not distributed.

    Example
    -------
    >>> world_size()
    1
    """
    if not is_distributed_initialized():
        return 1
    return torch.distributed.get_world_size()


def init_processes(run_opts):
    """Checks the device and initialises the process group under torchrun.

    On a CPU the backend is gloo.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        SpeechBrain's options from the command line.

    Returns
    -------
    speechbrain.utils.run_opts.RunOptions
        The options, with a backend that the device supports.

    Raises
    ------
    ValueError
        If the device does not exist, there are fewer GPUs than processes, or
        the processes cannot connect.

    Example
    -------
    >>> from speechbrain.utils.run_opts import RunOptions
    >>> init_processes(RunOptions(device="cpu"))["device"]
    'cpu'
    """
    check_device(run_opts["device"] or "cpu")
    if run_opts["device"] is None and infer_device().startswith("mps"):
        logger.info("The device is the CPU, because mps has no float64.")
        run_opts = dataclasses.replace(run_opts, device="cpu")
    if "RANK" not in os.environ or "LOCAL_RANK" not in os.environ:
        return run_opts
    # torchrun sets it; other launchers may not
    started = int(os.getenv("LOCAL_WORLD_SIZE", "1"))
    if (run_opts["device"] or infer_device()) == "cpu":
        run_opts = dataclasses.replace(run_opts, distributed_backend="gloo")
    elif started > torch.cuda.device_count():
        raise ValueError(
            f"torchrun started {started} processes on a machine with "
            f"{torch.cuda.device_count()} GPUs; lower `--nproc_per_node`, or "
            "pass --device=cpu."
        )
    elif started > 1 and run_opts["device"] not in (None, "cuda"):
        raise ValueError(
            f"`device` is {run_opts['device']}, but torchrun started {started} "
            "processes, which need a GPU each; leave --device out."
        )
    else:
        own = f"cuda:{int(os.environ['LOCAL_RANK'])}"
        torch.cuda.set_device(own)
        if run_opts["device"] == "cuda":  # SpeechBrain would take cuda:0
            run_opts = dataclasses.replace(run_opts, device=own)
    try:
        _meet(run_opts["distributed_backend"])
    except (RuntimeError, ValueError) as error:
        place = f"{os.getenv('MASTER_ADDR')}:{os.getenv('MASTER_PORT')}"
        raise ValueError(
            f"The processes cannot connect at {place}: "
            f"{str(error).splitlines()[0]} Pass another `--master_port` to "
            "torchrun."
        ) from error
    return run_opts


def _meet(backend):
    """Initialises the process group, also after a restart by torchrun."""
    store, number, processes = next(torch.distributed.rendezvous("env://"))
    # torchrun keeps its store when it restarts the processes: without a new
    # prefix, gloo would read the addresses of the dead ones
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = torch.distributed.PrefixStore(f"attempt {attempt}", store)
    _MET["store"] = store
    torch.distributed.init_process_group(
        backend,
        store=store,
        rank=number,
        world_size=processes,
        timeout=datetime.timedelta(hours=2),  # preparing a corpus takes long
    )


class CommonFailureError(ValueError):
    """An error that every process raises and only one reports."""


def raise_on_all(function, *arguments):
    """Calls a function on every process; if one fails, all raise its error.

    Inside the function, ``raise_on_all(bool)`` is a barrier that raises if
    another process has failed.

    Arguments
    ---------
    function : callable
        The function. It may raise ValueError or OSError.
    *arguments : tuple
        The arguments of the function.

    Returns
    -------
    object
        Return value of the function on this process.

    Raises
    ------
    CommonFailureError
        On every process, with the message of the first process that failed.
        With one process, the original error is raised.

    Example
    -------
    >>> raise_on_all(max, 1, 2)
    2
    """
    result, said = None, None
    try:
        result = function(*arguments)
    except CommonFailureError:  # of a nested call: all processes raise it
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

    The other processes find the files that the main process wrote. If one
    process fails, all raise its error.

    Arguments
    ---------
    function : callable
        The function. It may raise ValueError or OSError.
    *arguments : tuple
        The arguments of the function.
    once_per_node : bool
        Whether to call it on only one process per machine, for machines
        without a shared disk.

    Returns
    -------
    object
        Return value of the function on this process, or on the process of
        this machine that called it.

    Raises
    ------
    CommonFailureError
        If the function fails on a process, see ``raise_on_all``.

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
        made = raise_on_all(*((function, *arguments) if turn else (bool,)))
        result = made if turn else result
    if not once_per_node or world_size() == 1:
        return result
    every = [None] * world_size()
    torch.distributed.all_gather_object(every, (main or other, result))
    # processes are numbered machine by machine: the last call up to this one
    return [made for called, made in every[: rank() + 1] if called][-1]


def exit_with_error(error):
    """Ends this process with code 1 and a message.

    If several processes fail, only the message of the first is shown.

    Arguments
    ---------
    error : Exception
        The error to show.

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
        # torchrun kills the others when one exits: wait for the message
        shut_down_processes()
    sys.exit(1)


def _fails_first(error):
    """Whether this process is the first of the run that fails."""
    store = _MET.get("store")
    if store is None:
        return True
    with contextlib.suppress(RuntimeError):
        if isinstance(error, ConnectionError):  # the other knows the cause
            store.wait(["failed"], datetime.timedelta(seconds=3))
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # the store ended with the main process
        return True


def shut_down_processes():
    """Waits for all processes and destroys the process group.

    Example
    -------
    >>> shut_down_processes()
    """
    if is_distributed_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        time.sleep(0.1)  # gloo's threads need the interpreter to drop tensors


def all_reduce_mean(value):
    """Averages a tensor over the processes, without a gradient.

    Arguments
    ---------
    value : torch.Tensor
        A tensor, of the same shape on every process.

    Returns
    -------
    torch.Tensor
        The mean, of the same shape.

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
    """Gathers the rows of all processes, with gradients.

    Every process must have the same number of rows. The gradient of a row is
    the sum of its gradients on all processes, times ``weight``.

    Arguments
    ---------
    x : torch.Tensor
        Rows of this process, [rows, ...].
    weight : float
        Factor of the gradient: 1 if every process computes the whole loss of
        the gathered rows, ``world_size()`` if each computes a part of it.

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
    """Sums a tensor over the processes; the gradient passes unchanged.

    Arguments
    ---------
    x : torch.Tensor
        Summand of this process, of the same shape on every process.

    Returns
    -------
    torch.Tensor
        The sum, the same on every process.

    Example
    -------
    >>> all_reduce_sum(torch.tensor(2.0))
    tensor(2.)
    """
    return x if world_size() == 1 else _Sum.apply(x)


def replicated(x):
    """Multiplies the gradient of a parameter by the number of processes.

    It is for a replicated parameter of which each process uses only a part:
    ``DistributedDataParallel`` averages the gradients, but they must be summed.

    Arguments
    ---------
    x : torch.Tensor
        The parameter, in a module that DistributedDataParallel wraps.

    Returns
    -------
    torch.Tensor
        The same values.

    Example
    -------
    >>> replicated(torch.tensor(2.0))
    tensor(2.)
    """
    return x if world_size() == 1 else _Replicated.apply(x)


def _output(x):
    """A tensor changed in place, as an output that torch.compile can trace.

    Under torch.compile an autograd function that returns such a tensor itself
    passes no gradient; a copy does.
    """
    return x.clone() if torch.compiler.is_compiling() else x


class _Gather(torch.autograd.Function):
    """All-gather; the backward pass sums the gradients of the own rows."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        x = x.contiguous()
        every = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        torch.distributed.all_gather_into_tensor(every, x)
        return _output(every)

    @staticmethod
    def backward(ctx, gradient):
        rows = gradient.shape[0] // world_size()
        own = gradient.new_empty(rows, *gradient.shape[1:])
        torch.distributed.reduce_scatter_tensor(own, gradient.contiguous())
        return own * ctx.weight, None


class _Sum(torch.autograd.Function):
    """All-reduce; the backward pass does not communicate."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        torch.distributed.all_reduce(total)
        return _output(total)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class _Replicated(torch.autograd.Function):
    """Identity; the gradient is multiplied by the number of processes."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * world_size()
