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
