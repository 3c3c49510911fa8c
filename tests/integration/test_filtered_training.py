"""Training through wrong labels with a filter, as a user does it."""

import json
import time

import pytest
import torch
from recipe_runs import TINY, train
from recipe_runs import run as run_script
from test_recipe_distributed import start, weights

NOISE = {"label_noise": "{kind: symmetric, rate: 0.4, exact: True}"}
FILTER = {"label_filter": "{kind: ORGate, top_k: 1, warm_up: 1}"}
OPTIONS = TINY | NOISE | FILTER | {"number_of_epochs": 3}
STEPS = {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 1}


def history(folder):
    """The figures of all epochs but those that depend on the clock."""
    clock = ("seconds left", "train utterances/s", "train data wait")
    lines = (folder / "epochs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


REFUSED = [
    ("resnet_ge2e_small.yaml", "{kind: LossGate}", "metric loss GE2E"),
    ("resnet_aam_small.yaml", "{kind: SubCenterDrop}", "`sub_centers` of 2"),
    ("resnet_aam_small.yaml", "{kind: LossGate, k: 1}", "unknown option 'k'"),
]


@pytest.mark.parametrize(("yaml", "chosen", "said"), REFUSED)
def test_a_filter_that_cannot_work_is_one_sentence(
    yaml, chosen, said, recipe, corpus, tmp_path
):
    given = {"label_filter": chosen, "output_folder": tmp_path / "out"}
    given |= {"data_folder": corpus}
    done = run_script(recipe, "train_speaker_embeddings.py", yaml, **given)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.csv"))  # nothing was prepared


# every filter on vectors: unittests/test_label_filtering.py
def test_a_killed_run_with_a_filter_ends_as_one_left_alone(
    recipe, corpus, tmp_path
):
    alone, folder = tmp_path / "alone", tmp_path / "killed"
    done = train(recipe, corpus, alone, **OPTIONS)
    assert done.returncode == 0, done.stderr
    said = (alone / "train_log.txt").read_text()
    for words in ("clean accuracy", "memorised", "filter recall", "filter AUC"):
        assert said.count(words) == 3
    picture = (alone / "label_noise.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    yaml = "hparams/resnet_csphereface2_small.yaml"
    run = start(recipe, corpus, folder, yaml, 1, **OPTIONS | STEPS)
    words = folder / "said.txt"
    while words.read_text().count("Saved the") < 6 and run.poll() is None:
        time.sleep(0.01)
    run.kill()
    run.wait()
    done = train(recipe, corpus, folder, **OPTIONS | STEPS)
    assert done.returncode == 0, done.stderr
    assert "Loading a checkpoint" in done.stdout + done.stderr
    for key, value in weights(alone).items():
        assert torch.equal(weights(folder)[key], value), key
    assert history(folder) == history(alone)
