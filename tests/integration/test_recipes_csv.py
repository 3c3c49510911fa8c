"""Each row of tests/recipes/VoxCeleb.csv is run with its own debug flags."""

import csv
import json
import math
import pathlib
import re
import shlex
import shutil
import sys

import pytest
import torch
from conftest import RECIPE, ROOT
from speechbrain.inference.classifiers import EncoderClassifier
from torch.optim.optimizer import register_optimizer_step_post_hook

from speechbrain_ext.utils.yaml_files import read_yaml

with open(ROOT / "tests" / "recipes" / "VoxCeleb.csv", newline="") as stream:
    ROWS = {
        row["Hparam_file"].rpartition("/")[2].removesuffix(".yaml"): row
        for row in csv.DictReader(stream)
    }
NAMES = {
    kind: [name for name in ROWS if ("verification" in name) == (kind == "v")]
    for kind in "tv"
}
DONE = {}  # output folders of rows that were run


@pytest.fixture
def place(corpus, tmp_path, monkeypatch, no_pictures):
    """An empty folder with a toy corpus where the flags look for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(RECIPE))
    (tmp_path / "results" / "demo").mkdir(parents=True)
    (tmp_path / "results" / "demo" / "corpus").symlink_to(corpus)
    yield tmp_path
    for name in ("train_speaker_embeddings", "speaker_verification_cosine"):
        sys.modules.pop(name, None)


def start(place, name):
    """Runs a row's script on a lone copy of its YAML; its output folder."""
    row = ROWS[name]
    flags = shlex.split(row["test_debug_flags"])
    options = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    for key in ("start_from", "pretrained_folder"):
        if key in options:  # what another row trains
            other = options[key].split("/")[-2]
            if other in DONE:
                copy = place / pathlib.Path(options[key]).parent
                shutil.copytree(DONE[other], copy, symlinks=True)
            else:
                start(place, other)
    yaml = shutil.copy(ROOT / row["Hparam_file"], place)
    if name in NAMES["v"]:
        from speaker_verification_cosine import main
    else:
        from train_speaker_embeddings import main
    main([str(yaml), *flags])
    DONE[name] = place / options["output_folder"]
    return DONE[name]


def failures(folder, checks):
    """What a row's checks find wrong in an output folder."""
    files = re.search(r"file_exists=\[(.*?)\]", checks)[1].split(",")
    found = [f"no {name}" for name in files if not (folder / name).is_file()]
    check = re.search(r"performance_check=\[(.*?)\]", checks)[1].split(",")
    name, key, threshold, where = check
    text = (folder / name).read_text()
    if name.endswith(".json"):
        values = [row[key] for row in json.loads(text) if where in row.values()]
    else:
        values = re.findall(rf"^{where}\b.*\b{key}: ([^,\s]+)", text, re.M)
    for value in map(float, values):
        if not value < float(threshold.removeprefix("<")):
            found.append(f"{key} is {value}")
    return found if values else [*found, f"no {key}"]


@pytest.mark.parametrize("name", NAMES["t"])
def test_training_recipe_makes_updates_and_passes_its_checks(name, place):
    rates = []

    def count(optimizer, *_):
        rates.append(optimizer.param_groups[0]["lr"])

    hook = register_optimizer_step_post_hook(count)
    try:
        folder = start(place, name)
    finally:
        hook.remove()
    assert sum(rate > 0 for rate in rates) >= 2  # a warm-up begins at 0
    assert failures(folder, ROWS[name]["test_debug_checks"]) == []
    log = (folder / "train_log.txt").read_text()
    assert ("EER" in log) == (
        "--dev_speakers" in ROWS[name]["test_debug_flags"]
    )
    encoder = EncoderClassifier.from_hparams(
        source=str(folder / "pretrained"), run_opts={"device": "cpu"}
    )
    embeddings = encoder.encode_batch(0.1 * torch.randn(2, 16000))
    assert embeddings.shape == (2, 1, 16)
    assert embeddings.isfinite().all()


@pytest.mark.parametrize("name", NAMES["v"])
def test_verification_recipe_passes_its_checks(name, place):
    folder = start(place, name)
    assert failures(folder, ROWS[name]["test_debug_checks"]) == []


def test_heavy_networks_have_few_blocks():
    for name, row in ROWS.items():
        recipe = read_yaml(ROOT / row["Hparam_file"])
        few = "--block_sizes=[1,1,1,1]" in row["test_debug_flags"]
        assert few == ("block_sizes" in recipe), name


def test_failures_are_found(tmp_path):
    checks = "file_exists=[a,b] performance_check=[b,train loss,<9.0,epoch: 1]"
    for value, wanted in (
        (8.5, []),
        (9.5, ["train loss is 9.5"]),
        (math.nan, ["train loss is nan"]),
    ):
        line = f"epoch: 1, lr: 0.1 - train loss: {value}, utterances/s: 5\n"
        (tmp_path / "b").write_text(line)
        assert failures(tmp_path, checks) == ["no a", *wanted]
    (tmp_path / "b").write_text("epoch: 10, train loss: 1\n")
    assert failures(tmp_path, checks) == ["no a", "no train loss"]
