"""Logs of training: a readable line, TensorBoard by epoch, a history."""

import json
import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch
from speechbrain.utils.checkpoints import torch_save
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.train_logger import (
    EpochLogger,
    EpochTensorboardLogger,
    HistoryLogger,
    open_loggers,
    quiet_libraries,
    read_history,
)

META = {"epoch": 3, "epochs": 15, "lr": 0.0812, "margin": 0.05}
TRAIN = {"loss": 4.21, "utterances/s": 812, "data wait": 0.02}


def test_line_says_how_far_and_how_long(tmp_path):
    log = EpochLogger(tmp_path / "log.txt", precision=4)
    log.log_stats(META | {"seconds left": 750.2}, TRAIN, {"EER": 8.4})
    log.log_stats({"epoch": 15, "epochs": 15, "lr": 5e-5}, {"loss": 12.5})
    assert (tmp_path / "log.txt").read_text().splitlines() == [
        "epoch: 3/15, lr: 0.0812, margin: 0.05 - train loss: 4.2100, "
        "utterances/s: 812, data wait: 0.02 - valid EER: 8.4000 - 0:12:30 left",
        "epoch: 15/15, lr: 5e-05 - train loss: 12.5000",
    ]


def test_tensorboards_steps_are_epochs_after_a_resume(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    for epochs in ((1, 2), (3, 4)):  # two runs
        log = EpochTensorboardLogger(str(tmp_path))
        for epoch in epochs:
            log.log_stats({"epoch": epoch, "lr": 0.1}, {"loss": epoch / 2})
        log.writer.close()
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("lr")] == [1, 2, 3, 4]
    found = {e.step: e.value for e in events.Scalars("loss/train")}
    assert found == {1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}


def test_history_is_exact_after_a_kill(tmp_path):
    path = tmp_path / "epochs.jsonl"
    for loss, epochs in ((0.1 + 0.2, (1, 2, 3)), (0.7, (2, 3))):
        history = HistoryLogger(path)
        for epoch in epochs:
            history.log_stats({"epoch": epoch}, {"loss": loss * epoch})
    assert [row["epoch"] for row in read_history(path)] == [1, 2, 3]
    losses = [row["train loss"] for row in read_history(path)]
    assert losses == [0.1 + 0.2, 0.7 * 2, 0.7 * 3]


def test_history_that_is_a_users_stays(tmp_path, caplog):
    path = tmp_path / "epochs.jsonl"
    path.write_text("{}\n")
    with pytest.raises(FileExistsError, match="epochs.jsonl"):
        HistoryLogger(path)
    path.unlink()
    history = HistoryLogger(path)
    history.log_stats({"epoch": 1})
    edited = json.dumps({"epoch": 1, "note": "mine"}) + "\n"
    path.write_text(edited)
    with caplog.at_level(logging.WARNING):
        history.log_stats({"epoch": 2})  # training must not end for it
    assert "Epoch 2 was not added to the history" in caplog.text
    assert path.read_text() == edited


@pytest.mark.parametrize("picture", ["training.png", "label_noise.png"])
def test_loggers_of_a_training_refuse_what_is_a_users(picture, tmp_path):
    text = EpochLogger(tmp_path / "train_log.txt")
    loggers = open_loggers(tmp_path, text)
    assert loggers[0] is text
    for logger in loggers:
        logger.log_stats({"epoch": 1}, {"loss": 2.0})
    assert "train loss: 2.00" in (tmp_path / "train_log.txt").read_text()
    assert read_history(tmp_path / "epochs.jsonl")[0]["train loss"] == 2
    (tmp_path / picture).write_text("mine")
    with pytest.raises(FileExistsError, match=picture):
        open_loggers(tmp_path, text)


def test_other_libraries_are_quiet_and_we_are_not():
    quiet_libraries()
    assert not logging.getLogger("matplotlib.x").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("matplotlib.x").isEnabledFor(logging.WARNING)
    ours = logging.getLogger("speechbrain_ext.core")
    ours.setLevel(logging.NOTSET)
    assert ours.getEffectiveLevel() == logging.getLogger().level


def test_two_warnings_of_libraries_are_not_shown(recwarn, caplog, tmp_path):
    quiet_libraries()
    rows = [0] * 4
    torch.utils.data.DataLoader(rows, num_workers=os.cpu_count() + 1)
    torch.utils.data.DataLoader(rows, batch_size=2, num_workers=0)
    warnings.warn("another one", stacklevel=1)
    assert [str(one.message) for one in recwarn] == ["another one"]
    torch_save(torch.nn.Identity(), tmp_path / "loss.ckpt")
    get_logger("speechbrain.utils.checkpoints").warning("another one")
    assert caplog.messages == ["another one"]


def test_nothing_is_said_at_import():
    code = "import speechbrain_ext.utils.train_logger"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "torchvision" not in done.stderr + done.stdout
