"""The classes that may be built without trust."""

import importlib
import inspect

import pytest
import torch

from speechbrain_ext.inference import allowed_classes
from speechbrain_ext.inference.allowed_classes import find_allowed_class


@pytest.mark.parametrize("name", sorted(allowed_classes.MODULES))
def test_listed_modules_exist_and_open_nothing(name):
    """A class that may be built does not reach files, code or the network."""
    module = importlib.import_module(name)
    found = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, torch.nn.Module)
        and kind.__module__ == name
        and not kind.__name__.startswith("_")
    ]
    assert found
    for kind in found:
        assert find_allowed_class(f"{name}.{kind.__name__}") is kind
        source = inspect.getsource(kind.__init__)
        for word in (
            "open(",
            "eval(",
            "exec(",
            "import_module",
            "fetch(",
            "torch.load",
            "getattr(",
            "requests",
            "subprocess",
        ):
            assert word not in source, (kind, word)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "torch",
        "torch.nn",
        "torch.nn.functional.relu",
        "torch.nn.LazyLinear",
        "torch.nn.Module",
        "torch.nn.DataParallel",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.modules.os.system",
        "torch.nn.Linear.__init__",
        "torch.nn.utils.parametrize.ParametrizationList",
        "torch.jit.ScriptModule",
        "speechbrain_ext.lobes.features.torch",
        "speechbrain_ext.lobes.features.math.log",
        "speechbrain_ext.augment.noise.NoiseAndReverberation",
        "speechbrain.lobes.models.beats.BEATs",
        "speechbrain.nnet.CNN._Any",
        "speechbrain.utils.parameter_transfer.fetch",
        "os.system",
    ],
)
def test_find_allowed_class_rejects(name):
    with pytest.raises(ValueError, match="may be built without trust"):
        find_allowed_class(name)


def test_torch_layers_have_two_names():
    long = "torch.nn.modules.activation.ReLU"
    assert find_allowed_class(long) is find_allowed_class("torch.nn.ReLU")
