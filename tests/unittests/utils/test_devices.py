"""The check of a device, without a GPU and with two; bf16."""

import logging

import pytest
import torch

from speechbrain_ext.utils import devices
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


@pytest.mark.parametrize("name", ["mps", "xpu", "hpu", "npu:1"])
def test_check_device_rejects_what_pytorch_cannot_use(name):
    if name == "mps" and torch.backends.mps.is_available():
        check_device(name)
        return
    with pytest.raises(ValueError, match=f"got '{name}', which PyTorch cannot"):
        check_device(name)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"architecture": "another"}, None),
    ],
)
def test_has_bf16(told, expected, monkeypatch):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: told, raising=False
    )
    assert devices.has_bf16() is expected


def test_older_torch_does_not_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert devices.has_bf16() is None


@pytest.mark.parametrize(
    ("device", "precision", "has", "warned"),
    [
        ("cpu", "bf16", False, True),
        ("cpu", "bf16", True, False),
        ("cpu", "bf16", None, False),
        ("cpu", "fp32", False, False),
        ("cuda", "bf16", False, False),
    ],
)
def test_slow_bf16_is_logged(
    device, precision, has, warned, monkeypatch, caplog
):
    monkeypatch.setattr(devices, "has_bf16", lambda: has)
    with caplog.at_level(logging.WARNING):
        devices.log_slow_bf16(device, precision)
    assert ("--precision=fp32" in caplog.text) is warned
