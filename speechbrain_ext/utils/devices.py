"""Check of the device that a user has chosen."""

import functools
import importlib.util
import os
import pathlib
import shutil

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last: ARM


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


@functools.cache
def has_bf16(cpuinfo="/proc/cpuinfo"):
    """Whether the processor has instructions for bfloat16.

    Arguments
    ---------
    cpuinfo : str
        What Linux says of the processor.

    Returns
    -------
    bool | None
        None if it is not known.

    Example
    -------
    >>> has_bf16() in (True, False, None)
    True
    """
    try:
        lines = pathlib.Path(cpuinfo).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        key, _, flags = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86, ARM
            return not BF16_FLAGS.isdisjoint(flags.split())
    return None


def log_slow_bf16(device, precision):
    """Logs a warning if the processor computes bfloat16 by way of float32.

    Arguments
    ---------
    device : str
        Kind of the device, such as ``cpu``.
    precision : str
        What is computed in, such as ``bf16``.

    Example
    -------
    >>> log_slow_bf16("cpu", "fp32")
    """
    if device == "cpu" and precision == "bf16" and has_bf16() is False:
        logger.warning(
            "`precision` is bf16, but this processor has no instructions for "
            "it, so that bf16 is slower than fp32. --precision=fp32 is "
            "faster; the results differ slightly."
        )
