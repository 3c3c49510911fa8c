"""ResNets and Gemini DF-ResNets of WeSpeaker."""

import inspect
import math

from speechbrain_ext.integrations.golden_gemini import DF, df_resnet
from speechbrain_ext.integrations.state_dicts import (
    module_blocks,
    pooling_keys,
    raise_unknown,
    stage_key,
)
from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.nnet import pooling as poolings
from speechbrain_ext.utils.overrides import check_known

BASIC = {"ResNet18": (2, 2, 2, 2), "ResNet34": (3, 4, 6, 3)}
BOTTLENECK = {
    "ResNet50": (3, 4, 6, 3),
    "ResNet101": (3, 4, 23, 3),
    "ResNet152": (3, 8, 36, 3),
    "ResNet221": (6, 16, 48, 3),
    "ResNet293": (10, 20, 64, 3),
}


def describe(architecture, tensor, input_size):
    """Describes one of WeSpeaker's networks.

    Arguments
    ---------
    architecture : str | dict
        A published name such as ``ResNet34``, ``ResNet34_ASTP`` or
        ``Gemini_DF_ResNet114``, or the arguments of a ``ResNet``.
    tensor : callable
        Returns the tensor for a published key and a number of dimensions.
    input_size : int
        Number of filterbanks; None to infer it from the tensors.

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
    >>> shapes = {"conv1.weight": (4, 1, 3, 3), "seg_1.weight": (6, 640)}
    >>> def tensor(key, dimensions=2):
    ...     return torch.zeros(shapes[key])
    >>> blocks, _ = describe("ResNet34", tensor, None)
    >>> blocks["compute_features"][1]
    {'n_mels': 80}
    """
    names = [*BASIC, *BOTTLENECK, *(f"Gemini_DF_ResNet{n}" for n in DF)]
    if isinstance(architecture, str):
        name, _, pool = architecture.partition("_")
        if name == "Gemini":
            layers = pool.removeprefix("DF_ResNet")
            if layers not in DF:
                raise_unknown(architecture, names)
            return df_resnet(layers, tensor, "seg_1", 1e-7, input_size)
        if name not in {**BASIC, **BOTTLENECK}:
            raise_unknown(architecture, names)
        kind = "basic" if name in BASIC else "bottleneck"
        architecture = {"block_sizes": {**BASIC, **BOTTLENECK}[name]}
        architecture["block"] = kind
        pool_keys = pooling_keys(pool or "TSTP", architecture)
    elif isinstance(architecture, dict):
        pool_keys, known = {}, inspect.signature(ResNet).parameters
        for key in architecture:
            check_known(key, known, "`architecture`, arguments of a ResNet,")
    else:
        raise_unknown(architecture, names)
    channels = tensor("conv1.weight", 4).shape[0]
    embedding = tensor("seg_1.weight")
    expansion = 4 if architecture.get("block") == "bottleneck" else 1
    pooling = architecture.get("pooling", poolings.TemporalStatisticsPooling)
    # the last stage has 8 * channels maps
    maps = 8 * channels * expansion
    bins = embedding.shape[1] // (maps * pooling(maps).widening)
    strides = architecture.get("strides", (1, 2, 2, 2))
    in_frequency = [s if isinstance(s, int) else s[0] for s in strides]
    arguments = {
        "input_size": input_size or math.prod(in_frequency) * bins,
        "channels": channels,
        "lin_neurons": embedding.shape[0],
        **architecture,
    }
    keys = {
        r"seg_1\.(.*)": r"embedding.\1",
        r"layer(\d)\.(.*)": stage_key,
        **pool_keys,
    }
    return module_blocks(ResNet, arguments), keys
