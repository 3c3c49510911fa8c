"""Shared functions of the readers of published checkpoints.

A reader does not build modules. It gives the class and the arguments of each
module, and patterns that rename published keys to ours.
"""

import os
import pathlib
import re
import zipfile

import torch

from speechbrain_ext.lobes.features import (
    KaldiFbank,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)
from speechbrain_ext.nnet import pooling as poolings
from speechbrain_ext.utils.tensors import read_tensors

# Class of each published pooling, and our key for each published key
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
# Prefixes of the training head and of front ends without parameters
IGNORED = ("projection.", "torchfb.", "instancenorm.")


def read_checkpoint(path):
    """Reads the tensors of a checkpoint without running code from it.

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
        If the file is missing, unreadable or truncated, contains more than
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
        state_dict = read_tensors(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    if not isinstance(state_dict, dict) or not state_dict:
        raise ValueError(
            f"{path} must be a state dict (a dict of tensors), got "
            f"{type(state_dict).__name__}."
        )
    return state_dict


def _refuse_inflation(path):
    """Raises if an archive unpacks to far more than its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except Exception:  # not an archive, or a broken one: torch.load raises
        return
    if size > 2 * path.stat().st_size + 2**20:
        raise ValueError(
            f"{path} unpacks to {size} bytes, far more than its own size; "
            "checkpoints are not compressed, so it was not read."
        )


def network_tensors(state_dict):
    """The checked tensors of a network.

    Arguments
    ---------
    state_dict : dict
        The published dict, possibly with other entries of the trainer.

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
    for name in WRAPPED:  # keys under which trainers save a state dict
        if isinstance(state_dict.get(name), dict):
            state_dict = state_dict[name]
    kept = {}
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise ValueError(
                f"`state_dict` must have names as keys, got the key "
                f"{str(key)[:80]}."
            )
        key = key.removeprefix("__S__.")  # added by Clova's trainer
        if key.startswith((*IGNORED, "__L__.")):
            continue
        problem = _problem(value)
        if problem:
            raise ValueError(
                "`state_dict` must have only dense tensors of finite numbers, "
                f"but '{key[:80]}' {problem}."
            )
        kept[key] = value
    return kept


def _problem(value):
    """The reason why a value is not a valid tensor, or None."""
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
    # some 8-bit types do not support isfinite
    if not value.double().isfinite().all():
        return "is not finite (NaN or infinity)"
    return None


def renamed_key(published, keys):
    """Renames a published key by the first pattern that it matches.

    Arguments
    ---------
    published : str
        The published key.
    keys : dict
        Maps patterns to replacements, or to functions of the match.

    Returns
    -------
    str
        Our key; the published key if no pattern matches.

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
    """Describes the three modules of an encoder.

    Arguments
    ---------
    model : type
        Class of the network.
    arguments : dict
        Arguments of the network, including ``input_size``.
    clova : tuple
        Class and arguments of Clova's front end; defaults to Kaldi's.

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
    """Raises for an unknown architecture.

    Arguments
    ---------
    architecture : str
        The unknown name.
    names : sequence of str
        The valid names.

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
    """Adds a pooling to a network's arguments.

    Arguments
    ---------
    name : str
        Published name of the pooling, a key of POOLINGS.
    arguments : dict
        Arguments of the network; ``pooling`` is added in place.

    Returns
    -------
    dict
        Patterns of published keys, with our keys as replacements.

    Raises
    ------
    ValueError
        If the pooling is unknown.

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
    """Renames a key of a stage: published stages count from 1, ours from 0.

    Arguments
    ---------
    match : re.Match
        Number of the stage and the rest of the key.

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
