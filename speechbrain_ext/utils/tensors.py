"""Files of torch.save: read as tensors, never as code; of split modules too."""

import pickle

import torch
from speechbrain.utils.distributed import if_main_process


def read_tensors(path, mmap=False):
    """Reads a file of torch.save, and never code.

    Arguments
    ---------
    path : str | pathlib.Path
        The file.
    mmap : bool
        Whether tensors stay on the disk until they are used.

    Returns
    -------
    object
        What was saved, its tensors on the CPU.

    Raises
    ------
    ValueError
        If it is no such file, is truncated, or holds more than tensors.

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
        # without torch's advice to load it all the same
        raise ValueError(
            f"{path} is not a file of torch.save, or holds more than tensors "
            "(code, which is never run); it was not read."
        ) from error
    except Exception as error:  # as many kinds as there are broken files
        raise ValueError(
            f"{path} is truncated, or not a file of torch.save."
        ) from error


def require_no_nan(state, path, name=""):
    """Raises where a tensor holds what no training can go on with.

    Arguments
    ---------
    state : object
        What a file held: dicts of tensors, at any depth.
    path : pathlib.Path
        The file, to be named.
    name : str
        The key that led here.

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
    ValueError: layer.ckpt has values in weight that are NaN.
    """
    if isinstance(state, dict):
        for key, value in state.items():
            require_no_nan(value, path, f"{name}.{key}" if name else str(key))
    elif torch.is_tensor(state) and state.is_floating_point():
        if state.isnan().any():
            raise ValueError(f"{path.name} has values in {name} that are NaN.")


def save_unsharded(obj, path):
    """Saves a module or an optimiser as one that is not split.

    Every process must call this; the main one writes.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
        What is split over processes.
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
    """Loads this process's part of what ``save_unsharded`` saved, or anything.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
        What is split over processes.
    path : str
        The file.
    end_of_epoch : bool
        Not used; SpeechBrain's contract.
    """
    # mapped: of a large head only one's own rows are read
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
    obj.load_state_dict(state)


def is_split(obj):
    """Whether a module or optimiser is split over processes.

    Arguments
    ---------
    obj : object
        Anything that can be saved.

    Returns
    -------
    bool
        True where a parameter carries a ``shard``.

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
