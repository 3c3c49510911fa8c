"""Training through wrong labels with a filter, as a user does it."""

import json
import time

import pytest
import torch
from recipe_runs import TINY, train
from test_recipe_distributed import start, weights

from speechbrain_ext.processing.label_filters import FILTERS

NOISE = {"label_noise": "{kind: symmetric, rate: 0.4, exact: True}"}
OPTIONS = {"ORGate": ", top_k: 1"}
STEPS = {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 1}


def options(name):
    """Options of a run with wrong labels and a filter."""
    more = OPTIONS.get(name, "")
    chosen = f"{{kind: {name}, warm_up: 1{more}}}"
    found = NOISE | {"label_filter": chosen, "number_of_epochs": 3}
    if name == "SubCenterDrop":
        found["yaml"] = "resnet_aam_subcenter_small.yaml"
    return found


def history(folder):
    """The figures of all epochs but those that depend on the clock."""
    clock = ("seconds left", "train utterances/s", "train data wait")
    lines = (folder / "epochs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


@pytest.mark.parametrize("name", FILTERS)
def test_a_killed_run_with_a_filter_ends_as_one_left_alone(
    name, recipe, corpus, tmp_path
):
    alone, folder = tmp_path / "alone", tmp_path / "killed"
    chosen = TINY | options(name) | STEPS
    done = train(recipe, corpus, alone, **chosen)
    assert done.returncode == 0, done.stderr
    said = (alone / "train_log.txt").read_text()
    for words in ("clean accuracy", "memorised", "filter recall", "filter AUC"):
        assert said.count(words) == 3
    yaml = "hparams/" + chosen.pop("yaml", "resnet_csphereface2_small.yaml")
    run = start(recipe, corpus, folder, yaml, 1, **chosen)
    words = folder / "said.txt"
    while words.read_text().count("Saved the") < 6 and run.poll() is None:
        time.sleep(0.01)
    run.kill()
    run.wait()
    done = train(recipe, corpus, folder, **TINY | options(name) | STEPS)
    assert done.returncode == 0, done.stderr
    assert "Loading a checkpoint" in done.stdout + done.stderr
    for key, value in weights(alone).items():
        assert torch.equal(weights(folder)[key], value), key
    assert history(folder) == history(alone)
