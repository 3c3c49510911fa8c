"""The Brain that resumes where it was stopped, and stops where it must."""

import copy
import json
import math
import tempfile

import pytest
import torch
from processes import on_processes
from speechbrain import Stage
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.core import ResumableBrain
from speechbrain_ext.dataio.dataloader import ResumableBatches
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.checkpoints import AtomicCheckpointer
from speechbrain_ext.utils.distributed import rank
from speechbrain_ext.utils.model_selection import average_last


@pytest.fixture
def brain(tmp_path):
    """A Brain of one layer, with three batches an epoch."""
    layer = torch.nn.Linear(2, 1)
    brain = ResumableBrain(
        {"layer": layer},
        opt_class=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        run_opts={"device": "cpu", "max_grad_norm": 1.0},
        checkpointer=AtomicCheckpointer(tmp_path / "save", {"layer": layer}),
        train_sampler=ResumableBatches([[0], [1], [2]]),
    )
    brain.init_optimizers()
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


def test_no_checkpoint_while_gradients_are_accumulated(tmp_path):
    options = {"grad_accumulation_factor": 2, "ckpt_interval_steps": 3}
    brain, saved = tiny(save=tmp_path, **options), []
    brain._save_intra_epoch_ckpt = lambda: saved.append(brain.step)
    brain.fit([1], loader([1] * 14))
    assert saved == [4]  # 3 and 7 lie between two updates


def test_another_accumulation_of_gradients_is_said(tmp_path, caplog):
    for factor in (2, 2, 1):
        brain = tiny(save=tmp_path, grad_accumulation_factor=factor)
        brain.fit([1], loader([1, 1]))
        said = "--grad_accumulation_factor: 2 -> 1" in caplog.text
        assert said == (factor == 1)
        brain.checkpointer.save_checkpoint({"epoch": 1})


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


def test_state_is_text_that_anyone_can_read(brain, tmp_path):
    brain.epoch_stats = {"seconds": 2.0}
    brain._save(tmp_path / "brain")
    state = json.loads((tmp_path / "brain").read_text())
    assert state["epoch_stats"] == {"seconds": 2.0}


class Explode(torch.autograd.Function):
    """Identity whose gradient is not finite, though the loss is."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class TinyBrain(ResumableBrain):
    """A layer; an utterance of the value 9 makes the gradient explode.

    None of SpeechBrain's hooks calls ours, as users write them.
    """

    factor = math.nan

    def compute_forward(self, batch, stage):
        return self.modules["layer"](batch.sig.data)

    def compute_objectives(self, outputs, batch, stage):
        bad = batch.sig.data[batch.sig.data == 9].numel() > 0
        loss = Explode.apply(outputs, self.factor if bad else 1.0).square()
        return loss.mean()

    def on_stage_start(self, stage, epoch=None):
        pass

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.stats = dict(self.epoch_stats)

    def on_fit_batch_start(self, batch, should_step):
        pass

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        pass


def loader(values, name="u"):
    """Utterances of two equal samples, two a batch."""
    rows = [
        {"id": f"{name}{row}", "sig": torch.full((2,), float(value))}
        for row, value in enumerate(values)
    ]
    return torch.utils.data.DataLoader(
        rows, batch_size=2, collate_fn=PaddedBatch
    )


def tiny(layer=None, save=None, **run_opts):
    """A TinyBrain with SpeechBrain's plain arguments."""
    layer = torch.nn.Linear(2, 1) if layer is None else layer
    checkpointer = save and AtomicCheckpointer(save, {"layer": layer})
    return TinyBrain(
        {"layer": layer},
        opt_class=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
        run_opts={"device": "cpu", "noprogressbar": True, **run_opts},
        checkpointer=checkpointer,
    )


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_gradient_that_is_not_finite_is_not_stepped(factor):
    brain = tiny()
    brain.factor = factor
    layer = brain.modules["layer"]
    brain.fit([1], loader([1, 2]))
    before = [p.detach().clone() for p in layer.parameters()]
    with pytest.raises(FloatingPointError) as caught:
        brain.fit([7], loader([9, 1]))
    assert all(map(torch.equal, layer.parameters(), before))
    said = str(caught.value)
    assert "gradient norm is nan" in said or "gradient norm is inf" in said
    assert "at epoch 7, step 1, learning rate 0.01" in said
    assert "The batch: u0 u1." in said
    assert "--skip_nonfinite_grads" in said


def test_skipped_gradients_are_counted_and_survive_a_resume(tmp_path):
    values = [1, 1, 9, 1, 2, 2, 9, 9]
    brain = tiny(save=tmp_path, skip_nonfinite_grads=True)
    brain.fit([1], loader(values))
    assert brain.stats["skipped"] == 2
    assert brain.optimizer_step == 2
    # the steps are those of the other batches
    other = tiny(layer=copy.deepcopy(brain.modules["layer"]))
    for each in (brain, other):
        torch.nn.init.ones_(each.modules["layer"].weight)
        torch.nn.init.ones_(each.modules["layer"].bias)
    other.fit([1], loader([1, 1, 2, 2]))
    brain.fit([2], loader(values))
    for one, two in zip(
        brain.modules.parameters(), other.modules.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    brain.epoch_stats["skipped"], brain.step = 5, 3
    brain.checkpointer.save_checkpoint(end_of_epoch=False)
    resumed = tiny(save=tmp_path, skip_nonfinite_grads=True)
    resumed.fit([3], loader([9, 9]))
    assert resumed.stats["skipped"] == 6


def test_too_many_skipped_in_a_row_stop():
    brain = tiny(skip_nonfinite_grads=True, nonfinite_patience=2)
    brain.fit([1], loader([9, 9, 9, 9, 1, 1, 9, 9, 9, 9]))
    with pytest.raises(FloatingPointError, match="3 times in a row"):
        brain.fit([1], loader([9] * 6))


def test_a_plain_dataset_of_tensors_is_checked_too():
    class Plain(TinyBrain):
        def compute_forward(self, batch, stage):
            return self.modules["layer"](batch[0])

        def compute_objectives(self, outputs, batch, stage):
            return Explode.apply(outputs, math.nan).mean()

    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    brain = Plain(
        {"layer": layer},
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        run_opts={"device": "cpu", "noprogressbar": True},
    )
    data = torch.utils.data.TensorDataset(torch.ones(4, 2))
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        brain.fit([1], data, train_loader_kwargs={"batch_size": 2})
    assert torch.equal(layer.weight, before)


def test_accumulated_batches_are_named_and_stop_together():
    brain = tiny(grad_accumulation_factor=2)
    with pytest.raises(FloatingPointError, match="The batch: u0 u1 u2 u3\\."):
        brain.fit([1], loader([1, 9, 1, 1]))


def test_an_overflow_is_the_scalers_until_its_scale_is_one():
    brain = tiny()
    brain.scaler = torch.GradScaler("cpu", init_scale=4.0)
    brain.fit([1], loader([9, 9, 9, 9, 1, 1]))
    assert brain.scaler.get_scale() == 1
    assert brain.stats["skipped"] == 2 and brain.optimizer_step == 1
    with pytest.raises(FloatingPointError, match="u0 u1"):
        brain.fit([2], loader([9, 9]))


class Split(torch.nn.Module):
    """A head that is split over the processes."""

    def __init__(self):
        super().__init__()
        self.head = ShardedCosineClassifier(2, 4)

    def forward(self, x):
        return self.head(x.unsqueeze(1)).squeeze(1)


def fit_with_one_bad_process(split):
    """What is said, and whether the weights stayed, where one is bad."""
    torch.manual_seed(0)
    brain = tiny(layer=Split() if split else None)
    before = [p.detach().clone() for p in brain.modules.parameters()]
    mine = loader([9, 1] if rank() == 1 else [1, 1], f"p{rank()}-")
    with pytest.raises(FloatingPointError) as caught:
        brain.fit([1], mine)
    stayed = all(map(torch.equal, brain.modules.parameters(), before))
    return str(caught.value), stayed


@pytest.mark.parametrize("split", [False, True])
def test_all_processes_stop_where_one_gradient_is_not_finite(split):
    found = on_processes(fit_with_one_bad_process, 2, split)
    assert found[0] == found[1]
    said, stayed = found[0]
    assert stayed
    assert "The batch: p0-0 p0-1 p1-0 p1-1." in said


def debug_folder():
    """The folder of the checkpoints of a run with --debug."""
    with tempfile.TemporaryDirectory() as save:
        brain = tiny(save=save, debug=True)
        checkpointer = brain.checkpointer
        checkpointer.save_checkpoint()
        checkpointer.recover_if_possible()
        return checkpointer.checkpoints_dir


def test_all_processes_find_the_checkpoints_of_a_debug_run():
    one, other = on_processes(debug_folder, 2)
    assert one == other


def test_resuming_with_other_batches_goes_on_at_the_same_share(
    brain, tmp_path, caplog
):
    def saved(steps, step):
        brain.train_sampler = ResumableBatches([[row] for row in range(steps)])
        brain.step, brain.saved_steps = step, steps
        brain.epoch_stats = dict.fromkeys(brain.epoch_stats, 3)
        brain.checkpointer.save_checkpoint(end_of_epoch=False)

    cases = (8, 6, 4, 3), (8, 7, 1, 0), (3, 2, 6, 4), (3, 2, 3, 2)
    for steps, step, now, wanted in cases:
        saved(steps, step)
        brain.step = 0
        brain.checkpointer.recover_if_possible()
        brain.train_sampler = ResumableBatches([[row] for row in range(now)])
        caplog.clear()
        brain.on_stage_start(Stage.TRAIN, 2)
        assert brain.step == wanted
        assert len(list(brain.train_sampler)) == now - wanted > 0
        assert brain.epoch_stats["skipped"] == (3 if wanted else 0)
        assert ("resumes" in caplog.text) == (now != steps)


def test_figures_of_an_epoch_say_how_fast_it_was(brain):
    brain.epoch_stats |= {"seconds": 4.0, "waited": 1.0, "utterances": 10}
    brain.epoch_stats["largest_norm"] = 0.123456
    figures = {
        "loss": 2.5,
        "utterances/s": 2,
        "data wait": 0.25,
        "largest gradient norm": 0.1235,
    }
    assert brain.train_figures(2.5) == figures
    brain.epoch_stats["skipped"] = 3
    assert brain.train_figures(2.5) == {**figures, "skipped updates": 3}
    brain.max_grad_norm, brain.epoch_stats["skipped"] = 5.0, 0
    assert all(brain._may_step(norm) for norm in (4.0, 5.0, 6.0))
    brain.max_grad_norm = 0.0  # no clipping
    assert brain._may_step(7.0)
    found = brain.train_figures(2.5)
    assert found["clipped updates"] == 1 and "skipped updates" not in found


def test_validation_of_the_current_weights_loads_no_checkpoint(tmp_path):
    brain = tiny(save=tmp_path)
    brain.checkpointer.save_checkpoint()
    layer, seen = brain.modules["layer"], []
    torch.nn.init.constant_(layer.weight, 7)
    brain.compute_objectives = lambda outputs, batch, stage: (
        seen.append((stage, layer.training)) or outputs.sum()
    )
    brain.validate(loader([1, 2, 3]))
    assert seen == [(Stage.VALID, False)] * 2
    assert layer.weight.eq(7).all()


def test_unreadable_data_is_a_sentence_from_fit():
    class Gone(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, row):
            raise RuntimeError("Cannot read a.wav")

    data = torch.utils.data.DataLoader(Gone(), num_workers=1)
    with pytest.raises(OSError, match="^Cannot read a.wav$"):
        tiny().fit([1], data)


def test_the_latest_within_an_epoch_is_kept_after_a_change_of_steps(brain):
    brain.epoch = 2
    for steps, step in ((40, 30), (5, 4)):
        brain.train_sampler = ResumableBatches([[row] for row in range(steps)])
        brain.step = step
        brain._save_intra_epoch_ckpt()
    (kept,) = brain.checkpointer.list_checkpoints()
    assert (kept.meta["epoch"], kept.meta["step"]) == (2, 4)
