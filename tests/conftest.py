"""Fixtures that several test files share."""

import math
import os
import pathlib
import sys
import threading
import zlib

import numpy as np
import pytest
import torch
import tqdm
from speechbrain.utils.importutils import LazyModule

from speechbrain_ext.utils import experiment, plots

# Hypothesis asks every loaded module for its file, and SpeechBrain's lazy
# ones would then import what is not installed
LazyModule.__file__ = None

# SpeechBrain's log takes the lock of tqdm, which is one of all processes: a
# forked one that a test kills while it logs would keep it for ever
tqdm.tqdm.set_lock(threading.RLock())

# the compiler would start processes that load PyTorch
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# programs that tests start, not modules that pytest should import
collect_ignore = ["helpers/speechbrain_stand_in"]
pytest_plugins = [
    "fake_hub",
    "recipe_runs",
    "small_corpus",
    "study_repository",
    "verification_runs",
]

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"


@pytest.fixture(autouse=True)
def seeded():
    """Every test begins with the same random state, and restores dtype."""
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def rule_weights():
    """Draws a state dict by a rule, so that no weights have to be stored.

    For key k and shape s: a = default_rng(crc32(k)).standard_normal(s);
    kernels are scaled by sqrt(2 / fan-in), variances 0.5 + |a|, means and
    biases 0.1 a, other vectors 1 + 0.1 a, counters 0.
    """

    def draw(shapes):
        state = {}
        for key, shape in shapes.items():
            rng = np.random.default_rng(zlib.crc32(key.encode()))
            a = rng.standard_normal(tuple(shape))
            if "num_batches_tracked" in key:
                a = np.zeros((), dtype=np.int64)
            elif key.endswith("running_var"):
                a = 0.5 + np.abs(a)
            elif len(shape) > 1:
                a = a * math.sqrt(2.0 / np.prod(shape[1:]))
            elif key.endswith(("running_mean", "bias")):
                a = 0.1 * a
            else:
                a = 1.0 + 0.1 * a
            state[key] = torch.tensor(a)
        return state

    return draw


@pytest.fixture
def no_pictures(monkeypatch):
    """Trainings of this process plot no curves and list no packages.

    This takes as long as their tiny networks. Other processes do both.
    """
    monkeypatch.setattr(plots, "training_curves", lambda *_: None)
    monkeypatch.setattr(experiment, "describe_environment", lambda: "a machine")


@pytest.fixture
def recipe_folder(monkeypatch):
    """The recipe's folder, whose scripts can be imported."""
    monkeypatch.syspath_prepend(str(RECIPE))
    yield RECIPE
    for name in ("voxceleb_prepare", "train_speaker_embeddings"):
        sys.modules.pop(name, None)
