"""The check of a device, without a GPU and with two."""

import pytest
import torch

from speechbrain_ext.utils.devices import check_device


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_check_device_accepts(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(name)


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:", "cuda:one", ""])
def test_check_device_rejects_a_name(name):
    with pytest.raises(ValueError, match=f"must be cpu, .* got '{name}'"):
        check_device(name)


def test_check_device_rejects_a_missing_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="got 'cuda:2', but .* 2 GPUs"):
        check_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="got 'cuda', but .* 0 GPUs"):
        check_device("cuda")
