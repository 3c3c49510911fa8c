"""The Brain that trains through wrong labels: filters at work, on resuming."""

import numpy as np
import pandas as pd
import pytest
import torch
from processes import on_processes
from speechbrain import Stage
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_ext.dataio.dataloader import ResumableBatches, shared_batch
from speechbrain_ext.label_filtering import LabelFilteringBrain
from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import GE2E, AAMSoftmax
from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.checkpoints import AtomicCheckpointer
from speechbrain_ext.utils.distributed import rank, world_size
from speechbrain_ext.utils.metrics import ROC_AUC

SPEAKERS, UTTERANCES, SIZE, BATCH, EPOCHS = 20, 24, 16, 16, 8
RATE = 0.4
CLOCK = ("utterances/s", "data wait")
FILTERS = {
    "ORGate": {"top_k": 2, "warm_up": 2},
    "LossGate": {"warm_up": 2},
    "LabelCorrection": {"warm_up": 2},
    "SubCenterDrop": {"warm_up": 3, "angle": 66},
}
# whether its head is split; all with both: processing/test_filter_base.py
SPLIT = {
    "ORGate": True,
    "LossGate": False,
    "LabelCorrection": True,
    "SubCenterDrop": False,
}


def data():
    """Vectors around a center per speaker, and a manifest with wrong labels."""
    rng = np.random.default_rng(5)
    true = np.repeat(np.arange(SPEAKERS), UTTERANCES)
    centers = rng.standard_normal((SPEAKERS, SIZE))
    x = centers[true] + 0.35 * rng.standard_normal((len(true), SIZE))
    given = true.copy()
    for speaker in range(SPEAKERS):  # exactly this share of each
        chosen = rng.permutation(np.flatnonzero(true == speaker))
        chosen = chosen[: round(RATE * UTTERANCES)]
        other = (speaker + rng.integers(1, SPEAKERS, len(chosen))) % SPEAKERS
        given[chosen] = other
    name = np.array([f"{speaker:02}" for speaker in range(SPEAKERS)])
    manifest = pd.DataFrame({"spk_id": name[given], "spk_id_clean": name[true]})
    return torch.tensor(x, dtype=torch.float32), manifest, given


class Order:
    """Batches in an order by the epoch; each process gets its part."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return SPEAKERS * UTTERANCES // BATCH

    def __iter__(self):
        rng = np.random.default_rng(self.epoch)
        order = rng.permutation(SPEAKERS * UTTERANCES).reshape(-1, BATCH)
        yield from order[:, rank() :: world_size()]


class Vectors(torch.utils.data.Dataset):
    def __init__(self, x, given):
        self.x, self.given = x, given

    def __getitem__(self, row):
        label = torch.tensor([self.given[row]])
        return {
            "id": f"{row}",
            "row": int(row),
            "sig": self.x[row],
            "spk_id_encoded": label,
        }


class Encoder(torch.nn.Module):
    """Two layers without batch statistics."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(SIZE, 64), torch.nn.Tanh(), torch.nn.Linear(64, 24)
        )

    def forward(self, x, lengths=None):
        return self.layers(x).unsqueeze(1)


class VectorBrain(LabelFilteringBrain):
    """Classifies vectors; stops before a step if it is told to."""

    stop, trust, told = None, None, None

    def compute_forward(self, batch, stage):
        embeddings = self.encode(batch.sig.data)
        return self.modules["classifier"](embeddings)

    def compute_objectives(self, outputs, batch, stage):
        return self.classification_loss(outputs, batch)

    def on_fit_batch_start(self, batch, should_step):
        if (self.epoch, self.step) == self.stop:
            raise KeyboardInterrupt

    def on_stage_end(self, stage, stage_loss, epoch=None):
        super().on_stage_end(stage, stage_loss, epoch)
        self.told = self.train_figures(stage_loss)
        if self.checkpointer is not None:
            self.checkpointer.save_checkpoint(meta={"epoch": epoch})


def run(name, save=None, stop=None, split=False, epochs=EPOCHS, rate=None):
    """Trains and returns the Brain and the data."""
    torch.manual_seed(1)
    x, manifest, given = data()
    encoder = CategoricalEncoder()
    encoder.update_from_iterable(sorted(set(manifest["spk_id"])))
    centers = 3 if name == "SubCenterDrop" else 1
    head = ShardedCosineClassifier if split else CosineClassifier
    modules = {
        "embedding_model": Encoder(),
        "classifier": head(24, SPEAKERS, centers),
        "loss": AAMSoftmax(0.2, 20.0),
    }
    modules["loss"].shard = getattr(modules["classifier"], "shard", None)
    counter = EpochCounter(epochs)
    saved = {**modules, "counter": counter}
    options = None
    if name is not None:
        options = {"kind": name, **FILTERS.get(name, {})}
    batches = ResumableBatches(Order())
    brain = VectorBrain(
        options,
        manifest,
        given,
        encoder,
        modules=modules,
        opt_class=lambda parameters: (
            torch.optim.SGD(parameters, lr=rate)
            if rate
            else torch.optim.Adam(parameters, lr=3e-3)
        ),
        run_opts={
            "device": "cpu",
            "noprogressbar": True,
            "ckpt_interval_minutes": 0,
            "ckpt_interval_steps": 20 if save else 0,
            "distributed_launch": world_size() > 1,
            "distributed_backend": "gloo",
        },
        checkpointer=save and AtomicCheckpointer(save, saved),
        train_sampler=batches,
    )
    brain.stop = stop
    loader = torch.utils.data.DataLoader(
        Vectors(x, given), batch_sampler=batches, collate_fn=shared_batch
    )
    brain.fit(counter, loader)
    return brain


def accuracy(brain):
    """Share of utterances whose true speaker has the highest cosine."""
    x, manifest, _ = data()
    true = manifest["spk_id_clean"].astype(int).to_numpy()
    modules = brain.modules
    with torch.no_grad():
        found = modules["classifier"](modules["embedding_model"](x))
    return float((found.squeeze(1).argmax(1).numpy() == true).mean())


@pytest.fixture(scope="module")
def unfiltered():
    return run(None)


@pytest.mark.parametrize("name", FILTERS)
def test_filter_finds_the_wrong_labels(name, unfiltered):
    brain = run(name)
    wrong = brain.label_statistics.wrong
    trust = brain.label_filter.trust
    auc = ROC_AUC(trust[~wrong], trust[wrong])
    assert auc > 0.9
    assert brain.told["filter AUC"] == pytest.approx(auc, abs=1e-4)
    assert brain.told["filter precision"] > 85
    assert accuracy(brain) >= accuracy(unfiltered)


def kept(brain):
    """Weights, the state of the filter, and the figures but those of time."""
    state = {
        f"{name} {key}".replace("module.", ""): value
        for name, module in brain.modules.items()
        for key, value in module.state_dict().items()
    }
    state |= brain.label_filter.state_dict()
    told = {k: v for k, v in brain.told.items() if k not in CLOCK}
    return {k: v.detach().clone() for k, v in state.items()}, told


@pytest.mark.parametrize("name", FILTERS)
def test_a_stopped_run_ends_as_one_left_alone(name, tmp_path):
    wanted, told = kept(run(name, epochs=5))
    with pytest.raises(KeyboardInterrupt):
        run(name, tmp_path, stop=(4, 22), epochs=5)
    found, said = kept(run(name, tmp_path, epochs=5))
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key
    assert said == told


def of_processes():
    """All filters on two processes, with a whole or with a split head."""
    found = {}
    for name, split in SPLIT.items():
        brain = run(name, split=split, epochs=5, rate=0.1)
        state, told = kept(brain)
        head = brain.modules["classifier"]
        if split:
            state["classifier weight"] = head.shard.whole(head.weight)
        found[name] = state, told
    return found


def test_two_processes_train_as_one():
    found = on_processes(of_processes, 2, seconds=300)
    for name in FILTERS:
        wanted, told = kept(run(name, epochs=5, rate=0.1))
        state, said = found[0][name]
        for key, value in wanted.items():
            torch.testing.assert_close(
                *(state[key], value),
                atol=1e-5,
                rtol=1e-5,
                msg=lambda text, at=(name, key): f"{at} {text}",
            )
        for key, value in told.items():
            assert said[key] == pytest.approx(value, rel=1e-3), key
        # the state of a filter is on every process
        for key in ("trust", "draws"):
            assert torch.equal(found[1][name][0][key], state[key])


def test_without_filter_and_true_labels_it_is_the_plain_loss():
    loss = AAMSoftmax()
    modules = {
        "embedding_model": Encoder(),
        "classifier": CosineClassifier(24, SPEAKERS),
        "loss": loss,
    }
    brain = VectorBrain(modules=modules)
    batch = shared_batch([Vectors(*data()[::2])[row] for row in range(8)])
    outputs = torch.rand(8, 1, SPEAKERS)
    wanted = loss(outputs, batch.spk_id_encoded.data)
    assert torch.equal(brain.classification_loss(outputs, batch), wanted)
    brain.on_stage_end(Stage.TRAIN, 0.0, 1)
    assert brain.label_figures == {}


def test_metric_losses_have_no_statistics_and_no_filter():
    _, manifest, given = data()
    modules = {
        "embedding_model": Encoder(),
        "classifier": torch.nn.Identity(),
        "loss": GE2E(),
    }
    brain = VectorBrain(None, manifest, given, modules=modules)
    assert brain.label_statistics is None
    with pytest.raises(ValueError, match="metric loss GE2E"):
        VectorBrain({"kind": "LossGate"}, manifest, given, {}, modules=modules)
