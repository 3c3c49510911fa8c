"""DF-ResNets of the authors of Golden Gemini (Liu et al., TASLP 2024)."""

import functools

from speechbrain_ext.integrations.state_dicts import (
    module_blocks,
    raise_unknown,
)
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.nnet import pooling as poolings

DF = {
    "60": (3, 3, 9, 3),
    "114": (3, 3, 27, 3),
    "183": (3, 8, 45, 3),
    "237": (3, 8, 63, 3),
}


def describe(architecture, tensor, input_size):
    """Describes one of the authors' DF-ResNets.

    Arguments
    ---------
    architecture : str
        ``Gemini_df_resnet60``, 114, 183 or 237.
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
    >>> describe("Gemini_df_resnet61", None, 80)
    Traceback (most recent call last):
    ValueError: `architecture` must be one of ['Gemini_df_resnet114', ...
    """
    layers = str(architecture).removeprefix("Gemini_df_resnet")
    if layers not in DF or layers == architecture:
        raise_unknown(architecture, [f"Gemini_df_resnet{n}" for n in DF])
    return df_resnet(layers, tensor, "embedding", 1e-10, input_size)


def df_resnet(layers, tensor, embedding, epsilon, input_size):
    """Describes a DF-ResNet from the sizes of its tensors.

    Arguments
    ---------
    layers : str
        Number of layers, a key of DF.
    tensor : callable
        Returns the tensor for a published key and a number of dimensions.
    embedding : str
        Published name of the last layer.
    epsilon : float
        Constant that the pooling adds to the variance.
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
        If a tensor is missing.

    Example
    -------
    >>> import torch
    >>> shapes = {
    ...     f"downsample_layers.{i}.0.weight": (8, 8, 3, 3) for i in range(5)
    ... }
    >>> shapes["seg_1.weight"] = (6, 80)
    >>> def tensor(key, dimensions=2):
    ...     return torch.zeros(shapes[key])
    >>> blocks, _ = df_resnet("60", tensor, "seg_1", 1e-7, None)
    >>> blocks["embedding_model"][1]["input_size"]
    80
    """
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
    return module_blocks(DFResNet, arguments), keys
