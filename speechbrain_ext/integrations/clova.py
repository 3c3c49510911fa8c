"""Networks of Clova's trainer, "In defence of metric learning"."""

from speechbrain_ext.integrations.state_dicts import (
    module_blocks,
    pooling_keys,
    raise_unknown,
    stage_key,
)
from speechbrain_ext.lobes.features import (
    LogMelSpectrogram,
    MagnitudeSpectrogram,
)
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.lobes.models.VGG import VGG


def describe(architecture, tensor, input_size):
    """Describes one of Clova's networks.

    Arguments
    ---------
    architecture : str
        ``ResNetSE34``, ``ResNetSE34L``, ``ResNetSE34V2`` or ``VGGVox``. The
        name of the pooling may follow: ``ResNetSE34V2_ASP``.
    tensor : callable
        Returns the tensor for a published key and a number of dimensions.
    input_size : int
        Number of filterbanks; defaults to the published one.

    Returns
    -------
    blocks : dict
        See ``module_blocks``.
    keys : dict
        See ``renamed_key``.

    Raises
    ------
    ValueError
        If the architecture is unknown, or a tensor is missing.

    Example
    -------
    >>> import torch
    >>> shapes = {"conv1.weight": (16, 1, 7, 7), "fc.weight": (512, 128)}
    >>> def tensor(key, dimensions=2):
    ...     return torch.zeros(shapes[key])
    >>> blocks, _ = describe("ResNetSE34L", tensor, None)
    >>> blocks["compute_features"][1]
    {'n_mels': 40}
    """
    name, _, pool = str(architecture).partition("_")
    pool = pool or ("ASP" if name == "ResNetSE34V2" else "SAP")
    arguments = {"lin_neurons": tensor("fc.weight").shape[0]}
    pool_keys = pooling_keys(pool, arguments)
    keys = {r"fc\.(.*)": r"embedding.\1", **pool_keys}
    if name == "VGGVox":
        arguments["input_size"] = input_size or 40
        keys |= {r"netcnn\.(\d+)\.(.*)": _vgg_layer}
        front = {"n_mels": arguments["input_size"], "window": "hann"}
        return module_blocks(VGG, arguments, (LogMelSpectrogram, front)), keys
    keys |= {
        r"layer(\d)\.(.*)\.downsample\.(.*)": _stage_shortcut,
        r"layer(\d)\.(.*)": stage_key,
    }
    arguments["channels"] = tensor("conv1.weight", 4).shape[0]
    front = {}
    if name == "ResNetSE34L":
        arguments["input_size"] = input_size or 40
    elif name == "ResNetSE34":
        thin = {"form": "thin", "strides": (1, 2, 2, 2)}
        arguments |= {"input_size": 257, **thin}
        front = (MagnitudeSpectrogram, {})
        return module_blocks(SEResNet, arguments, front), keys
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
        raise_unknown(architecture, known)
    front["n_mels"] = arguments["input_size"]
    return module_blocks(SEResNet, arguments, (LogMelSpectrogram, front)), keys


def _stage_shortcut(match):
    return f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.{match[3]}"


def _vgg_layer(match):
    """Maps an index in Clova's sequence to a layer and an index in it."""
    place = int(match[1])
    for layer, first in reversed(list(enumerate((0, 4, 8, 11, 14, 18)))):
        if place >= first:
            return f"layers.{layer}.{place - first}.{match[2]}"
    return match[0]
