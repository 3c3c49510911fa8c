"""Too little memory for a batch: the error says which batch fits."""

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.core import ResumableBrain
from speechbrain_ext.utils import memory
from speechbrain_ext.utils.memory import BatchMemoryError, memory_reason

LEAST = 2**14  # bytes that a batch without utterances would take


class Hungry(ResumableBrain):
    """Takes 16 times as much memory for each utterance more."""

    growth = 16

    def compute_forward(self, batch, stage):
        wanted = LEAST * self.growth ** len(batch.sig.data)
        # never written to, so that only addresses are taken
        torch.empty(min(wanted, 2**60), dtype=torch.int8)
        return self.modules.layer(batch.sig.data)

    def compute_objectives(self, predictions, batch, stage):
        assert len(batch.id) == len(predictions)
        return predictions.square().mean()


class Whole(Hungry):
    """Its loss needs groups of eight utterances."""

    def compute_objectives(self, predictions, batch, stage):
        if len(predictions) % 8:
            raise ValueError("groups")
        return super().compute_objectives(predictions, batch, stage)


def brain_of(kind):
    return kind(
        {"layer": torch.nn.Linear(2, 3)},
        lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        run_opts={"device": "cpu"},
    )


def batch_of(count):
    return PaddedBatch(
        [{"id": str(n), "sig": torch.ones(2)} for n in range(count)]
    )


def train_on(brain, batch):
    brain.on_fit_start()
    before = brain.modules.layer.weight.clone()
    with pytest.raises(BatchMemoryError) as caught:
        brain.fit_batch(batch)
    assert torch.equal(brain.modules.layer.weight, before)  # no step was made
    assert brain.modules.layer.weight.grad is None  # nor is it half made
    return str(caught.value)


def test_the_largest_half_that_fits_is_named():
    said = train_on(brain_of(Hungry), batch_of(16))
    assert said.startswith("Out of memory with a batch of 16 (")
    # of 8 utterances it is 64 TiB, of 4 it is 1 GiB
    assert said.endswith("; a batch of 4 fits: lower `batch_size`.")


def test_nothing_fits():
    brain = brain_of(Hungry)
    brain.growth = 2**33
    assert "no smaller batch fits: shorten" in train_on(brain, batch_of(2))


def test_a_loss_of_whole_groups_is_not_tried_further():
    said = train_on(brain_of(Whole), batch_of(10))
    assert said.endswith("lower `batch_size` or the length of the crops.")


def test_several_processes_try_nothing(monkeypatch):
    monkeypatch.setattr(memory, "world_size", lambda: 2)
    monkeypatch.setattr(memory, "_fitting_size", None)  # would be an error
    said = train_on(brain_of(Hungry), batch_of(16))
    assert said.startswith("Out of memory with a batch of 16 on each of 2 proc")
    assert said.endswith("lower `batch_size` or the length of the crops.")


def test_a_batch_that_fits_is_a_step():
    brain, batch = brain_of(Hungry), batch_of(2)
    brain.on_fit_start()
    before = brain.modules.layer.weight.clone()
    brain.fit_batch(batch)
    assert not torch.equal(brain.modules.layer.weight, before)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "CUDA out of memory",
        ),
        (
            RuntimeError(
                "err == 0. DefaultCPUAllocator: can't allocate memory"
            ),
            "DefaultCPUAllocator: can't allocate memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
    ],
)
def test_errors_of_memory_are_told_from_others(error, reason):
    assert memory_reason(error) == reason
