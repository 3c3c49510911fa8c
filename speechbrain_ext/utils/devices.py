"""What the device can do that a user has chosen."""

import functools
import importlib.util
import os
import shutil

import torch
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)
DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu")
BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # the last: ARM


def check_device(name):
    """Raises if a device is not valid or does not exist on this machine.

    Arguments
    ---------
    name : str
        A name such as ``cpu`` or ``cuda:0``.

    Raises
    ------
    ValueError
        If PyTorch does not know the name, or cannot use such a device here.

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
    if kind in ("cpu", "cuda"):
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"`device` must exist on this machine, got {name!r}, which "
            "PyTorch cannot use here; pass --device=cpu."
        ) from error


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


def has_bf16():
    """Whether the processor has instructions for bfloat16.

    Returns
    -------
    bool | None
        None if PyTorch does not tell.

    Example
    -------
    >>> has_bf16() in (True, False, None)
    True
    """
    # not in torch 2.7
    found = getattr(torch.cpu, "get_capabilities", dict)()
    told = [found[name] for name in BF16 if name in found]
    return any(told) if told else None


def log_slow_bf16(device, precision):
    """Logs a warning if a processor computes bfloat16 without instructions.

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
            "it. Try --precision=fp32: it was faster where this was measured. "
            "The results differ slightly."
        )
