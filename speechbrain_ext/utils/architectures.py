"""Networks of published checkpoints, by their published names and keys.

What a name stands for is described, not built: makers and arguments of the
three modules, and by what rule published keys become ours.
"""

import functools
import re

import torch

from speechbrain_ext.lobes.features import (
    KaldiFbank,
    LogMelSpectrogram,
    MagnitudeSpectrogram,
    SentenceMeanNorm,
    SentenceMeanVarNorm,
)
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.lobes.models.VGG import VGG
from speechbrain_ext.nnet import pooling as poolings

BASIC = {"ResNet18": (2, 2, 2, 2), "ResNet34": (3, 4, 6, 3)}
BOTTLENECK = {
    "ResNet50": (3, 4, 6, 3),
    "ResNet101": (3, 4, 23, 3),
    "ResNet152": (3, 8, 36, 3),
    "ResNet221": (6, 16, 48, 3),
    "ResNet293": (10, 20, 64, 3),
}
DF = {
    "60": (3, 3, 9, 3),
    "114": (3, 3, 27, 3),
    "183": (3, 8, 45, 3),
    "237": (3, 8, 63, 3),
}
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


def described(family, architecture, state_dict, input_size=None):
    """Describes the modules of a published checkpoint.

    Arguments
    ---------
    family : str
        ``wespeaker``, ``golden_gemini`` or ``clova``.
    architecture : str or dict
        The published name, or the arguments of a ``ResNet``.
    state_dict : dict
        Tensors by their published keys.
    input_size : int
        Number of filterbanks, where it cannot be told from the tensors.

    Returns
    -------
    blocks : dict
        (maker, arguments) of compute_features, mean_var_norm and
        embedding_model.
    tensors : dict
        (published key, tensor) by the key of the embedding model.

    Raises
    ------
    ValueError
        If the family or architecture is unknown, a key is missing without
        which its sizes cannot be told, or a value is not a dense tensor of
        finite numbers.
    """
    families = {
        "wespeaker": _wespeaker,
        "golden_gemini": _golden_gemini,
        "clova": _clova,
    }
    if family not in families:
        raise ValueError(
            f"`family` must be one of {sorted(families)}, got {family!r}."
        )
    if isinstance(input_size, bool) or not (
        input_size is None
        or (isinstance(input_size, int) and 1 <= input_size <= MOST_BANDS)
    ):
        raise ValueError(
            f"`input_size` must be an integer from 1 to {MOST_BANDS}, got "
            f"{input_size!r}; it is the number of filterbanks, usually 80."
        )
    state_dict = _tensors(state_dict)

    def tensor(key, dimensions=2):
        what = f"of family {family!r} and architecture {architecture!r}"
        if key not in state_dict:
            raise ValueError(
                f"The checkpoint has no '{key}': it is not {what}."
            )
        shape = list(state_dict[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(
                f"The checkpoint's '{key}' must have {dimensions} dimensions, "
                f"none of them 0, got the shape {shape}: it is not {what}."
            )
        return state_dict[key]

    blocks, keys = families[family](architecture, tensor, input_size)
    bands = blocks["embedding_model"][1]["input_size"]
    if not 1 <= bands <= MOST_BANDS:
        raise ValueError(
            f"By the sizes of its tensors the checkpoint has {bands} "
            f"filterbanks, which must be 1 to {MOST_BANDS}; pass `input_size`, "
            "or check family and architecture."
        )
    return blocks, {
        _renamed(key, keys): (key, value) for key, value in state_dict.items()
    }


def _tensors(state_dict):
    """The tensors of a network, each checked by itself."""
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


def _renamed(published, keys):
    """A key by the first pattern that it matches, or as it is."""
    for pattern, replacement in keys.items():
        match = re.fullmatch(pattern, published)
        if match and callable(replacement):
            return replacement(match)
        if match:
            return match.expand(replacement)
    return published


def _blocks(model, arguments, clova=None):
    """The three modules, of Kaldi's front end or of one of Clova's."""
    front, norm = clova, SentenceMeanVarNorm
    if clova is None:
        front = KaldiFbank, {"n_mels": arguments["input_size"]}
        norm = SentenceMeanNorm
    return {
        "compute_features": front,
        "mean_var_norm": (norm, {}),
        "embedding_model": (model, arguments),
    }


def _unknown(architecture, names):
    raise ValueError(
        f"`architecture` must be one of {sorted(names)}, got {architecture!r}."
    )


def _wespeaker(architecture, tensor, input_size):
    """WeSpeaker's ResNets and Gemini DF-ResNets."""
    if isinstance(architecture, str):
        name, _, pool = architecture.partition("_")
        if name == "Gemini":
            layers = pool.removeprefix("DF_ResNet")
            if layers not in DF:
                _unknown(architecture, [f"Gemini_DF_ResNet{n}" for n in DF])
            return _df_resnet(layers, tensor, "seg_1", 1e-7, input_size)
        if name not in {**BASIC, **BOTTLENECK}:
            df = [f"Gemini_DF_ResNet{n}" for n in DF]
            _unknown(architecture, [*BASIC, *BOTTLENECK, *df])
        kind = "basic" if name in BASIC else "bottleneck"
        architecture = {"block_sizes": {**BASIC, **BOTTLENECK}[name]}
        architecture["block"] = kind
        pool_keys = _pooling(pool or "TSTP", architecture)
    elif isinstance(architecture, dict):
        pool_keys = {}
    else:
        _unknown(architecture, [*BASIC, *BOTTLENECK])
    channels = tensor("conv1.weight", 4).shape[0]
    embedding = tensor("seg_1.weight")
    expansion = 4 if architecture.get("block") == "bottleneck" else 1
    widening = architecture.get(
        "pooling", poolings.TemporalStatisticsPooling
    ).widening
    # of 8 * channels maps with an eighth of the filterbanks
    bins = embedding.shape[1] // (8 * channels * expansion * widening)
    arguments = {
        "input_size": input_size or 8 * bins,
        "channels": channels,
        "lin_neurons": embedding.shape[0],
        **architecture,
    }
    keys = {
        r"seg_1\.(.*)": r"embedding.\1",
        r"layer(\d)\.(.*)": _stage,
        **pool_keys,
    }
    return _blocks(ResNet, arguments), keys


def _golden_gemini(architecture, tensor, input_size):
    """The authors' DF-ResNets."""
    layers = str(architecture).removeprefix("Gemini_df_resnet")
    if layers not in DF or layers == architecture:
        _unknown(architecture, [f"Gemini_df_resnet{n}" for n in DF])
    return _df_resnet(layers, tensor, "embedding", 1e-10, input_size)


def _df_resnet(layers, tensor, embedding, epsilon, input_size):
    weight = tensor(f"{embedding}.weight")
    widths = [
        tensor(f"downsample_layers.{index}.0.weight", 4).shape[0]
        for index in range(5)
    ]
    bins = weight.shape[1] // (2 * widths[-1])
    arguments = {
        "input_size": input_size or 16 * bins,
        "block_sizes": DF[layers],
        "channels": widths,
        "lin_neurons": weight.shape[0],
    }
    if epsilon != 1e-7:
        arguments["pooling"] = functools.partial(
            poolings.TemporalStatisticsPooling, epsilon=epsilon
        )
    keys = {
        rf"{embedding}\.(.*)": r"embedding.\1",
        r"downsample_layers\.(.*)": r"downsampling.\1",
    }
    return _blocks(DFResNet, arguments), keys


def _clova(architecture, tensor, input_size):
    """Networks of "In defence of metric learning"."""
    name, _, pool = str(architecture).partition("_")
    pool = pool or ("ASP" if name == "ResNetSE34V2" else "SAP")
    arguments = {"lin_neurons": tensor("fc.weight").shape[0]}
    pool_keys = _pooling(pool, arguments)
    keys = {r"fc\.(.*)": r"embedding.\1", **pool_keys}
    if name == "VGGVox":
        arguments["input_size"] = input_size or 40
        keys |= {r"netcnn\.(\d+)\.(.*)": _vgg_layer}
        front = {"n_mels": arguments["input_size"], "window": "hann"}
        return _blocks(VGG, arguments, (LogMelSpectrogram, front)), keys
    keys |= {
        r"layer(\d)\.(.*)\.downsample\.(.*)": _stage_shortcut,
        r"layer(\d)\.(.*)": _stage,
    }
    arguments["channels"] = tensor("conv1.weight", 4).shape[0]
    front = {}
    if name == "ResNetSE34L":
        arguments["input_size"] = input_size or 40
    elif name == "ResNetSE34":
        thin = {"form": "thin", "strides": (1, 2, 2, 2)}
        arguments |= {"input_size": 257, **thin}
        front = (MagnitudeSpectrogram, {})
        return _blocks(SEResNet, arguments, front), keys
    elif name == "ResNetSE34V2":
        arguments |= {
            "input_size": input_size or 64,
            "form": "v2",
            "strides": (1, 2, 2, 2),
            "average_frequency": False,
        }
        front = {"pre_emphasis": 0.97}
    else:
        known = ["ResNetSE34", "ResNetSE34L", "ResNetSE34V2", "VGGVox"]
        _unknown(architecture, known)
    front["n_mels"] = arguments["input_size"]
    return _blocks(SEResNet, arguments, (LogMelSpectrogram, front)), keys


def _pooling(name, arguments):
    """Puts a pooling into a network's arguments; returns its key map."""
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


def _stage(match):
    return f"stages.{int(match[1]) - 1}.{match[2]}"


def _stage_shortcut(match):
    return f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.{match[3]}"


def _vgg_layer(match):
    """Places in Clova's one sequence as layer and place in it."""
    place = int(match[1])
    for layer, first in reversed(list(enumerate((0, 4, 8, 11, 14, 18)))):
        if place >= first:
            return f"layers.{layer}.{place - first}.{match[2]}"
    return match[0]
