"""Weights of a folder that is not trusted: tensors and nothing else."""

import importlib.util
import json
import math
import pickletools
import zipfile

import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.tensors import read_tensors

logger = get_logger(__name__)

LARGEST_PICKLE = 2**22  # bytes; names and shapes of 20,000 tensors need 2 MB
LARGEST_HEADER = 2**22  # bytes of a safetensors file
# What the pickle of a state dict names
PICKLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}
PICKLED |= {
    f"torch {kind}Storage"
    for kind in (
        *("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short"),
        *("Char", "Byte", "Bool"),
    )
}


def has_safetensors():
    """Whether the optional package safetensors is installed.

    Returns
    -------
    bool
        True if it can be imported.

    Example
    -------
    >>> isinstance(has_safetensors(), bool)
    True
    """
    return importlib.util.find_spec("safetensors") is not None


def read_untrusted_tensors(path):
    """Reads a state dict from a file of an unknown author.

    Tensors stay on the disk until they are used. No code is run, and the
    memory is bounded by the size of the file.

    Arguments
    ---------
    path : pathlib.Path
        A file of safetensors, or of torch.save (zip format).

    Returns
    -------
    dict
        Tensors by name; numbers of SpeechBrain's normalization are kept.

    Raises
    ------
    ValueError
        If the file is truncated, names anything but tensors, or declares
        more values than it has.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.ckpt"
    >>> torch.save({"weight": torch.ones(2)}, path)
    >>> read_untrusted_tensors(path)
    {'weight': tensor([1., 1.])}
    >>> torch.save({"weight": torch.ones(1).expand(10**9)}, path)
    >>> read_untrusted_tensors(path)
    Traceback (most recent call last):
    ValueError: ...a.ckpt declares 1000000000 values in weight, but has fewer.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _require_plain_archive(path)
    state = read_tensors(path, mmap=True)
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} must be a state dict, got a {type(state).__name__}; "
            "export it again."
        )
    for name, value in state.items():
        _check_entry(path, name, value)
    return dict(state)


def require_finite(state, path):
    """Raises if a weight is not finite or a variance is negative.

    Arguments
    ---------
    state : dict
        Tensors by name.
    path : pathlib.Path
        Their file, for the error message.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or a running variance is below 0.

    Example
    -------
    >>> require_finite({"weight": torch.tensor([float("nan")])}, "a.ckpt")
    Traceback (most recent call last):
    ValueError: a.ckpt has weights that are not finite in 1 of 1 tensors \
(weight); the training diverged: use an earlier checkpoint, or train again.
    """
    bad = [
        name
        for name, value in state.items()
        if not torch.as_tensor(value).isfinite().all()
    ]
    if bad:
        raise ValueError(
            f"{path} has weights that are not finite in {len(bad)} of "
            f"{len(state)} tensors ({', '.join(bad[:3])}); the training "
            "diverged: use an earlier checkpoint, or train again."
        )
    for name, value in state.items():
        if name.endswith("running_var") and (value < 0).any():
            raise ValueError(
                f"{path} has a variance below 0 in {name}; export it again."
            )


def check_fit(own, state, file):
    """Raises if tensors are missing or have another shape or kind.

    Tensors that the module does not have are logged and ignored.

    Arguments
    ---------
    own : dict
        Tensors of the module by name, which may be on the meta device.
    state : dict
        Tensors of the file by name.
    file : pathlib.Path
        The file, for the error message.

    Raises
    ------
    ValueError
        If a tensor is missing or different.

    Example
    -------
    >>> own = {"weight": torch.empty(2, 2, device="meta")}
    >>> check_fit(own, {"weight": torch.ones(2, 2)}, "a.ckpt")
    >>> check_fit(own, {}, "a.ckpt")
    Traceback (most recent call last):
    ValueError: a.ckpt lacks 1 tensors of the folder's hyperparams.yaml, for \
example weight; export it again.
    """
    wrong = [
        f"{key}: {_kind(state[key])} instead of {_kind(value)}"
        for key, value in own.items()
        if key in state and _kind(state[key]) != _kind(value)
    ]
    if wrong:
        raise ValueError(
            f"{file} does not fit the folder's hyperparams.yaml in "
            f"{len(wrong)} tensors, for example {wrong[0]}. Export the folder "
            "again."
        )
    missing = [
        key
        for key in own
        if key not in state and "num_batches_tracked" not in key
    ]
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} tensors of the folder's "
            f"hyperparams.yaml, for example {missing[0]}; export it again."
        )
    more = [key for key in state if key not in own]
    if more:
        logger.warning(
            f"{file} has {len(more)} tensors that are not in the modules of "
            f"hyperparams.yaml, for example {more[0]}; they are ignored."
        )


def _kind(value):
    """Shape of a tensor, and whether it has fractions."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    words = "fractions" if value.is_floating_point() else "whole numbers"
    return f"{list(value.shape)} {words}"


def read_statistics(state, file):
    """Checks the statistics of SpeechBrain's InputNormalization.

    Arguments
    ---------
    state : dict
        ``count``, ``glob_mean`` and ``glob_std``.
    file : pathlib.Path
        The file, for the error message.

    Returns
    -------
    dict
        These three.

    Raises
    ------
    ValueError
        If one is missing, not finite, or has several rows.

    Example
    -------
    >>> state = {"count": 2, "glob_mean": torch.zeros(3)}
    >>> sorted(read_statistics({**state, "glob_std": torch.ones(3)}, "a.ckpt"))
    ['count', 'glob_mean', 'glob_std']
    """
    values = {key: state.get(key) for key in ("glob_mean", "glob_std")}
    for key, value in values.items():
        if (
            not isinstance(value, torch.Tensor)
            or not value.is_floating_point()
            or value.numel() != value.shape[-1:].numel()
            or value.numel() > 2**16
        ):
            raise ValueError(f"{file} must have one row of `{key}`.")
    require_finite(values, file)
    count = state.get("count")
    if type(count) is not int:
        raise ValueError(f"{file} must have a whole number as `count`.")
    return {**values, "count": count}


def _require_plain_archive(path):
    """Raises unless a file of torch.save is not packed and names tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = any(
                entry.compress_type or entry.file_size != entry.compress_size
                for entry in entries
            )
            pickles = [e for e in entries if e.filename.endswith("data.pkl")]
            if packed or len(pickles) != 1:
                raise ValueError("packed, or not one data.pkl")
            if pickles[0].file_size > LARGEST_PICKLE:
                raise ValueError("its data.pkl is too large")
            pickled = archive.read(pickles[0])
        named = _pickled_names(pickled)
    except OSError:
        raise
    except zipfile.BadZipFile as error:
        with open(path, "rb") as stream:
            begun = stream.read(2) in (b"PK", b"")
        if begun:
            raise ValueError(
                f"{path} is truncated, or not a file of torch.save."
            ) from error
        raise ValueError(
            f"{path} is not a file of torch.save, or contains more than "
            "tensors; it was not read, and no code was run."
        ) from error
    except Exception as error:  # a broken file can raise anything
        raise ValueError(
            f"{path} is truncated, or not a file of torch.save ({error})."
        ) from error
    refused = sorted(named - PICKLED)
    if refused:
        raise ValueError(
            f"{path} is not a file of torch.save, or contains more than "
            f"tensors (it names {refused[0].replace(' ', '.')[:60]}); it was "
            "not read, and no code was run."
        )


def _pickled_names(pickled):
    """The classes and functions that a pickle names."""
    named = set()
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "GLOBAL":
            named.add(argument)
        elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            named.add(f"{code.name} {argument or ''}".strip())
    return named


def _check_entry(path, name, value):
    """Raises unless an entry is a dense tensor that the file holds."""
    if not isinstance(name, str):
        raise ValueError(f"{path} has a key that is not a name; export again.")
    if type(value) in (int, float, bool):
        return
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{path} has a {type(value).__name__} in {name}; it may only have "
            "tensors."
        )
    if value.layout is not torch.strided or value.device.type != "cpu":
        raise ValueError(f"{path} has no dense tensor in {name}.")
    held = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > held:
        raise ValueError(
            f"{path} declares {value.numel()} values in {name}, but has fewer."
        )


def _read_safetensors(path):
    """The tensors of a safetensors file, whose header is checked first."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(LARGEST_HEADER, size - 8):
            raise ValueError(f"{path} is truncated, or not safetensors.")
        header = stream.read(length)
    try:
        declared = json.loads(header)
        declared.pop("__metadata__", None)
        most = max(
            (math.prod(entry["shape"]) for entry in declared.values()),
            default=0,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} has a broken header.") from error
    except RecursionError as error:
        raise ValueError(f"{path} has a broken header.") from error
    if most > size:
        raise ValueError(
            f"{path} declares {most} values in a tensor, but has {size} bytes."
        )
    if not has_safetensors():
        raise ValueError(f"{path} needs a package: pip install safetensors.")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is truncated, or not safetensors "
            f"({' '.join(str(error).split())[:200]})."
        ) from error
