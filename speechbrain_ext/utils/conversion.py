"""Published checkpoints as SpeechBrain modules.

What is read are tensors: a state dict in, modules out, and a clear list of
the keys that do not fit.
"""

import torch

from speechbrain_ext.lobes.features import KaldiFbank, SentenceMeanNorm
from speechbrain_ext.lobes.models.ResNet import ResNet

WESPEAKER_RESNETS = {
    "ResNet18": (2, 2, 2, 2),
    "ResNet34": (3, 4, 6, 3),
}


def convert_checkpoint(family, architecture, state_dict):
    """Builds the modules of a published checkpoint and fills them.

    Arguments
    ---------
    family : str
        Where the checkpoint comes from: ``wespeaker``.
    architecture : str or dict
        The published name (``ResNet18``, ``ResNet34``), or the arguments of
        the network as a dict with ``block_sizes``, ``channels`` and
        ``lin_neurons``.
    state_dict : dict
        Tensors by their published keys. A training head (``projection.*``)
        is left out.

    Returns
    -------
    torch.nn.ModuleDict
        ``compute_features``, ``mean_var_norm`` and ``embedding_model``, as
        SpeechBrain's pretrained interface calls them.

    Raises
    ------
    ValueError
        If the family or architecture is unknown, or keys are missing, left
        over or of another shape: all of them are named.

    Example
    -------
    >>> state = {"conv1.weight": torch.zeros(4, 1, 3, 3)}
    >>> convert_checkpoint("wespeaker", "ResNet34", state)
    Traceback (most recent call last):
        ...
    ValueError: The checkpoint has no 'seg_1.weight': it is not of family \
'wespeaker'.
    """
    if family != "wespeaker":
        raise ValueError(f"`family` must be 'wespeaker', got {family!r}.")
    state_dict = {
        key: value
        for key, value in state_dict.items()
        if not key.startswith("projection.")
    }
    arguments = _wespeaker_arguments(architecture, state_dict)
    # float64 stays float64, so that nothing of the published numbers is lost
    model = ResNet(**arguments).to(state_dict["seg_1.weight"].dtype)
    _load(model, {_wespeaker_key(k): (k, v) for k, v in state_dict.items()})
    return torch.nn.ModuleDict(
        {
            "compute_features": KaldiFbank(n_mels=arguments["input_size"]),
            "mean_var_norm": SentenceMeanNorm(),
            "embedding_model": model,
        }
    )


def _wespeaker_arguments(architecture, state_dict):
    """The network's arguments, sizes read off the tensors."""
    for key in ("conv1.weight", "seg_1.weight"):
        if key not in state_dict:
            raise ValueError(
                f"The checkpoint has no '{key}': it is not of family "
                "'wespeaker'."
            )
    if isinstance(architecture, str):
        if architecture not in WESPEAKER_RESNETS:
            raise ValueError(
                f"`architecture` must be one of {sorted(WESPEAKER_RESNETS)}, "
                f"got {architecture!r}."
            )
        architecture = {"block_sizes": WESPEAKER_RESNETS[architecture]}
    sizes = {
        "channels": state_dict["conv1.weight"].shape[0],
        "lin_neurons": state_dict["seg_1.weight"].shape[0],
    }
    arguments = {**sizes, **architecture}
    # mean and deviation of 8 * channels maps of ceil(mels / 8) bins
    bins = state_dict["seg_1.weight"].shape[1] // (16 * sizes["channels"])
    arguments["input_size"] = bins * 8
    return arguments


def _wespeaker_key(key):
    """The key of this package for a key of WeSpeaker."""
    if key.startswith("seg_1."):
        return "embedding." + key.removeprefix("seg_1.")
    if key.startswith("layer"):
        stage, rest = key.removeprefix("layer").split(".", 1)
        return f"stages.{int(stage) - 1}.{rest}"
    return key


def _load(model, tensors):
    """Fills a model, or names every key that does not fit.

    Arguments
    ---------
    model : torch.nn.Module
        The model to fill.
    tensors : dict
        (published key, tensor) by the model's own key.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in tensors]
    for key, (published, value) in tensors.items():
        if key not in own:
            problems.append(f"left over {published}")
        elif own[key].shape != value.shape:
            problems.append(
                f"{published} of shape {list(value.shape)} instead of "
                f"{list(own[key].shape)}"
            )
    if problems:
        raise ValueError(
            f"The checkpoint does not fit the architecture in {len(problems)} "
            "places: " + "; ".join(problems) + "."
        )
    model.load_state_dict({k: value for k, (_, value) in tensors.items()})
