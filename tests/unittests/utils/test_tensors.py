"""Files of torch.save: tensors or a sentence, never code."""

import os
import pickle

import pytest
import torch
from hostile import sentence_or_result

from speechbrain_ext.utils.tensors import (
    is_split,
    load_sharded,
    read_tensors,
    require_no_nan,
    save_unsharded,
)


class Malicious:
    """Makes a file when it is read as a pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_is_not_run(form, tmp_path):
    path, trap = tmp_path / "weights.ckpt", tmp_path / "trap"
    state = {"weight": torch.ones(1), "trap": Malicious(trap)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    _, said = sentence_or_result(read_tensors, path)
    assert "weights.ckpt" in said and "no code was run" in said
    assert "weights_only" not in said
    assert not trap.exists()


WHOLE = {"weight": torch.ones(50), "steps": 3}


@pytest.mark.parametrize("bytes_", [0, 1, 100, 400, -1, -30])
def test_a_truncated_file_is_a_sentence(bytes_, tmp_path):
    path = tmp_path / "weights.ckpt"
    torch.save(WHOLE, path)
    path.write_bytes(path.read_bytes()[:bytes_])
    found, said = sentence_or_result(read_tensors, path)
    assert found is None and "weights.ckpt" in said


@pytest.mark.parametrize("content", [b"PK", b"garbage\n", b"\x80\x02K\x01."])
def test_what_is_no_file_of_tensors_is_a_sentence(content, tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_bytes(content)
    _, said = sentence_or_result(read_tensors, path)
    assert "weights.ckpt" in said
    with pytest.raises(IsADirectoryError):
        read_tensors(tmp_path)


def test_what_was_saved_comes_back(tmp_path):
    layer = torch.nn.Linear(2, 3)
    save_unsharded(layer, tmp_path / "layer.ckpt")
    other = torch.nn.Linear(2, 3)
    load_sharded(other, tmp_path / "layer.ckpt")
    assert torch.equal(layer.weight, other.weight)
    assert not is_split(layer) and not is_split("layer")


def test_nan_is_named(tmp_path):
    path = tmp_path / "optimizer.ckpt"
    state = {"state": {0: {"momentum": torch.tensor([1.0, float("nan")])}}}
    with pytest.raises(
        ValueError, match="er.ckpt contains NaN in state.0.momentum"
    ):
        require_no_nan(state, path)
    require_no_nan({"a": torch.tensor([float("inf")]), "b": "c"}, path)
    layer = torch.nn.Linear(2, 3)
    torch.nn.init.constant_(layer.bias, float("nan"))
    save_unsharded(layer, tmp_path / "layer.ckpt")
    with pytest.raises(ValueError, match="layer.ckpt contains NaN in bias"):
        load_sharded(torch.nn.Linear(2, 3), tmp_path / "layer.ckpt")


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_an_optimiser_keeps_its_own_arguments_and_loads_its_state(
    kind, tmp_path
):
    def made(rate, **arguments):
        layer = torch.nn.Linear(2, 1)
        one, two = layer.parameters()
        groups = [{"params": [one]}, {"params": [two], "weight_decay": 0.5}]
        return getattr(torch.optim, kind)(groups, lr=rate, **arguments)

    momenta = {"SGD": "momentum", "AdamW": "betas"}
    name = momenta[kind]
    old, new = (0.9, 0.5) if kind == "SGD" else ((0.9, 0.99), (0.5, 0.9))
    saved = made(0.3, weight_decay=0.1, **{name: old})
    for group in saved.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    saved.step()
    save_unsharded(saved, tmp_path / "optimizer.ckpt")
    loaded = made(0.7, weight_decay=0.2, **{name: new})
    load_sharded(loaded, tmp_path / "optimizer.ckpt")
    found = [(g["lr"], g["weight_decay"]) for g in loaded.param_groups]
    assert found == [(0.3, 0.2), (0.3, 0.5)]
    assert [g[name] for g in loaded.param_groups] == [new, new]
    states = saved.state_dict()["state"], loaded.state_dict()["state"]
    assert all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][n][key]))
        for n, entries in states[0].items()
        for key, value in entries.items()
    )
