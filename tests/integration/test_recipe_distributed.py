"""Training on several processes, killed and resumed, as a user does it."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from recipe_runs import TINY

TRAIN = "train_speaker_embeddings.py"
# no batch statistics: equal on any number of processes but for rounding
PLAIN = {
    "embedding_model": """\
embedding_model: !new:plain_network.PlainNetwork
    input_size: !ref <n_mels>
    lin_neurons: !ref <embedding_size>
""",
    "block_sizes": "",
    "channels": "",
}
OPTIONS = {key: TINY[key] for key in TINY if key not in PLAIN}
OPTIONS |= {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 2}


@pytest.fixture(scope="module")
def plain(recipe, tmp_path_factory):
    """A recipe whose network has no batch statistics."""
    path = tmp_path_factory.mktemp("yaml") / "plain.yaml"
    source = recipe / "hparams" / "resnet_csphereface2_small.yaml"
    text = source.read_text()
    for key, block in PLAIN.items():
        text, replaced = re.subn(rf"(?m)^{key}:.*\n( .*\n)*", block, text)
        assert replaced == 1, key
    path.write_text(text)
    return path


def start(recipe, corpus, folder, yaml, processes, *torchrun, **options):
    """Starts training on some processes; its output goes to said.txt."""
    folder.mkdir()
    options = {"data_folder": corpus, "output_folder": folder} | options
    tests = pathlib.Path(__file__).parents[1]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", *torchrun]
        launcher += [f"--nproc_per_node={processes}"]
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(
            [
                *(*launcher, TRAIN, str(yaml), "--device=cpu"),
                *(f"--{k}={v}" for k, v in (OPTIONS | options).items()),
            ],
            cwd=recipe,
            env=os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}/helpers"},
            stdout=said,
            stderr=said,
        )


def end(run, folder):
    """Waits for a run that must not fail."""
    assert run.wait(300) == 0, (folder / "said.txt").read_text()[-4000:]


def weights(folder):
    """All that a run has exported."""
    return {
        f"{name} {key}": value
        for name in ("embedding_model", "classifier", "loss")
        for key, value in torch.load(
            folder / "pretrained" / f"{name}.ckpt"
        ).items()
    }


def curve(folder):
    """Losses, rates and margins of a run, as logged."""
    lines = (folder / "train_log.txt").read_text().splitlines()
    return [
        [word for word in line.split(", ") if "/s" not in word][:2]
        + [line.split("loss: ")[1].split(",")[0]]
        for line in lines
    ]


@pytest.fixture(scope="module")
def two(recipe, corpus, plain, tmp_path_factory):
    """A run on two processes, the head split over them."""
    folder = tmp_path_factory.mktemp("results") / "two"
    options = {"shard_classifier": True}
    end(start(recipe, corpus, folder, plain, 2, **options), folder)
    return folder


def test_two_processes_with_a_split_head_train_as_one(
    two, recipe, corpus, plain, tmp_path
):
    end(start(recipe, corpus, tmp_path / "one", plain, 1), tmp_path / "one")
    assert curve(two) == curve(tmp_path / "one")
    wanted, found = weights(tmp_path / "one"), weights(two)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)


def test_a_killed_process_ends_the_run_and_a_restart_ends_it_well(
    two, recipe, corpus, plain, tmp_path
):
    folder = tmp_path / "restarted"
    run = start(
        *(recipe, corpus, folder, plain, 2, "--max-restarts=1"),
        shard_classifier=True,
    )
    until = time.monotonic() + 200
    while "Saved the" not in (folder / "said.txt").read_text():
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children")
    os.kill(int(children.read_text().split()[1]), signal.SIGKILL)
    end(run, folder)
    assert "Loading a checkpoint" in (folder / "said.txt").read_text()
    for key, value in weights(two).items():
        assert torch.equal(weights(folder)[key], value), key


def test_bad_input_is_one_message_on_one_process(
    recipe, corpus, plain, tmp_path
):
    run = start(recipe, corpus, tmp_path / "x", plain, 2, batch_size=9)
    assert run.wait(200) != 0
    said = (tmp_path / "x" / "said.txt").read_text()
    assert said.count("multiple of the 2 processes, got 9") == 1


def test_audio_that_is_gone_on_one_process_is_one_message(
    recipe, recipe_folder, corpus, plain, tmp_path
):
    from voxceleb_prepare import prepare_voxceleb

    moving = shutil.copytree(corpus, tmp_path / "corpus")
    prepare_voxceleb(moving, tmp_path / "save", dev_speakers=2, dev_trials=40)
    rows = (tmp_path / "save" / "train.csv").read_text().splitlines()[1:]
    gone = next((moving / "wav").rglob(rows[0].split(",")[0] + ".wav"))
    gone.unlink()
    run = start(
        *(recipe, moving, tmp_path / "x", plain, 2),
        save_folder=tmp_path / "save",
        skip_prep=True,
        train_dataloader_opts="{num_workers: 1}",
    )
    assert run.wait(200) != 0
    said = (tmp_path / "x" / "said.txt").read_text()
    assert said.count(f"error: Cannot read {gone}") == 1
    assert said.count("error: ") == 1
    assert 'train_speaker_embeddings.py", line' not in said
