"""The classes that a folder may name if it is loaded without trust.

None of them opens a file, uses the network or calls a function that it gets
by name. A class must be defined in a listed module; a name that the module
only imports is refused.
"""

import importlib

import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.dataio.preprocess import AudioNormalizer

# Of these modules, every public subclass of torch.nn.Module
MODULES = {
    "speechbrain_ext.inference.speech",
    "speechbrain_ext.lobes.features",
    "speechbrain_ext.lobes.models.DFResNet",
    "speechbrain_ext.lobes.models.ResNet",
    "speechbrain_ext.lobes.models.SEResNet",
    "speechbrain_ext.lobes.models.TDNN",
    "speechbrain_ext.lobes.models.VGG",
    "speechbrain_ext.lobes.models.blocks",
    "speechbrain_ext.nnet.classifiers",
    "speechbrain_ext.nnet.normalization",
    "speechbrain_ext.nnet.pooling",
    "speechbrain.lobes.features",
    "speechbrain.lobes.models.CRDNN",
    "speechbrain.lobes.models.ECAPA_TDNN",
    "speechbrain.lobes.models.ResNet",
    "speechbrain.lobes.models.Xvector",
    "speechbrain.nnet.CNN",
    "speechbrain.nnet.RNN",
    "speechbrain.nnet.activations",
    "speechbrain.nnet.attention",
    "speechbrain.nnet.containers",
    "speechbrain.nnet.dropout",
    "speechbrain.nnet.embedding",
    "speechbrain.nnet.linear",
    "speechbrain.nnet.normalization",
    "speechbrain.nnet.pooling",
    "speechbrain.processing.features",
}
# Parts of torch.nn whose layers are no plain layers
NOT_OF_TORCH = ("lazy", "module")


class PretrainerFiles:
    """What SpeechBrain's Pretrainer is told, without its hooks.

    Arguments
    ---------
    loadables : dict
        Objects to load, by name.
    paths : dict
        Where the folder says that their files are, by name.
    collect_in : str
        Ignored: nothing is collected.

    Example
    -------
    >>> PretrainerFiles({"a": torch.nn.Identity()}).paths
    {}
    """

    def __init__(self, loadables=None, paths=None, collect_in=None):
        self.loadables = {} if loadables is None else loadables
        self.paths = {} if paths is None else paths
        for name, value in (("loadables", loadables), ("paths", paths)):
            if not isinstance(value, (dict, type(None))):
                raise ValueError(f"`{name}` must be a mapping, got {value!r}.")


PLAIN = {
    "speechbrain.dataio.encoder.CategoricalEncoder": CategoricalEncoder,
    "speechbrain.dataio.preprocess.AudioNormalizer": AudioNormalizer,
    "speechbrain.utils.parameter_transfer.Pretrainer": PretrainerFiles,
}


def find_allowed_class(name):
    """Finds a class by its name if a folder may use it without trust.

    Arguments
    ---------
    name : str
        Such as ``torch.nn.Linear``.

    Returns
    -------
    type
        The class. SpeechBrain's Pretrainer is replaced by
        ``PretrainerFiles``.

    Raises
    ------
    ValueError
        If it is not on the list.

    Example
    -------
    >>> find_allowed_class("torch.nn.Linear")
    <class 'torch.nn.modules.linear.Linear'>
    >>> find_allowed_class("subprocess.Popen")
    Traceback (most recent call last):
    ValueError: 'subprocess.Popen' is not a class that may be built without...
    """
    if name in PLAIN:
        return PLAIN[name]
    module, _, word = name.rpartition(".")
    found = None
    if module in MODULES and not word.startswith("_"):
        found = vars(importlib.import_module(module)).get(word)
    elif module == "torch.nn" or module.startswith("torch.nn.modules."):
        found = _of_torch(module, word)
        module = getattr(found, "__module__", module)
    if (
        isinstance(found, type)
        and issubclass(found, torch.nn.Module)
        and found.__module__ == module
    ):
        return found
    raise ValueError(
        f"{name[:100]!r} is not a class that may be built without trust"
    )


def _of_torch(module, word):
    """A layer of torch.nn, or None."""
    found = vars(torch.nn).get(word)
    home = getattr(found, "__module__", "")
    part = home.removeprefix("torch.nn.modules.")
    if part == home or part in NOT_OF_TORCH or word.startswith("Lazy"):
        return None
    return found if module in ("torch.nn", home) else None
