"""The Brain that starts from a trained encoder: frozen, slower, new head."""

import copy

import pytest
import torch
from processes import on_processes
from speechbrain import Stage
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_ext.dataio.dataloader import ResumableBatches
from speechbrain_ext.fine_tuning import FineTuningBrain
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AAMSoftmax
from speechbrain_ext.utils.checkpoints import AtomicCheckpointer
from speechbrain_ext.utils.distributed import rank, world_size

CLASSES, STEPS = 3, 4


class Order(list):
    """Batches in the same order in every epoch."""

    def set_epoch(self, epoch):
        pass


class Encoder(torch.nn.Module):
    """Layer, batch statistics, dropout."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, features, lengths=None):
        return self.dropout(self.norm(self.layer(features))).unsqueeze(1)


class TuningBrain(FineTuningBrain):
    """Classifies vectors; stops before a step if it is told to."""

    stop = None

    def compute_forward(self, batch, stage):
        return self.modules["classifier"](self.encode(batch[0]))

    def compute_objectives(self, outputs, batch, stage):
        return self.modules["loss"](outputs, batch[1].unsqueeze(1))

    def on_fit_batch_start(self, batch, should_step):
        if (self.epoch, self.step) == self.stop:
            raise KeyboardInterrupt
        torch.manual_seed(100 * self.epoch + self.step)  # of the dropout
        self.set_learning_rate(0.5)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        state = self.modules.state_dict()
        self.states[epoch] = {
            key.replace("module.", ""): value.clone()
            for key, value in state.items()
        }
        if self.checkpointer is not None:
            self.checkpointer.save_checkpoint(meta={"epoch": epoch})


def make_modules():
    """An encoder and its head, with the same weights in every process."""
    torch.manual_seed(0)
    return {
        "embedding_model": Encoder(),
        "classifier": CosineClassifier(4, CLASSES),
        "loss": AAMSoftmax(margin=0.2),
    }


def make_brain(modules, save=None, momentum=0.9, **options):
    """A Brain for these modules."""
    run_opts = {"device": "cpu", "noprogressbar": True}
    run_opts |= options.pop("run_opts", {})
    counter = EpochCounter(options.pop("epochs", 2))
    saved = {**modules, "counter": counter}
    brain = TuningBrain(
        modules,
        opt_class=lambda parameters: torch.optim.SGD(
            parameters, lr=0.5, momentum=momentum, weight_decay=0.01
        ),
        run_opts=run_opts,
        checkpointer=save and AtomicCheckpointer(save, saved),
        train_sampler=ResumableBatches(Order([row] for row in range(STEPS))),
        **options,
    )
    brain.counter, brain.states = counter, {}
    return brain


class Batches(torch.utils.data.Dataset):
    """A batch for each step; each process has its part of it."""

    def __len__(self):
        return STEPS

    def __getitem__(self, step):
        rng = torch.Generator().manual_seed(step)
        features = torch.randn(8, 5, generator=rng)
        labels = torch.randint(CLASSES, (8,), generator=rng)
        part = slice(rank(), None, world_size())
        return features[part], labels[part]


def fit(brain):
    """Trains; returns the weights after each epoch."""
    loader = torch.utils.data.DataLoader(
        Batches(),
        batch_sampler=brain.train_sampler,
        collate_fn=lambda batch: batch[0],
    )
    brain.fit(brain.counter, loader)
    return list(brain.states.values())


def moved(one, other, name):
    """The keys of a module that differ."""
    return [
        key
        for key in one
        if key.startswith(name) and not torch.equal(one[key], other[key])
    ]


def test_frozen_encoder_stays_as_it_is_and_then_learns():
    modules = make_modules()
    brain = make_brain(modules, frozen_epochs=1)
    before = copy.deepcopy(brain.modules.state_dict())
    first, second = fit(brain)
    assert moved(before, first, "embedding_model") == []
    assert moved(before, first, "classifier") == ["classifier.weight"]
    # weights, batch statistics and their counter
    every = [key for key in before if key.startswith("embedding_model")]
    assert moved(first, second, "embedding_model") == every
    assert second["embedding_model.norm.num_batches_tracked"] == STEPS
    assert brain.modules["embedding_model"].training


def test_a_fraction_of_an_epoch_is_frozen():
    brain = make_brain(make_modules(), epochs=1, frozen_epochs=0.5)
    (after,) = fit(brain)
    assert after["embedding_model.norm.num_batches_tracked"] == STEPS / 2


def test_nothing_is_frozen_by_default():
    one, other = make_brain(make_modules()), make_brain(make_modules())
    other.encode = lambda x: other.modules["embedding_model"](x)
    found, wanted = fit(one), fit(other)
    assert len(one.optimizer.param_groups) == 1
    assert moved(found[-1], wanted[-1], "") == []


@pytest.mark.parametrize("stop", [(1, 3), (2, 2), (3, 1)])
def test_a_run_resumes_before_and_after_the_encoder_is_frozen(stop, tmp_path):
    options = {"epochs": 3, "frozen_epochs": 1.75, "encoder_lr_scale": 0.5}
    wanted = fit(make_brain(make_modules(), **options))[-1]
    brain = make_brain(
        make_modules(),
        tmp_path,
        run_opts={"ckpt_interval_steps": 1},
        **options,
    )
    brain.stop = stop
    with pytest.raises(KeyboardInterrupt):
        fit(brain)
    brain = make_brain(make_modules(), tmp_path, **options)
    found = fit(brain)[-1]
    assert len(brain.states) == 4 - stop[0]
    assert moved(wanted, found, "") == []


def test_the_encoder_has_its_own_rate():
    steps = {}
    for scale in (1.0, 0.1):
        modules = make_modules()
        brain = make_brain(modules, momentum=0, encoder_lr_scale=scale)
        brain.init_optimizers()
        brain.set_learning_rate(0.5)
        before = copy.deepcopy(brain.modules.state_dict())
        brain.modules.eval()  # without dropout
        brain.epoch, brain.step = 1, 1
        batch = Batches()[0]
        outputs = brain.compute_forward(batch, Stage.TRAIN)
        brain.compute_objectives(outputs, batch, Stage.TRAIN).backward()
        brain.on_stage_start(Stage.TRAIN, 1)
        brain.optimizers_step()
        after = brain.modules.state_dict()
        steps[scale] = {key: after[key] - before[key] for key in after}
    for key, step in steps[1.0].items():
        if "running" in key or "tracked" in key:
            continue
        factor = 0.1 if key.startswith("embedding_model") else 1.0
        assert step.abs().max() > 0
        torch.testing.assert_close(steps[0.1][key], factor * step)


def test_groups_without_decay_keep_their_setting():
    run_opts = {"remove_vector_weight_decay": True}
    brain = make_brain(make_modules(), run_opts=run_opts, encoder_lr_scale=0.1)
    brain.init_optimizers()
    brain.set_learning_rate(0.5)
    encoder = set(brain.modules["embedding_model"].parameters())
    held = []
    for group in brain.optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == (0.05 if parameter in encoder else 0.5)
            assert (group["weight_decay"] == 0) == (parameter.dim() == 1)
            held.append(parameter)
    assert len(held) == len(set(held)) == len(list(brain.modules.parameters()))


def test_a_loss_without_parameters_cannot_train_alone():
    modules = {"embedding_model": Encoder(), "loss": AAMSoftmax(margin=0.2)}
    with pytest.raises(ValueError, match="`frozen_epochs` must be 0 .* got 2"):
        make_brain(modules, frozen_epochs=2)


def train_frozen():
    """Weights after each of two epochs."""
    modules = make_modules()
    modules["embedding_model"].dropout.p = 0.0
    brain = make_brain(modules, frozen_epochs=1, encoder_lr_scale=0.5)
    return fit(brain)


def test_two_processes_freeze_and_train_as_one():
    wanted, found = train_frozen(), on_processes(train_frozen, 2)
    for process in found:
        for one, other in zip(wanted, process, strict=True):
            for key, value in one.items():
                torch.testing.assert_close(
                    other[key], value, atol=1e-5, rtol=1e-5
                )
    assert moved(found[0][1], found[1][1], "") == []
