"""Weights of a folder that is not trusted."""

import json
import struct

import pytest
import torch

from speechbrain_ext.inference.safe_weights import (
    check_fit,
    has_safetensors,
    read_statistics,
    read_untrusted_tensors,
)

needs_safetensors = pytest.mark.skipif(
    not has_safetensors(), reason="safetensors is not installed"
)
KINDS = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool]


@pytest.mark.parametrize("kind", KINDS)
def test_ckpt_round_trip(kind, tmp_path):
    state = {"a": torch.ones(2, 3).to(kind), "b": torch.arange(6)[::2]}
    torch.save(state, tmp_path / "a.ckpt")
    found = read_untrusted_tensors(tmp_path / "a.ckpt")
    torch.testing.assert_close(found, state, rtol=0, atol=0)


def test_module_and_its_parameters_round_trip(tmp_path):
    layer = torch.nn.BatchNorm1d(3)
    for state in (layer.state_dict(), dict(layer.named_parameters())):
        torch.save(state, tmp_path / "a.ckpt")
        found = read_untrusted_tensors(tmp_path / "a.ckpt")
        assert found.keys() == state.keys()


@needs_safetensors
def test_safetensors_round_trip(tmp_path):
    from safetensors.torch import save_file

    state = {"a": torch.ones(2, 3), "b": torch.arange(3)}
    save_file(state, tmp_path / "a.safetensors")
    found = read_untrusted_tensors(tmp_path / "a.safetensors")
    torch.testing.assert_close(found, state, rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"{]}}",
        struct.pack("<Q", 8) + json.dumps({"a": 3}).encode(),
        struct.pack("<Q", 90) + b"[" * 90,
    ],
)
def test_read_safetensors_rejects_a_header(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.safetensors"):
        read_untrusted_tensors(path)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.ones(3), "\\[3\\] fractions instead of \\[2\\] fractions"),
        (torch.ones(2).long(), "\\[2\\] whole numbers instead"),
        (3, "int instead of"),
    ],
)
def test_check_fit_rejects(value, match):
    own = {"a": torch.empty(2, device="meta")}
    with pytest.raises(ValueError, match=match):
        check_fit(own, {"a": value}, "a.ckpt")


def test_check_fit_says_what_it_ignores(caplog):
    own = {"a": torch.empty(2, device="meta")}
    check_fit(own, {"a": torch.ones(2), "b": torch.ones(1)}, "a.ckpt")
    assert "a.ckpt has 1 tensors that are not in the modules" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"glob_mean": torch.zeros(10**3, 2)},
        {"glob_mean": torch.full((2,), float("nan"))},
        {"glob_std": 3.0},
        {"count": torch.ones(1)},
        {"count": None},
    ],
)
def test_read_statistics_rejects(change):
    state = {"count": 1, "glob_mean": torch.zeros(2), "glob_std": torch.ones(2)}
    assert read_statistics(state, "a.ckpt") == state
    with pytest.raises(ValueError, match="a.ckpt"):
        read_statistics({**state, **change}, "a.ckpt")
