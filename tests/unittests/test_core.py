"""The Brain that goes on where it was stopped."""

import json

import pytest
import torch
from processes import on_processes
from speechbrain import Stage

from speechbrain_ext.core import (
    ResumableBrain,
    average_last,
    claim_folder,
    total_gradient_norm,
)
from speechbrain_ext.dataio.dataloader import ResumableBatches
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.checkpoints import WholeCheckpointer


@pytest.fixture
def brain(tmp_path):
    """A Brain of one layer, with three batches an epoch."""
    layer = torch.nn.Linear(2, 1)
    brain = ResumableBrain(
        {"layer": layer},
        opt_class=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        run_opts={"device": "cpu", "max_grad_norm": 1.0},
        checkpointer=WholeCheckpointer(tmp_path / "save", {"layer": layer}),
    )
    brain.init_optimizers()
    brain.train_sampler = ResumableBatches([[0], [1], [2]])
    return brain


@pytest.mark.parametrize("end_of_epoch", [True, False])
def test_statistics_go_on_within_an_epoch_and_start_anew_at_its_end(
    end_of_epoch, brain
):
    brain.step, brain.avg_train_loss, brain.optimizer_step = 2, 0.1 + 0.2, 8
    brain.epoch_stats = {"seconds": 1.5, "largest_norm": 0.7}
    brain.checkpointer.save_checkpoint(end_of_epoch=end_of_epoch)
    brain.step, brain.avg_train_loss, brain.epoch_stats = 0, 0.0, {}
    brain.checkpointer.recover_if_possible()
    assert brain.optimizer_step == 8
    brain.on_stage_start(Stage.TRAIN)
    if end_of_epoch:
        assert (brain.step, brain.avg_train_loss) == (0, 0.0)
        assert brain.epoch_stats["largest_norm"] == 0
        assert len(list(brain.train_sampler)) == 3
    else:
        assert (brain.step, brain.avg_train_loss) == (2, 0.1 + 0.2)
        assert brain.epoch_stats["largest_norm"] == 0.7
        assert list(brain.train_sampler) == [[2]]


def test_gradients_are_clipped_and_the_norm_is_kept(brain):
    layer = brain.modules["layer"]
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[3.0, 0.0]])
    layer.bias.grad = torch.tensor([4.0])
    brain.on_stage_start(Stage.TRAIN)
    brain.optimizers_step()
    assert brain.epoch_stats["largest_norm"] == pytest.approx(5.0)
    torch.testing.assert_close(
        before - layer.weight, torch.tensor([[0.06, 0.0]])
    )


def test_no_checkpoint_within_an_epoch_at_its_end(brain):
    brain.ckpt_interval_steps = 1
    for step, wanted in ((2, True), (3, False)):
        brain.step = step
        assert brain._should_save_intra_epoch_ckpt(0, 5) == wanted


def test_the_last_epochs_and_the_best_are_kept_and_averaged(brain):
    layer = brain.modules["layer"]
    for epoch, eer in enumerate((0.3, 0.1, 0.2, 0.25), start=1):
        torch.nn.init.constant_(layer.weight, epoch)
        brain.checkpointer.save_checkpoint(meta={"within": epoch})
        brain.save_epoch({"epoch": epoch, "EER": eer}, keep=1)
    kept = [c.meta["epoch"] for c in brain.checkpointer.list_checkpoints()]
    assert sorted(kept) == [2, 3, 4]
    assert average_last(brain.checkpointer, {"layer": layer}, 2) == 2
    assert layer.weight.eq(3.5).all()


def refusal(folder):
    """What a process hears that claims a folder."""
    with pytest.raises(ValueError, match="Another run") as error:
        claim_folder(folder, "seed: 2")
    return (str(error.value),)


def test_a_folder_is_of_one_run(tmp_path):
    claim_folder(tmp_path, "seed: 1")
    claim_folder(tmp_path, "seed: 1")  # the same process may
    (said,) = on_processes(refusal, 1, tmp_path)[0]
    assert "Another run (process" in said
    assert (tmp_path / "hyperparams.yaml").read_text() == "seed: 1"


def norm_of_a_split_head():
    """The norm of gradients 1 of a head of 5 * 4 weights, and of one 5."""
    head = ShardedCosineClassifier(4, 5)
    head.weight.grad = torch.ones_like(head.weight)
    other = torch.nn.Parameter(torch.zeros(1))
    other.grad = torch.tensor([4.0])
    return total_gradient_norm([head.weight, other])


def test_the_norm_is_that_of_all_classes():
    wanted = torch.tensor(6.0)  # the root of 20 and 16
    assert torch.equal(norm_of_a_split_head(), wanted)
    for found in on_processes(norm_of_a_split_head, 2):
        torch.testing.assert_close(found, wanted)


def test_state_is_text_that_anyone_can_read(brain, tmp_path):
    brain.epoch_stats = {"seconds": 2.0}
    brain._save(tmp_path / "brain")
    state = json.loads((tmp_path / "brain").read_text())
    assert state["epoch_stats"] == {"seconds": 2.0}
