"""Safe loading of torch.save files, and saving of sharded modules."""

import inspect
import pickle
import re

import torch
from speechbrain.utils.distributed import if_main_process


def read_tensors(path, mmap=False):
    """Reads a file of torch.save without running code from it.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.
    mmap : bool
        Whether tensors stay on the disk until they are used.

    Returns
    -------
    object
        The saved object, with its tensors on the CPU.

    Raises
    ------
    ValueError
        If the file was not written by torch.save, is truncated, or contains
        more than tensors.

    Example
    -------
    >>> path = getfixture("tmp_path") / "weights.ckpt"
    >>> torch.save({"weight": torch.ones(2)}, path)
    >>> read_tensors(path)
    {'weight': tensor([1., 1.])}
    """
    try:
        return torch.load(
            path, map_location="cpu", mmap=mmap, weights_only=True
        )
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        # torch's message advises to load the file in spite of the danger
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" (it would call {called[1]})" if called else ""
        raise ValueError(
            f"{path} is not a file of torch.save, or contains more than "
            f"tensors{what}; it was not read, and no code was run."
        ) from error
    except Exception as error:  # a broken file can raise anything
        raise ValueError(
            f"{path} is truncated, or not a file of torch.save."
        ) from error


def require_no_nan(state, path, name=""):
    """Raises if a tensor contains NaN.

    Arguments
    ---------
    state : object
        A state dict; dicts may be nested.
    path : pathlib.Path
        The file that it was read from, for the error message.
    name : str
        Key of ``state`` in the outer dict.

    Raises
    ------
    ValueError
        If a value is NaN.

    Example
    -------
    >>> import pathlib
    >>> state = {"weight": torch.tensor([1.0, float("nan")])}
    >>> require_no_nan(state, pathlib.Path("layer.ckpt"))
    Traceback (most recent call last):
    ValueError: layer.ckpt contains NaN in weight.
    """
    if isinstance(state, dict):
        for key, value in state.items():
            require_no_nan(value, path, f"{name}.{key}" if name else str(key))
    elif torch.is_tensor(state) and state.is_floating_point():
        if state.isnan().any():
            raise ValueError(f"{path.name} contains NaN in {name}.")


def save_unsharded(obj, path):
    """Saves a sharded module or its optimiser unsharded.

    Every process must call this; the main process writes the file.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
        The sharded module, or its optimiser.
    path : str
        The file.
    """
    state = obj.state_dict()
    if isinstance(obj, torch.nn.Module):
        for name, parameter in obj.named_parameters():
            if hasattr(parameter, "shard"):
                state[name] = parameter.shard.whole(parameter)
    else:
        for number, parameter in enumerate(_parameters(obj)):
            entries = state["state"].get(number, {})
            if hasattr(parameter, "shard"):
                state["state"][number] = {
                    key: parameter.shard.whole(value)
                    if torch.is_tensor(value) and value.dim()
                    else value
                    for key, value in entries.items()
                }
    if if_main_process():
        torch.save(state, path)


def load_sharded(obj, path, end_of_epoch=True):
    """Loads a state dict; of a sharded object, the shard of this process.

    An optimiser keeps the arguments that it was made with, such as
    ``weight_decay``, apart from the learning rate.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
        The module or optimiser, sharded or not.
    path : str
        The file.
    end_of_epoch : bool
        Ignored; SpeechBrain passes it.
    """
    # with mmap, only the rows of this process's shard are read
    state = read_tensors(path, mmap=is_split(obj))
    require_no_nan(state, path)
    if isinstance(obj, torch.optim.Optimizer):
        for number, parameter in enumerate(_parameters(obj)):
            entries = state["state"].get(number, {})
            if hasattr(parameter, "shard"):
                state["state"][number] = {
                    key: parameter.shard.own(value).clone()
                    if torch.is_tensor(value) and value.dim()
                    else value
                    for key, value in entries.items()
                }
    if not isinstance(obj, torch.optim.Optimizer):
        obj.load_state_dict(state)
        return
    # torch would bring back the arguments of the run that was saved
    arguments = inspect.signature(type(obj)).parameters.keys()
    arguments -= {"params", "lr"}
    made = [
        {name: group[name] for name in arguments & group.keys()}
        for group in obj.param_groups
    ]
    obj.load_state_dict(state)
    for group, own in zip(obj.param_groups, made, strict=True):
        group.update(own)


def is_split(obj):
    """Whether a module or optimiser is sharded over processes.

    Arguments
    ---------
    obj : object
        Any object.

    Returns
    -------
    bool
        True if one of its parameters has the attribute ``shard``.

    Example
    -------
    >>> is_split(torch.nn.Linear(2, 3))
    False
    """
    known = isinstance(obj, (torch.nn.Module, torch.optim.Optimizer))
    return known and any(hasattr(p, "shard") for p in _parameters(obj))


def _parameters(obj):
    if isinstance(obj, torch.nn.Module):
        return list(obj.parameters())
    return [p for group in obj.param_groups for p in group["params"]]
