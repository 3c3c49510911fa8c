"""Check of the device that a user has chosen."""

import functools
import importlib.util
import os
import shutil

import torch

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu")


def check_device(name):
    """Raises if a device is not valid or does not exist on this machine.

    Arguments
    ---------
    name : str
        A name such as ``cpu`` or ``cuda:0``.

    Raises
    ------
    ValueError
        If PyTorch does not know the name, or finds no such GPU.

    Example
    -------
    >>> check_device("cpu")
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or not (index.isdecimal() or kind == name):
        raise ValueError(
            f"`device` must be cpu, cuda or cuda:<number>, got {name!r}."
        )
    gpus = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= gpus:
        raise ValueError(
            f"`device` must exist on this machine, got {name!r}, but PyTorch "
            f"finds {gpus} GPUs; run nvidia-smi to check the driver, or pass "
            "--device=cpu."
        )


@functools.cache
def compiler_found(device):
    """Whether torch.compile finds what it needs.

    Arguments
    ---------
    device : str
        Kind of the device: "cpu" needs a C++ compiler, others need Triton.

    Returns
    -------
    bool
        True if it is there.

    Example
    -------
    >>> isinstance(compiler_found("cpu"), bool)
    True
    """
    if device == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    return importlib.util.find_spec("triton") is not None
