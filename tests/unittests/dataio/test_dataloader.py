"""Batches that resume where a run was stopped, and errors of reading."""

import multiprocessing
import os
import re
import signal
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.dataio.audio import AudioError, read_audio
from speechbrain_ext.dataio.dataloader import (
    ReadableBatches,
    ResumableBatches,
    explain_reading,
    shared_batch,
    shared_memory_warning,
)
from speechbrain_ext.dataio.samplers import CropSampler


def test_batches_go_on_behind_those_that_were_trained_on():
    manifest = pd.DataFrame({"duration": [2.0] * 12})
    sampler = CropSampler(manifest, batch_size=3, seed=1)
    batches = ResumableBatches(sampler)
    batches.set_epoch(4)
    every = list(batches)
    assert every == list(sampler) and sampler.epoch == 4
    batches.start = 3
    assert list(batches) == every[3:]
    assert len(batches) == 4
    loader = torch.utils.data.DataLoader(
        range(12), batch_sampler=batches, collate_fn=list
    )
    assert len(loader) == 4


class Utterances(torch.utils.data.Dataset):
    """Eight utterances; something happens when the last is read."""

    def __init__(self, happens):
        self.happens = happens

    def __len__(self):
        return 8

    def __getitem__(self, row):
        if row == 7:
            self.happens()
        return {"id": str(row), "sig": torch.full((4,), float(row))}


def gone():
    """Reads a file that is not there."""
    read_audio("gone.wav")


def die():
    """Ends this process as the kernel does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait():
    """Is stuck."""
    time.sleep(3)


def read(happens, workers, **options):
    """Reads all utterances and returns what is said where one fails."""
    loader = torch.utils.data.DataLoader(
        Utterances(happens),
        batch_size=2,
        num_workers=workers,
        collate_fn=shared_batch,
        **options,
    )
    before = {*multiprocessing.active_children()}
    with pytest.raises((OSError, AudioError)) as caught, explain_reading():
        list(ReadableBatches(loader))
    # no worker waits for the garbage collector
    assert {*multiprocessing.active_children()} <= before
    return str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_file_is_one_sentence(workers):
    said = read(gone, workers)
    assert said.startswith("Cannot read gone.wav")
    assert "Traceback" not in said and "\n" not in said


def test_killed_worker_is_a_sentence():
    said = read(die, 1)
    assert re.match("A DataLoader worker (is killed|exited|ended)", said)
    assert "memory" in said and "`num_workers`" in said


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError(2, "No such file or directory"),
        EOFError(),
    ],
)
def test_worker_that_dies_while_it_sends_is_a_sentence(error, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(OSError, match="^A DataLoader worker ended while"):
        with explain_reading(reading=True):
            raise error
    with pytest.raises(OSError, match="missing.wav"):
        with explain_reading(reading=True):
            raise FileNotFoundError(2, "No such file", "missing.wav")


@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 3, 4], [5]])
def test_a_batch_is_that_of_speechbrain(lengths):
    examples = [
        {"id": str(row), "sig": torch.rand(length), "label": torch.ones(1)}
        for row, length in enumerate(lengths)
    ]
    found, expected = shared_batch(examples), PaddedBatch(examples)
    assert found.id == expected.id
    for name in ("sig", "label"):
        for one, other in zip(found[name], expected[name], strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


def test_stuck_worker_is_a_sentence():
    said = read(wait, 1, timeout=1)
    assert said.startswith("No batch came within 1 seconds")
    assert "`timeout`" in said and "--shm-size" in said


def test_full_shared_memory_is_a_sentence_and_no_hang(monkeypatch):
    # what torch says where /dev/shm is full
    def full(_):
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file "
            "</torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    said = read(int, 1, timeout=60)
    assert "is full" in said and "--shm-size" in said
    assert "`num_workers`" in said


def test_batches_of_workers_are_those_of_one_process():
    batches = [
        list(
            torch.utils.data.DataLoader(
                Utterances(int),
                batch_size=3,
                num_workers=workers,
                collate_fn=shared_batch,
            )
        )
        for workers in (0, 1)
    ]
    for one, other in zip(*batches, strict=True):
        assert one.id == other.id
        assert torch.equal(one.sig.data, other.sig.data)
        assert torch.equal(one.sig.lengths, other.sig.lengths)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="^a bug$"), explain_reading():
        raise RuntimeError("a bug")
    with pytest.raises(ValueError, match="^a value$"), explain_reading():
        raise ValueError("a value")
    with pytest.raises(TypeError), explain_reading(reading=True):
        raise TypeError("a bug")


def test_small_shared_memory_is_warned_of(monkeypatch):
    sizes = SimpleNamespace(f_bavail=64, f_frsize=2**20)
    monkeypatch.setattr(os, "statvfs", lambda path: sizes)
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    said = shared_memory_warning(32 * 2**20, workers=8)
    assert "64 MB free" in said and "512 MB" in said
    assert "--shm-size" in said and "`num_workers`" in said
    assert shared_memory_warning(32 * 2**20, workers=1) is None
    assert shared_memory_warning(32 * 2**20, workers=1, processes=2)
