"""What the readers of published checkpoints share.

A reader describes modules and does not build them: for each module its maker
and arguments, and by which rule published keys become ours.
"""

import os
import pathlib
import pickle
import re
import zipfile

import torch

from speechbrain_ext.lobes.features import (
    KaldiFbank,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)
from speechbrain_ext.nnet import pooling as poolings

# Pooling by its published name, and its key for each published key
POOLINGS = {
    "TSTP": ("TemporalStatisticsPooling", {}),
    "TAP": ("TemporalAveragePooling", {}),
    "MAX": ("MaxPooling", {}),
    "ASTP": (
        "ChannelAttentiveStatisticsPooling",
        {"pool.linear1": "attention.0", "pool.linear2": "attention.2"},
    ),
    "SAP": (
        "SelfAttentivePooling",
        {"sap_linear": "linear", "attention": "attention"},
    ),
    "ASP": ("AttentiveStatisticsPooling", {"attention": "attention"}),
}
MOST_BANDS = 1024  # filterbanks; published networks have 40 to 81
WRAPPED = ("state_dict", "model_state_dict", "model")
# Keys of the training head and of front ends that hold no parameters
LEFT_OUT = ("projection.", "torchfb.", "instancenorm.")


def read_checkpoint(path):
    """Reads the tensors of a checkpoint, and never code.

    Arguments
    ---------
    path : str
        A file that torch.save wrote.

    Returns
    -------
    dict
        Tensors by key.

    Raises
    ------
    ValueError
        If the file is missing, unreadable or truncated, holds more than
        tensors, or unpacks to far more than its size.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model.pt"
    >>> torch.save({"weight": torch.ones(2)}, path)
    >>> read_checkpoint(path)
    {'weight': tensor([1., 1.])}
    """
    path = pathlib.Path(path)
    if not os.path.exists(path):
        raise ValueError(f"The checkpoint {path} does not exist.")
    if not os.path.isfile(path):
        raise ValueError(f"The checkpoint {path} must be a file, not a folder.")
    _refuse_inflation(path)
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    # torch's own words advise to load it unsafely: they are not repeated
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (it would call {called[1]})" if called else ""
        raise ValueError(
            f"{path} holds more than tensors{what}, or is no checkpoint, and "
            "was not read; ask its authors for a file of the weights alone."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    # a stranger's bytes can bring up any error
    except Exception as error:
        raise ValueError(
            f"{path} is truncated or no checkpoint; download it again."
        ) from error
    if not isinstance(state_dict, dict) or not state_dict:
        raise ValueError(
            f"{path} must hold a state dict (tensors by their names), got "
            f"{type(state_dict).__name__}."
        )
    return state_dict


def _refuse_inflation(path):
    """Raises where an archive holds far more than its file."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except Exception:  # not an archive, or a broken one: torch.load knows
        return
    if size > 2 * path.stat().st_size + 2**20:
        raise ValueError(
            f"{path} unpacks to {size} bytes, far more than its own size; "
            "checkpoints are not compressed, so it was not read."
        )


def network_tensors(state_dict):
    """The tensors of a network, each checked by itself.

    Arguments
    ---------
    state_dict : dict
        What was published, perhaps with a trainer's other entries.

    Returns
    -------
    dict
        Tensors by their published keys, without those of the training head.

    Raises
    ------
    ValueError
        If a value is not a dense tensor of finite numbers.

    Example
    -------
    >>> weight = torch.ones(1)
    >>> network_tensors({"model": {"a": weight, "projection.weight": weight}})
    {'a': tensor([1.])}
    """
    for name in WRAPPED:  # what trainers put a state dict into
        if isinstance(state_dict.get(name), dict):
            state_dict = state_dict[name]
    kept = {}
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise ValueError(
                f"`state_dict` must hold tensors alone, by their names, got "
                f"the key {str(key)[:80]}."
            )
        key = key.removeprefix("__S__.")  # Clova's trainer wraps its network
        if key.startswith((*LEFT_OUT, "__L__.")):
            continue
        problem = _problem(value)
        if problem:
            raise ValueError(
                "`state_dict` must hold tensors alone, dense ones of finite "
                f"numbers, but '{key[:80]}' {problem}."
            )
        kept[key] = value
    return kept


def _problem(value):
    """Why a network cannot have a value, or None."""
    if not torch.is_tensor(value):
        return f"is of type {type(value).__name__}"
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return "is sparse, nested or quantised; save it as a dense tensor"
    if value.is_complex():
        return "is complex"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"has fewer values than its shape {list(value.shape)} says"
    if not value.is_floating_point() and value.ndim:
        return f"has the type {str(value.dtype).removeprefix('torch.')}"
    # some 8-bit types know no isfinite
    if not value.double().isfinite().all():
        return "is not finite (NaN or infinity)"
    return None


def renamed_key(published, keys):
    """A published key as ours, by the first pattern that it matches.

    Arguments
    ---------
    published : str
        The published key.
    keys : dict
        Maps patterns to replacements, or to functions of the match.

    Returns
    -------
    str
        Our key; the published one where no pattern matches.

    Example
    -------
    >>> renamed_key("seg_1.bias", {r"seg_1\\.(.*)": r"embedding.\\1"})
    'embedding.bias'
    """
    for pattern, replacement in keys.items():
        match = re.fullmatch(pattern, published)
        if match and callable(replacement):
            return replacement(match)
        if match:
            return match.expand(replacement)
    return published


def module_blocks(model, arguments, clova=None):
    """The three modules, with Kaldi's front end or one of Clova's.

    Arguments
    ---------
    model : type
        The network.
    arguments : dict
        Its arguments, with ``input_size``.
    clova : tuple
        Maker and arguments of Clova's front end; None for Kaldi's.

    Returns
    -------
    dict
        (maker, arguments) of compute_features, mean_var_norm and
        embedding_model.

    Example
    -------
    >>> sorted(module_blocks(torch.nn.Identity, {"input_size": 80}))
    ['compute_features', 'embedding_model', 'mean_var_norm']
    """
    front, norm = clova, SentenceMeanVarNorm
    if clova is None:
        front = KaldiFbank, {"n_mels": arguments["input_size"]}
        norm = SentenceMeanNorm
    return {
        "compute_features": front,
        "mean_var_norm": (norm, {}),
        "embedding_model": (model, arguments),
    }


def raise_unknown(architecture, names):
    """Raises for a name that a family does not have.

    Arguments
    ---------
    architecture : str
        The name.
    names : sequence of str
        The names that the family has.

    Raises
    ------
    ValueError
        Always.

    Example
    -------
    >>> raise_unknown("ResNet9", ["ResNet34"])
    Traceback (most recent call last):
    ValueError: `architecture` must be one of ['ResNet34'], got 'ResNet9'.
    """
    raise ValueError(
        f"`architecture` must be one of {sorted(names)}, got {architecture!r}."
    )


def pooling_keys(name, arguments):
    """Puts a pooling into a network's arguments.

    Arguments
    ---------
    name : str
        Its published name, a key of POOLINGS.
    arguments : dict
        The network's arguments, which get ``pooling``.

    Returns
    -------
    dict
        The pooling's keys by the published ones, as patterns.

    Raises
    ------
    ValueError
        If there is no such pooling.

    Example
    -------
    >>> arguments = {}
    >>> pooling_keys("TSTP", arguments), arguments["pooling"].__name__
    ({}, 'TemporalStatisticsPooling')
    """
    if name not in POOLINGS:
        raise ValueError(
            f"The pooling must be one of {sorted(POOLINGS)}, got {name!r}."
        )
    attribute, keys = POOLINGS[name]
    arguments["pooling"] = getattr(poolings, attribute)
    return {
        rf"{re.escape(published)}(\..*)?": rf"pooling.{own}\1"
        for published, own in keys.items()
    }


def stage_key(match):
    """A key of a stage: published ones count from 1, ours from 0.

    Arguments
    ---------
    match : re.Match
        The stage's number and the rest of the key.

    Returns
    -------
    str
        Our key.

    Example
    -------
    >>> stage_key(re.fullmatch(r"layer(\\d)\\.(.*)", "layer1.0.bn1.bias"))
    'stages.0.0.bn1.bias'
    """
    return f"stages.{int(match[1]) - 1}.{match[2]}"
