"""Checkpoints that are whole or not there, of one process and of many."""

import logging

import pytest
import torch
from processes import on_processes

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.checkpoints import (
    WholeCheckpointer,
    damage,
    load_whole,
    save_whole,
)


@pytest.fixture
def saved(tmp_path):
    """A checkpointer with two checkpoints of a layer, of ones and of twos."""
    layer = torch.nn.Linear(3, 2)
    checkpointer = WholeCheckpointer(tmp_path, {"layer": layer})
    for value in (1.0, 2.0):
        torch.nn.init.constant_(layer.weight, value)
        checkpointer.save_checkpoint(
            meta={"value": value}, name=f"of{value:.0f}"
        )
    torch.nn.init.zeros_(layer.weight)
    return checkpointer, layer


def cut(path):
    """Takes a file's last bytes away."""
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("spoil", "flaw"),
    [
        (lambda path: cut(path / "layer.ckpt"), "layer.ckpt has"),
        (lambda path: (path / "layer.ckpt").unlink(), "layer.ckpt is missing"),
        (lambda path: cut(path / "CKPT.yaml"), "CKPT.yaml has"),
        (lambda path: (path / "CKPT.yaml").unlink(), "CKPT.yaml is missing"),
        (lambda path: cut(path / "sums.json"), "sums.json is cut"),
        (
            lambda path: (path / "layer.ckpt").write_bytes(
                bytes((path / "layer.ckpt").stat().st_size)
            ),
            "another checksum",
        ),
    ],
)
def test_a_cut_checkpoint_is_set_aside_for_the_one_before(
    spoil, flaw, saved, caplog
):
    checkpointer, layer = saved
    path = checkpointer.find_checkpoint().path
    assert path.name == "CKPT+of2" and damage(path) is None
    spoil(path)
    assert flaw in damage(path)
    with caplog.at_level(logging.WARNING):
        found = checkpointer.recover_if_possible()
    assert found.meta["value"] == 1
    assert layer.weight.eq(1).all()
    assert flaw in caplog.text and "the one before it is used" in caplog.text
    assert (path.parent / "damaged-CKPT+of2").is_dir()


def test_what_a_kill_leaves_half_written_is_no_checkpoint(saved, tmp_path):
    checkpointer, layer = saved
    half = tmp_path / ".CKPT+half"
    half.mkdir()
    (half / "CKPT.yaml").write_text("unixtime: 9e99")
    assert len(checkpointer.list_checkpoints()) == 2
    checkpointer.save_and_keep_only(meta={"value": 3}, num_to_keep=2)
    kept = [c.meta["value"] for c in checkpointer.list_checkpoints()]
    assert sorted(kept) == [2, 3] and not half.exists()
    assert not list(tmp_path.glob(".CKPT*"))
    # a checkpoint of SpeechBrain's own has no checksums
    (tmp_path / "CKPT+of2" / "sums.json").unlink()
    assert damage(tmp_path / "CKPT+of2") is None


def test_another_network_is_one_message(saved, tmp_path):
    other = WholeCheckpointer(tmp_path, {"layer": torch.nn.Linear(4, 2)})
    with pytest.raises(ValueError, match="CKPT.of2 is not of this recipe"):
        other.recover_if_possible()
    assert WholeCheckpointer(tmp_path / "x").recover_if_possible() is None


def head_and_optimizer(kind):
    """A head after two steps, with its momentum."""
    torch.manual_seed(4)
    head = kind(5, 7, sub_centers=2)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    return head, optimizer


def step(head, optimizer):
    """A step with gradients that are rows of one matrix."""
    whole = torch.arange(70.0).view(14, 5)
    shard = getattr(head, "shard", None)
    head.weight.grad = (whole if shard is None else shard.own(whole)).clone()
    optimizer.step()


def gone_on(folder):
    """A split head saved, loaded again into another, and moved on."""
    head, optimizer = head_and_optimizer(ShardedCosineClassifier)
    step(head, optimizer)
    checkpointer = WholeCheckpointer(folder, {"head": head})
    checkpointer.add_recoverable("optimizer", optimizer)
    checkpointer.save_checkpoint()
    head, optimizer = head_and_optimizer(ShardedCosineClassifier)
    checkpointer = WholeCheckpointer(folder, {"head": head})
    checkpointer.add_recoverable("optimizer", optimizer)
    assert checkpointer.recover_if_possible() is not None
    step(head, optimizer)
    return head.shard.whole(head.weight)


def test_a_split_head_is_saved_as_one_and_goes_on_on_any_number(tmp_path):
    wanted, optimizer = head_and_optimizer(CosineClassifier)
    step(wanted, optimizer)
    save_whole(wanted, tmp_path / "one.ckpt")  # which is not split
    found = on_processes(gone_on, 2, tmp_path / "many")
    # one process that is not split goes on with what two have saved
    head, other = head_and_optimizer(CosineClassifier)
    checkpointer = WholeCheckpointer(tmp_path / "many", {"head": head})
    checkpointer.add_recoverable("optimizer", other)
    checkpointer.recover_if_possible()
    assert torch.equal(head.weight, wanted.weight)
    load_whole(head, tmp_path / "one.ckpt")
    for one, its in ((wanted, optimizer), (head, other)):
        step(one, its)
    assert torch.equal(head.weight, wanted.weight)
    assert torch.equal(found[0], wanted.weight)
