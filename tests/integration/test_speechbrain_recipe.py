"""SpeechBrain's own ECAPA-TDNN recipe with SphereFace2 in it.

A stand-in with the same keys is always run. SpeechBrain's own files are run
too where the environment variable SPEECHBRAIN_CHECKOUT names a clone of it.
"""

import io
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest
import ruamel.yaml
import torch
from conftest import ROOT
from hyperpyyaml import load_hyperpyyaml

from speechbrain_ext.nnet.losses import SphereFace2

EXAMPLE = ROOT / "examples" / "speechbrain_ecapa_sphereface2.sh"
STAND_IN = ROOT / "tests" / "helpers" / "speechbrain_stand_in"
RECIPE = "recipes/VoxCeleb/SpeakerRec/hparams/train_ecapa_tdnn.yaml"


def started(checkout, folder, **options):
    """The losses of the epochs and the saved bias, of a run in a folder."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    flags = [f"--{key}={value}" for key, value in options.items()]
    command = ["sh", EXAMPLE, checkout, "--device=cpu", *flags]
    done = subprocess.run(
        [*command, "--output_folder=results"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log = (folder / "results" / "train_log.txt").read_text()
    losses = [float(loss) for loss in re.findall(r"train loss: (\S+)", log)]
    last = max((folder / "results" / "save").glob("CKPT*/compute_cost.ckpt"))
    return losses, torch.load(last)["bias"].item()


def by_options(path):
    """The recipe with the options of the example."""
    options = re.findall(r"--(\w+)='(.+)'", EXAMPLE.read_text("utf-8"))
    overrides = "\n".join(f"{key}: {value}" for key, value in options)
    return load_hyperpyyaml(path.read_text(), f"data_folder: x\n{overrides}")


def by_hand(path):
    """The recipe with the changes that the document shows."""
    text = (ROOT / "docs" / "using_the_parts.md").read_text("utf-8")
    text = text.partition("edit three places")[2].partition("Then start")[0]
    yaml, stream = ruamel.yaml.YAML(), io.StringIO()
    tree = yaml.load(path)
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        tree.update(yaml.load(block))
    yaml.dump(tree, stream)
    return load_hyperpyyaml(stream.getvalue(), "data_folder: x")


@pytest.fixture
def clone():
    if "SPEECHBRAIN_CHECKOUT" not in os.environ:
        pytest.skip("SPEECHBRAIN_CHECKOUT names no clone of SpeechBrain.")
    return pathlib.Path(os.environ["SPEECHBRAIN_CHECKOUT"]).resolve()


def test_example_trains_the_stand_in(tmp_path):
    losses, bias = started(STAND_IN, tmp_path, data_folder="none")
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert bias != 0


def test_example_trains_speechbrains_own_recipe(clone, corpus, tmp_path):
    # in place of what it downloads
    with zipfile.ZipFile(tmp_path / "noise.zip", "w") as archive:
        for number, path in enumerate(corpus.glob("wav/id20001/*/*.wav")):
            archive.write(path, f"noise/{number}.wav")
    (trials,) = corpus.glob("meta/veri_*.txt")
    losses, bias = started(
        clone,
        tmp_path,
        data_folder=corpus,
        verification_file=trials,
        NOISE_DATASET_URL="noise.zip",
        RIR_DATASET_URL="noise.zip",
        split_ratio=[80, 20],
        out_n_neurons=6,
        sentence_len=0.6,
        number_of_epochs=2,
        batch_size=16,
        num_workers=0,
        step_size=4,
        embedding_model="{channels: [32, 32, 32, 32, 96]}",
    )
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert bias != 0


@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "real"])
def test_document_and_example_make_the_same_recipe(
    real, request, tmp_path, monkeypatch
):
    path = (request.getfixturevalue("clone") if real else STAND_IN) / RECIPE
    monkeypatch.chdir(tmp_path)  # where the checkpointer makes its folder
    before = load_hyperpyyaml(path.read_text(), "data_folder: x")
    for made in (by_options(path), by_hand(path)):
        loss = made["compute_cost"]
        assert isinstance(loss, SphereFace2)
        assert (loss.margin_type, loss.margin, loss.scale) == ("C", 0.2, 32)
        kept, listed = before["modules"], made["modules"]
        assert list(listed) == [*kept, "compute_cost"]
        assert listed["compute_cost"] is loss
        kept = before["checkpointer"].recoverables
        listed = made["checkpointer"].recoverables
        assert list(listed) == [*kept, "compute_cost"]
        assert listed["compute_cost"] is loss
