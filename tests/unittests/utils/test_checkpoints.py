"""Checkpoints that are whole or not there, of one process and of many."""

import logging
import os
import shutil
import time

import pytest
import torch
from processes import on_processes
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.checkpoints import (
    AtomicCheckpointer,
    find_corruption,
    load_sharded,
    save_unsharded,
)


@pytest.fixture
def saved(tmp_path):
    """A checkpointer with two checkpoints of a layer, of ones and of twos."""
    layer = torch.nn.Linear(3, 2)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
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
        (lambda path: cut(path / "sums.json"), "sums.json is truncated"),
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
    assert path.name == "CKPT+of2" and find_corruption(path) is None
    spoil(path)
    assert flaw in find_corruption(path)
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
    assert sorted(kept) == [1, 2, 3] and not half.exists()
    assert not list(tmp_path.glob(".CKPT*"))
    # a checkpoint of SpeechBrain's own has no checksums
    (tmp_path / "CKPT+of2" / "sums.json").unlink()
    assert find_corruption(tmp_path / "CKPT+of2") is None


def test_a_run_that_has_nothing_left_to_save_clears_the_rest(saved, tmp_path):
    checkpointer, _ = saved
    # killed while a checkpoint that is not needed was deleted
    (tmp_path / "CKPT+of1").rename(tmp_path / ".CKPT+of1")
    checkpointer.recover_if_possible()
    assert os.listdir(tmp_path) == ["CKPT+of2"]


def test_another_network_is_one_message(saved, tmp_path):
    other = AtomicCheckpointer(tmp_path, {"layer": torch.nn.Linear(4, 2)})
    with pytest.raises(ValueError, match="CKPT.of2 does not fit this recipe"):
        other.recover_if_possible()
    assert AtomicCheckpointer(tmp_path / "x").recover_if_possible() is None


def test_no_whole_checkpoint_is_not_called_the_one_before(saved, caplog):
    checkpointer, layer = saved
    for path in checkpointer.checkpoints_dir.glob("CKPT*"):
        cut(path / "layer.ckpt")
    with caplog.at_level(logging.WARNING):
        assert checkpointer.recover_if_possible() is None
    assert caplog.text.count("training starts anew") == 2
    assert "the one before it" not in caplog.text
    assert layer.weight.eq(0).all()


@pytest.fixture
def clock(monkeypatch):
    """A clock that can be set."""
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_a_clock_that_goes_back_loses_no_epoch(tmp_path, clock):
    layer = torch.nn.Linear(1, 1)
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    for epoch in range(1, 6):
        if epoch == 3:
            clock[0] -= 600
        torch.nn.init.constant_(layer.weight, epoch)
        checkpointer.save_checkpoint(meta={"epoch": epoch, "EER": 0.25})
        checkpointer.delete_checkpoints(num_to_keep=3)
    torch.nn.init.constant_(layer.weight, 5.5)
    checkpointer.save_checkpoint({"epoch": 6, "step": 7}, end_of_epoch=False)
    found = checkpointer.find_checkpoints()
    assert [one.meta["epoch"] for one in found] == [6, 5, 4, 3]
    # of equal ones the latest
    assert checkpointer.find_checkpoint(min_key="EER").meta["epoch"] == 5
    assert checkpointer.find_checkpoint(max_key="EER").meta["epoch"] == 5
    assert checkpointer.recover_if_possible().meta["step"] == 7
    assert layer.weight == 5.5
    # the end of an epoch is behind all its steps
    checkpointer.save_checkpoint({"epoch": 6, "step": 900})
    checkpointer.save_checkpoint({"epoch": 6, "step": 901}, end_of_epoch=False)
    assert checkpointer.find_checkpoint().meta["step"] == 900


def test_names_do_not_collide_where_the_clock_stands(tmp_path, clock):
    checkpointer = AtomicCheckpointer(tmp_path)
    for epoch in range(3):
        checkpointer.save_checkpoint(meta={"epoch": epoch})
    assert len(checkpointer.list_checkpoints()) == 3


@pytest.mark.parametrize("how", ["torch.save", "sums"])
def test_a_full_disk_keeps_what_was_saved(how, saved, monkeypatch):
    checkpointer, layer = saved
    before = sorted(os.listdir(checkpointer.checkpoints_dir))

    def full(*_, **__):
        if how == "sums":
            raise OSError(28, os.strerror(28))
        raise RuntimeError(
            "[enforce fail at inline_container.cc:672] . unexpected pos 576 "
            "vs 534"
        )

    owner = torch if how == "torch.save" else os
    monkeypatch.setattr(owner, "save" if owner is torch else "fsync", full)
    with pytest.raises(OSError, match="No space left while writing to"):
        checkpointer.save_checkpoint()
    monkeypatch.undo()
    assert sorted(os.listdir(checkpointer.checkpoints_dir)) == before
    assert checkpointer.recover_if_possible().meta["value"] == 2
    assert layer.weight.eq(2).all()


def test_what_is_not_ours_beside_checkpoints_stays(saved, tmp_path):
    checkpointer, _ = saved
    (tmp_path / "CKPT-notes").mkdir()
    (tmp_path / "CKPT-notes" / "CKPT.yaml").write_text("unixtime: 9e99")
    (tmp_path / "CKPT+list.txt").write_text("mine")
    (tmp_path / ".CKPT+mine").write_text("mine")
    checkpointer.recover_if_possible()
    for value in (3, 4):
        made = checkpointer.save_checkpoint(meta={"value": value})
    shutil.copytree(made.path, tmp_path / "CKPT+my_backup")
    checkpointer.save_checkpoint(meta={"value": 5})
    checkpointer.delete_checkpoints(num_to_keep=1)
    kept = [c.meta["value"] for c in checkpointer.list_checkpoints()]
    assert sorted(kept) == [1, 2, 4, 5]  # by the names of1, of2, my_backup
    assert (tmp_path / "CKPT+my_backup").exists()
    assert (tmp_path / "CKPT-notes" / "CKPT.yaml").exists()
    assert (tmp_path / "CKPT+list.txt").exists()
    assert (tmp_path / ".CKPT+mine").exists()


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
    checkpointer = AtomicCheckpointer(folder, {"head": head})
    checkpointer.add_recoverable("optimizer", optimizer)
    checkpointer.save_checkpoint()
    head, optimizer = head_and_optimizer(ShardedCosineClassifier)
    checkpointer = AtomicCheckpointer(folder, {"head": head})
    checkpointer.add_recoverable("optimizer", optimizer)
    assert checkpointer.recover_if_possible() is not None
    step(head, optimizer)
    return head.shard.whole(head.weight)


def test_a_split_head_is_saved_as_one_and_goes_on_on_any_number(tmp_path):
    wanted, optimizer = head_and_optimizer(CosineClassifier)
    step(wanted, optimizer)
    save_unsharded(wanted, tmp_path / "one.ckpt")  # which is not split
    found = on_processes(gone_on, 2, tmp_path / "many")
    # one process that is not split goes on with what two have saved
    head, other = head_and_optimizer(CosineClassifier)
    checkpointer = AtomicCheckpointer(tmp_path / "many", {"head": head})
    checkpointer.add_recoverable("optimizer", other)
    checkpointer.recover_if_possible()
    assert torch.equal(head.weight, wanted.weight)
    load_sharded(head, tmp_path / "one.ckpt")
    for one, its in ((wanted, optimizer), (head, other)):
        step(one, its)
    assert torch.equal(head.weight, wanted.weight)
    assert torch.equal(found[0], wanted.weight)


class SlowReader(AtomicCheckpointer):
    """Lists checkpoints, and reads them later, as on a slow shared disk."""

    def _list_checkpoint_dirs(self):
        listed = super()._list_checkpoint_dirs()
        if not if_main_process():
            time.sleep(0.5)
        return listed


def found_then_deleted(folder):
    """The values that a process finds in checkpoints before all are deleted."""
    checkpointer = SlowReader(folder, {"layer": torch.nn.Linear(3, 2)})
    for value in (1, 2):
        checkpointer.save_checkpoint(meta={"value": value})
    found = checkpointer.find_checkpoints(max_key="value")
    checkpointer.delete_checkpoints(num_to_keep=0)
    return [one.meta["value"] for one in found]


def test_no_checkpoint_goes_while_another_process_reads_it(tmp_path):
    assert on_processes(found_then_deleted, 2, tmp_path) == [[2, 1], [2, 1]]
    assert not list(tmp_path.iterdir())
