"""What goes wrong while training: one sentence, and the same command resumes.

The script's ``main`` runs in this process, so that faults can be put in.
"""

import errno
import importlib
import json
import logging
import os
import re
import shutil
import sys

import pytest
from hostile import snapshot
from recipe_runs import TINY
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.seed import seed_everything

from speechbrain_ext.nnet.losses import SphereFace2

YAML = "hparams/resnet_csphereface2_small.yaml"


@pytest.fixture
def script(recipe_folder, monkeypatch):
    """The training script as a module, its traces in this process undone."""
    root, hook = logging.getLogger(), sys.excepthook
    handlers, level = list(root.handlers), root.level
    raising, seed = logging.raiseExceptions, os.environ.get("SB_GLOBAL_SEED")
    monkeypatch.chdir(recipe_folder)
    yield importlib.import_module("train_speaker_embeddings")
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers, sys.excepthook = handlers, hook
    root.setLevel(level)
    logging.raiseExceptions = raising
    if seed is None:
        os.environ.pop("SB_GLOBAL_SEED", None)
    seed_everything(0)


@pytest.fixture
def train(script, corpus, tmp_path):
    """Trains into tmp_path/out by the script's own command line."""

    def run(**options):
        options = {
            "data_folder": corpus,
            "output_folder": tmp_path / "out",
            **TINY,
            **options,
        }
        flags = [f"--{key}={value}" for key, value in options.items()]
        return script.main([YAML, "--device=cpu", "--noprogressbar", *flags])

    return run


def sentence(train, **options):
    """The one sentence of a run that fails."""
    with pytest.raises(SystemExit) as caught:
        train(**options)
    said = caught.value.code
    assert said.startswith("error: ") and "\n" not in said
    return said


def test_values_that_would_fail_or_do_nothing_are_refused(train, tmp_path):
    said = sentence(train, average_checkpoints=0)
    assert "`average_checkpoints`" in said and "got 0" in said
    said = sentence(train, select="lowest_eer", dev_speakers=0)
    assert "lowest_eer" in said and "`dev_speakers` is 0" in said
    said = sentence(train, loss="{margin: 0.3}")
    assert "margin 0.3" in said and "`final_margin`" in said
    said = sentence(train, opt_class="{lr: 0.5}")
    assert "learning rate 0.5" in said and "`initial_lr`" in said
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_a_refused_run_changes_nothing(
    train, script, corpus, tmp_path, monkeypatch
):
    def busy(*_):
        raise OSError("Another run is writing")

    with monkeypatch.context() as patch:
        patch.setattr(script, "claim_folders", busy)
        assert "Another run" in sentence(train)
        assert os.listdir(tmp_path / "out" / "save") == []
    said = sentence(train, data_folder=tmp_path / "nowhere")
    assert "nowhere" in said and os.listdir(tmp_path / "out") == ["save"]
    speech = sorted((corpus / "wav").glob("*/*/*.wav"))
    lines = [f"{path.parts[-3]} {path}\n" for path in speech]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(lines))
    (tmp_path / "data").mkdir()  # has no trial lists
    given = {"file_list": listed, "data_folder": tmp_path / "data"}
    train(number_of_epochs=1, min_draws=1, **given)
    before = snapshot(tmp_path / "out")
    noise = "{kind: symmetric, rate: 0.5}"
    for options in ({"dev_speakers": 3}, {"label_noise": noise}):
        assert f"`{next(iter(options))}`" in sentence(train, **given, **options)
    # one file of each speaker gets the label of the next one
    for place in range(0, len(lines), 6):
        spoken = lines[place].partition(" ")[2]
        lines[place] = f"{lines[place - 6].partition(' ')[0]} {spoken}"
    listed.write_text("".join(lines))
    assert "was trained with other labels" in sentence(train, **given)
    assert "dev_trials.txt" in (tmp_path / "out" / "log.txt").read_text()
    after = snapshot(tmp_path / "out")
    changed = {name for name in after if after[name] != before.get(name)}
    journal = "save/.speechbrain_ext_files.jsonl"
    # the reason, and manifests that no name links to any more
    assert {n for n in changed if not re.search(r"-\w{12}\.", n)} <= {
        *("log.txt", journal, "save/.speechbrain_ext.lock")
    }
    assert {n for n in before if n not in after} <= {"save/label_encoder.txt"}


def test_a_debug_run_is_no_training(script, corpus, tmp_path):
    options = {"data_folder": corpus, "output_folder": tmp_path / "out", **TINY}
    flags = [f"--{key}={value}" for key, value in options.items()]
    # fewer batches than the development data has
    flags += ["--debug", "--debug_batches=1", "--dev_batch_seconds=1"]
    words = [YAML, "--device=cpu", "--noprogressbar", *flags]
    for _ in range(2):
        script.main(words)
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert "log.txt" in kept
    assert not kept & {"pretrained", "train_log.txt", "epochs.jsonl"}
    checkpoint = tmp_path / "out" / "save" / "CKPT+2026-01-02+03-04-05+00"
    checkpoint.mkdir()
    before = snapshot(tmp_path / "out")
    with pytest.raises(SystemExit, match="--debug needs .*CKPT.* exists"):
        script.main(words)
    after = snapshot(tmp_path / "out")
    assert {name for name in after if after[name] != before.get(name)} <= {
        "log.txt"
    }


def test_without_a_device_the_best_one_is_used(script, corpus, tmp_path):
    places = {"data_folder": corpus, "output_folder": tmp_path / "out"}
    options = {**TINY, **places}
    flags = [f"--{key}={value}" for key, value in options.items()]
    script.main([YAML, "--noprogressbar", *flags])
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"Device {infer_device()}, precision" in log


def test_a_loss_without_distributed_code_cannot_be_sharded(train, monkeypatch):
    monkeypatch.delattr(SphereFace2, "_shard_loss")
    said = sentence(train, shard_classifier=True)
    assert "SphereFace2 does not support `shard_classifier`" in said
    assert "Set `shard_classifier` to False" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_is_gone_is_one_sentence(
    workers, train, script, corpus, tmp_path, monkeypatch
):
    moving = shutil.copytree(corpus, tmp_path / "corpus")
    log_training = script.log_training

    def remove(*arguments):
        log_training(*arguments)
        shutil.rmtree(moving / "wav")

    monkeypatch.setattr(script, "log_training", remove)
    options = f"{{num_workers: {workers}, persistent_workers: True}}"
    said = sentence(train, data_folder=moving, train_dataloader_opts=options)
    assert "Cannot read" in said and str(moving / "wav") in said
    # for those who read the log alone
    assert said[7:] in (tmp_path / "out" / "log.txt").read_text()


def test_full_disk_and_what_comes_after_training(train, script, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(script.SpeakerBrain, "log_epoch", full)
    said = sentence(train, dev_speakers=0, min_draws=1)
    assert "No space left" in said and "same command" in said
    monkeypatch.setattr(script.SpeakerBrain, "fit", lambda *_: None)
    said = sentence(train, dev_speakers=0)
    assert "no checkpoint of a whole epoch" in said


def test_interrupted_run_resumes_with_a_larger_batch(
    train, script, tmp_path, monkeypatch, capsys
):
    forward, steps = script.SpeakerBrain.compute_forward, []

    def interrupted(brain, batch, stage):
        steps.append(stage)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return forward(brain, batch, stage)

    monkeypatch.setattr(script.SpeakerBrain, "compute_forward", interrupted)
    every = {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 1}
    with pytest.raises(SystemExit) as caught:
        train(**every, min_draws=2)
    assert caught.value.code == 130
    said = capsys.readouterr().err
    assert said.count("Interrupted. The same command resumes") == 1
    assert "Traceback" not in said
    # five of six batches of 8 are done; of 24 there are two an epoch
    train(**every, batch_size=24, min_draws=4)
    out = tmp_path / "out"
    log = (out / "log.txt").read_text()
    assert "resumes behind 3" in log  # of 4
    lines = (out / "train_log.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "epoch: 1/2",
        "epoch: 2/2",
    ]
    assert " left" in lines[0] and lines[0].count("train") == 1
    assert "Device cpu, precision fp32, 0 DataLoader" in log
    assert "s of speech" in log
    assert "matplotlib" not in log and "torchvision" not in log
    history = (out / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in history] == [1, 2]
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
