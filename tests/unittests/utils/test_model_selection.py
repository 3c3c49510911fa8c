"""Which weights are exported: an average of epochs, or the best epoch."""

import logging
import shutil

import pytest
import torch

from speechbrain_ext.utils.checkpoints import AtomicCheckpointer
from speechbrain_ext.utils.model_selection import (
    average_last,
    check_select,
    load_selected,
)


@pytest.fixture
def layer():
    """A layer whose weights tell the epoch."""
    return torch.nn.Linear(1, 1, bias=False)


@pytest.fixture
def checkpointer(layer, tmp_path):
    """An epoch within, and three whole ones, the second the best."""
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    for epoch, eer in enumerate((0.3, 0.1, 0.2), start=1):
        torch.nn.init.constant_(layer.weight, epoch)
        meta = {"epoch": epoch}
        checkpointer.save_checkpoint({**meta, "step": 1}, end_of_epoch=False)
        checkpointer.save_checkpoint({**meta, "EER": eer})
    return checkpointer


@pytest.mark.parametrize(
    ("select", "count", "weight", "said"),
    [
        ("average", 1, 3.0, "the average of the last 1 epoch(s)."),
        ("average", 2, 2.5, "the average of the last 2 epoch(s)."),
        (
            "average",
            9,
            2.0,
            "the average of the last 3 epoch(s); 9 were asked for.",
        ),
        ("lowest_eer", 2, 2.0, "epoch 2, the best. Development EER: 10.00 %."),
    ],
)
def test_selected_weights_are_loaded_and_named(
    select, count, weight, said, checkpointer, layer, caplog
):
    with caplog.at_level(logging.INFO):
        best = load_selected(checkpointer, {"layer": layer}, select, count)
    assert layer.weight.item() == weight
    assert best.meta["epoch"] == 2
    assert f"Exported: {said}" in caplog.messages


def test_without_an_eer_there_is_no_best_epoch(layer, tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {"layer": layer})
    checkpointer.save_checkpoint({"epoch": 1})
    assert load_selected(checkpointer, {"layer": layer}, "average", 1) is None
    with pytest.raises(ValueError, match="no checkpoint with .*to average"):
        load_selected(checkpointer, {"layer": layer}, "lowest_eer", 1)


def test_only_epochs_that_follow_each_other_are_averaged(
    checkpointer, layer, tmp_path
):
    for epoch in (5, 6):  # 4 is gone, and 2 is kept as the best
        torch.nn.init.constant_(layer.weight, epoch)
        made = checkpointer.save_checkpoint({"epoch": epoch, "EER": 0.2})
    shutil.copytree(made.path, tmp_path / "CKPT+my_backup")
    assert average_last(checkpointer, {"layer": layer}, 4) == 2
    assert layer.weight.item() == 5.5
    assert average_last(checkpointer, {"layer": layer}, 1) == 1
    assert layer.weight.item() == 6.0


def test_average_of_no_checkpoint_is_a_sentence(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path)
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        average_last(checkpointer, {}, 0)
    with pytest.raises(ValueError, match="no checkpoint of a whole epoch"):
        average_last(checkpointer, {}, 1)


def test_the_best_epoch_needs_speakers_that_are_held_out():
    check_select("average", 0)
    check_select("lowest_eer", 2)
    with pytest.raises(ValueError, match="lowest_eer.*`dev_speakers` is 0"):
        check_select("lowest_eer", 0)
