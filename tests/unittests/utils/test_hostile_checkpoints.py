"""Broken and hostile checkpoints: a sentence or a correct result on resume."""

import json
import os
import pickle
import shutil
import types

import pytest
import torch
import yaml
from hostile import sentence_or_result, snapshot
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_ext.core import ResumableBrain
from speechbrain_ext.dataio.dataloader import ResumableBatches
from speechbrain_ext.utils.checkpoints import AtomicCheckpointer
from speechbrain_ext.utils.recipe import RecipeText
from speechbrain_ext.utils.seals import SUMS, seal


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def run_of(folder, inputs=3):
    """A run: its modules, and the checkpointer that they are saved with."""
    layer = torch.nn.Linear(inputs, 2)
    torch.nn.init.zeros_(layer.weight)
    counter = EpochCounter(9)
    kept = {"layer": layer, "counter": counter, "recipe": RecipeText("seed: 1")}
    brain = ResumableBrain(
        {"layer": layer},
        opt_class=sgd,
        hparams={"epoch_counter": counter},
        run_opts={"device": "cpu"},
        checkpointer=AtomicCheckpointer(folder, kept),
    )
    brain.init_optimizers()
    brain.train_sampler = ResumableBatches([[0], [1], [2]])
    return types.SimpleNamespace(brain=brain, layer=layer, counter=counter)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of two epochs, of ones and of twos."""
    folder = tmp_path_factory.mktemp("saved")
    run = run_of(folder)
    for epoch in (1, 2):
        run.counter.current = epoch
        run.layer.weight.grad = torch.zeros(2, 3)
        run.layer.bias.grad = torch.zeros(2)
        run.brain.optimizer.step()  # which then has a momentum
        torch.nn.init.constant_(run.layer.weight, epoch)
        run.brain.checkpointer.save_checkpoint(
            meta={"epoch": epoch, "EER": 0.5 - epoch / 10}, name=f"{epoch}"
        )
    return folder


class Code:
    """Makes a folder when it is read as a pickle."""

    def __reduce__(self):
        return os.mkdir, ("run by a pickle",)


def resealed(change):
    """A change that the checksums hide: they are made anew."""

    def changing(path):
        change(path)
        (path / SUMS).unlink(missing_ok=True)
        seal(path)

    return changing


def write(name, held):
    def writing(path):
        path = path / name
        path.write_bytes(held if isinstance(held, bytes) else held.encode())

    return writing


def cut(name, size):
    return lambda path: (path / name).write_bytes(
        (path / name).read_bytes()[:size]
    )


def meta(**changes):
    def changing(path):
        held = yaml.safe_load((path / "CKPT.yaml").read_text())
        held |= changes
        held = {key: v for key, v in held.items() if v != "gone"}
        (path / "CKPT.yaml").write_text(yaml.dump(held))

    return resealed(changing)


def saving(name, state, **options):
    def changing(path):
        torch.save(state, path / name, **options)

    return resealed(changing)


def change(name, key, value):
    def changing(path):
        held = json.loads((path / name).read_text())
        held[key] = value
        (path / name).write_text(json.dumps(held))

    return resealed(changing)


def become(kind, name):
    def becoming(path):
        path = path / name
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to("/no/such/file")

    return becoming


def swap(path):
    one, other = path / "layer.ckpt", path / "optimizer.ckpt"
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def momentum_of_nan(path):
    state = torch.load(path / "optimizer.ckpt")
    state["state"][0]["momentum_buffer"].fill_(float("nan"))
    torch.save(state, path / "optimizer.ckpt")


def as_file(path):
    shutil.rmtree(path)
    path.write_text("mine")


def as_link(path):
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


WEIGHTS = {"weight": torch.full((2, 3), 2.0), "bias": torch.zeros(2)}
NAN = {**WEIGHTS, "weight": torch.full((2, 3), float("nan"))}
# What is done to the last checkpoint; those of the second table are sealed
# again, as one is that somebody made on purpose
DAMAGED = {
    **{
        f"{name} {how}": change_
        for name in ("layer.ckpt", "optimizer.ckpt", "brain.ckpt", "CKPT.yaml")
        for how, change_ in (
            ("empty", write(name, "")),
            ("half", cut(name, 20)),
            ("gone", lambda path, name=name: (path / name).unlink()),
            ("a folder", become("folder", name)),
            ("a pipe", become("pipe", name)),
            ("a link", become("link", name)),
            ("garbage", write(name, b"\xff\x00" * 9)),
        )
    },
    "swapped files": swap,
    "no checksums, and no meta": lambda path: [
        (path / name).unlink() for name in (SUMS, "CKPT.yaml")
    ],
    "checksums of nothing": write(SUMS, "{}"),
    "checksums, a list": write(SUMS, "[]"),
    "checksums of others": write(SUMS, '{"layer.ckpt": [1, 2]}'),
    "a file more": write("more.ckpt", "x"),
    "a file": as_file,
    "a link": as_link,
    "an empty folder": lambda path: [p.unlink() for p in path.iterdir()],
    "meta of nothing": resealed(write("CKPT.yaml", "")),
    "meta of a list": resealed(write("CKPT.yaml", "[1]")),
    "meta of an object": resealed(
        write("CKPT.yaml", "!!python/object/apply:os.mkdir ['run by a yaml']")
    ),
    "meta of a time": meta(unixtime="yesterday"),
    "meta without a time": meta(unixtime="gone"),
    "meta of an epoch in words": meta(epoch="two"),
    "meta of a list of epochs": meta(epoch=[2]),
    "meta of no epoch's end": meta(**{"end-of-epoch": "gone"}),
    "meta of a NaN": meta(epoch=float("nan")),
}
REFUSED = {
    "code in the weights": saving("layer.ckpt", {**WEIGHTS, "x": Code()}),
    "code in the optimizer": saving("optimizer.ckpt", Code()),
    "code in an old form": saving(
        "layer.ckpt", Code(), _use_new_zipfile_serialization=False
    ),
    "a pickle": resealed(write("layer.ckpt", pickle.dumps(Code()))),
    "weights of NaN": saving("layer.ckpt", NAN),
    "a momentum of NaN": resealed(momentum_of_nan),
    "weights of another network": saving(
        "layer.ckpt", {"weight": torch.ones(5, 5), "bias": torch.ones(5)}
    ),
    "weights of no network": saving("layer.ckpt", {}),
    "a list of weights": saving("layer.ckpt", [1, 2]),
    "a number for weights": saving("layer.ckpt", 3),
    "weights in words": saving("layer.ckpt", {**WEIGHTS, "bias": "none"}),
    "an optimizer of nothing": saving("optimizer.ckpt", {}),
    "an optimizer in words": saving(
        "optimizer.ckpt", {"state": "x", "param_groups": "y"}
    ),
    "truncated and sealed": resealed(cut("layer.ckpt", 300)),
    "empty and sealed": resealed(write("layer.ckpt", "")),
    "no weights, and sealed": resealed(lambda p: (p / "layer.ckpt").unlink()),
    "no counter, and sealed": resealed(lambda p: (p / "counter.ckpt").unlink()),
    "a counter in words": resealed(write("counter.ckpt", "two")),
    "an empty counter": resealed(write("counter.ckpt", "")),
    "a recipe of bytes": resealed(write("recipe.ckpt", b"\xff\xfe\x00")),
    "a recipe that is not a YAML": resealed(write("recipe.ckpt", "a: [")),
    "statistics in words": resealed(write("brain.ckpt", "no JSON")),
    "statistics of a list": resealed(write("brain.ckpt", "[1]")),
}


def resumed(saved, tmp_path, spoil, monkeypatch, **options):
    """A run that resumes from spoilt checkpoints; the run, and what it said."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "save"
    shutil.copytree(saved, folder)
    (folder / "mine.txt").write_text("mine")
    (folder / "damaged-mine").mkdir()
    spoil(folder / "CKPT+2")
    before = snapshot(folder)
    run = run_of(folder, **options)
    _, said = sentence_or_result(run.brain.checkpointer.recover_if_possible)
    # no code was run, and nothing else was touched
    assert set(os.listdir(tmp_path)) == {"save"}
    after = snapshot(folder)
    for name, held in before.items():
        moved = name.replace("CKPT+2", "damaged-CKPT+2", 1)
        assert after.get(name, after.get(moved)) == held, name
    assert torch.equal(run.layer.bias, run.layer.bias.nan_to_num())
    return run, said


@pytest.mark.parametrize("spoil", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_checkpoint_is_not_used(spoil, saved, tmp_path, monkeypatch):
    run, said = resumed(saved, tmp_path, spoil, monkeypatch)
    assert said is None
    assert run.layer.weight.eq(1).all() and run.counter.current == 1


@pytest.mark.parametrize("spoil", REFUSED.values(), ids=list(REFUSED))
def test_a_checkpoint_that_does_not_fit_is_a_sentence(
    spoil, saved, tmp_path, monkeypatch
):
    _, said = resumed(saved, tmp_path, spoil, monkeypatch)
    assert "CKPT+2 does not fit this recipe: " in said
    assert "delete this checkpoint" in said and "weights_only" not in said


def test_another_network_is_a_sentence(saved, tmp_path, monkeypatch):
    _, said = resumed(saved, tmp_path, lambda _: 0, monkeypatch, inputs=4)
    assert "CKPT+2 does not fit this recipe: " in said


def test_there_are_fifty():
    assert len(DAMAGED) + len(REFUSED) >= 50
