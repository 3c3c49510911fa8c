"""Training steps with tensors of a device that this machine does not have.

    python steps_on_a_device.py CASE ...

A case is a recipe's name, with options behind `` + ``: ``padded``, ``noise`` or
a ``key=value`` of the YAML. PyTorch's fake tensors have shapes and a device,
but no values. An operation on tensors of two devices is therefore an error, and
so is reading a value, for which a real GPU would have to wait. Copies from the
host, for which it would wait too, are counted. Prints a line for each case.
"""

import contextlib
import csv
import pathlib
import shlex
import sys
import traceback
import types

import numpy as np
import pandas as pd
import speechbrain as sb
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _setup_privateuseone_for_python_backend,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
sys.path.insert(0, str(RECIPE))

import train_speaker_embeddings  # noqa: E402

from speechbrain_ext.utils.recipe import load_recipe  # noqa: E402

DEVICE = "gpu:0"
COPIES = torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default
# of the flags of tests/recipes/VoxCeleb.csv; the others make a network small
LEFT_OUT = "data_folder output_folder start_from precision device batch_size"
SPEAKERS = [f"speaker {number}" for number in range(20)]
MANY = 10**6  # batches after which a loss checks its inputs no more
SIZE = 8, 16000


class Copies(TorchDispatchMode):
    """Counts the copies between devices for which the host waits."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        """Calls the operation."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function in COPIES:
            source = args[1] if function is COPIES[0] else args[0]
            waits = not kwargs.get("non_blocking", args[2:] == (True,))
            self.count += waits and source.device.type != result.device.type
        return result


class Batch:
    """A batch whose tensors get to the device, and lose their values, there."""

    def __init__(self, enter, options):
        self.enter, self.options = enter, options
        self.seed, self.id = np.arange(SIZE[0]), SPEAKERS[: SIZE[0]]
        shares = np.ones(SIZE[0])
        if "padded" in options:
            shares = np.linspace(0.5, 1, SIZE[0])
        self.sig = types.SimpleNamespace(lengths=shares)

    def to(self, device):
        """The batch on the device; nothing has a value from here on."""
        self.enter()
        wavs = torch.empty(SIZE, device=device)
        self.sig = wavs, torch.empty(SIZE[0], device=device)
        labels = torch.empty(SIZE[0], 1, dtype=torch.int64, device=device)
        self.spk_id_encoded = types.SimpleNamespace(data=labels)
        self.row = labels.squeeze(1)
        if "noise" in self.options:
            response = torch.empty(SIZE[0], 800, device=device)
            self.noise = types.SimpleNamespace(data=torch.empty_like(wavs))
            self.response = types.SimpleNamespace(data=response)
        return self


def move(module, mode):
    """Makes parameters and buffers fake ones of the device."""
    moved = {}

    def one(tensor):
        if tensor is not None and id(tensor) not in moved:
            with mode:
                new = torch.empty_like(mode.from_tensor(tensor), device=DEVICE)
            if isinstance(tensor, torch.nn.Parameter):
                new = torch.nn.Parameter(new, tensor.requires_grad)
            moved[id(tensor)] = new, tensor  # the old one keeps its number
        return tensor if tensor is None else moved[id(tensor)][0]

    for part in module.modules():
        for own in (part._parameters, part._buffers):
            own.update({name: one(tensor) for name, tensor in own.items()})


def make_brain(name, options, mode):
    """The Brain of a recipe, small and on the device."""
    with open(ROOT / "tests" / "recipes" / "VoxCeleb.csv", newline="") as file:
        rows = csv.DictReader(file)
        row = next(
            r for r in rows if r["Hparam_file"].endswith(f"/{name}.yaml")
        )
    flags = [flag[2:] for flag in shlex.split(row["test_debug_flags"])]
    flags = [f for f in flags if f.partition("=")[0] not in LEFT_OUT.split()]
    flags += ["data_folder=none", *(o for o in options if "=" in o)]
    overrides = "\n".join(flag.replace("=", ": ", 1) for flag in flags)
    keys = train_speaker_embeddings.KEYS
    hparams, text = load_recipe(ROOT / row["Hparam_file"], overrides, keys)
    encoder, hparams["start_from"] = hparams["label_encoder"], None
    for speaker in SPEAKERS:
        encoder.add_label(speaker)
    manifest = pd.DataFrame({"spk_id": SPEAKERS})
    brain = train_speaker_embeddings.SpeakerBrain(
        [],
        modules=train_speaker_embeddings.make_modules(hparams, text),
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={"device": "cpu"},
        train_sampler=range(10),
        label_filter=hparams["label_filter"],
        manifest=manifest.assign(spk_id_clean=SPEAKERS[1:] + SPEAKERS[:1]),
        labels=np.arange(len(SPEAKERS))[:, None],
        label_encoder=encoder,
    )
    others = brain.label_filter, brain.label_statistics
    for module in filter(None, (*brain.modules.values(), *others)):
        move(module, mode)
    # torch has no random generator for this device
    if hasattr(brain.modules.compute_features, "dither"):
        brain.modules.compute_features.dither = 0
    loss = brain.modules["loss"]
    loss._batches = loss._trained = MANY
    brain.device, brain.epoch, brain.step = DEVICE, 9, 1
    brain.modules.train()
    brain.init_optimizers()
    return brain


def step(name, options):
    """Makes a training step; returns the number of copies."""
    mode, copies = FakeTensorMode(), Copies()
    brain = make_brain(name, options, mode)
    with contextlib.ExitStack() as modes:

        def enter():
            modes.enter_context(mode)
            modes.enter_context(copies)

        train, batch = sb.Stage.TRAIN, Batch(enter, options)
        outputs = brain.compute_forward(batch, train)
        # a metric loss counts the speakers, for which it waits
        loss = outputs.square().mean()
        if not brain.modules["loss"].waits_anyway:
            loss = brain.compute_objectives(outputs, batch, train)
        loss.backward()
        brain.optimizer.step()
    trained = brain.optimizer.param_groups[0]["params"]
    places = {p.grad.device.type for p in trained if p.grad is not None}
    if places != {"gpu"}:
        raise ValueError(f"gradients on {places}")
    return copies.count


def main(cases):
    """Runs all cases; returns 1 if one is not as it must be."""
    _setup_privateuseone_for_python_backend("gpu")
    failed = False
    for case in cases:
        name, *options = case.split(" + ")
        try:
            said = f"copies: {step(name, options)}"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)
            place = [f for f in place if "speechbrain_ext" in f.filename][-1:]
            said = f"{type(error).__name__}: {error} {place}"
        failed |= said != "copies: 0"
        print(case, said)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
