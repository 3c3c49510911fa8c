"""The start of a run: nothing of a user's is touched, and nobody else writes."""

import logging
import os
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from hostile import sentence_or_result, snapshot
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_ext.nnet.losses import SphereFace2
from speechbrain_ext.nnet.schedulers import MarginSchedule, StepSchedule
from speechbrain_ext.utils import experiment, files
from speechbrain_ext.utils.experiment import (
    claim_output_folder,
    log_training,
    offer_verification,
    start_experiment,
)
from speechbrain_ext.utils.files import is_own
from speechbrain_ext.utils.journal import JOURNAL
from speechbrain_ext.utils.temporaries import LOCK

NAMES = ["hyperparams.yaml", "log.txt", "env.log", "train_log.txt", "script.py"]


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Logging, the locks and the hook of the process as they were."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(files, "_HELD", {})
    monkeypatch.setattr(experiment, "describe_environment", lambda: "a machine")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level


def start(folder, text="seed: 1"):
    """Starts a run whose script is beside the folder."""
    script = folder.parent / "script.py"
    script.write_text("pass\n")
    start_experiment(folder, text, script, [folder / "train_log.txt"])
    with open(folder / "train_log.txt", "a") as stream:
        stream.write("epoch 1\n")
    logging.getLogger("any").warning("said")


def end():
    """Does what the end of the process does."""
    _, (_, lock) = files._HELD.popitem()
    lock.release()
    logging.getLogger().handlers.clear()


def test_a_run_can_be_started_again(tmp_path):
    folder = tmp_path / "out"
    for text in ("seed: 1", "seed: 2"):
        start(folder, text)
        end()
    assert sorted(path.name for path in folder.glob("[!.]*")) == sorted(NAMES)
    assert (folder / "hyperparams.yaml").read_text() == "seed: 2"
    assert (folder / "env.log").read_text() == "a machine"
    assert (folder / "train_log.txt").read_text() == "epoch 1\n" * 2
    assert (folder / "log.txt").read_text().count("WARNING - said") == 2
    (folder / "log.txt").write_text("")  # to make room
    start(folder)


def test_a_log_elsewhere_is_not_a_users_file(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("dear")
    script = tmp_path / "script.py"
    script.write_text("pass\n")
    with pytest.raises(FileExistsError, match="notes.txt was not written by"):
        start_experiment(tmp_path / "out", "seed: 1", script, [notes])
    assert notes.read_text() == "dear"
    assert not (tmp_path / "out" / "hyperparams.yaml").exists()


def test_what_ends_the_process_is_in_the_log(tmp_path):
    start(tmp_path / "out")
    try:
        raise KeyError("why")
    except KeyError:
        sys.excepthook(*sys.exc_info())
    assert "KeyError: 'why'" in (tmp_path / "out" / "log.txt").read_text()


HPARAMS = {
    "verification_recipe": "verify.yaml",
    "save_folder": "out/save",
    "data_folder": "/data",
    "dev_label_noise": None,
    "file_list": None,
    "layout": None,
    "trial_lists": None,
}


@pytest.mark.parametrize(
    ("lists", "dev_speakers", "wanted"),
    [
        (["a.txt"], 2, " --calibration_manifest=out/save/dev.csv"),
        (None, 0, ""),
        ([], 2, " --trial_lists=out/save/dev_trials.txt"),
        ([], 0, None),
    ],
)
def test_the_command_to_verify_fits_the_corpus(
    lists, dev_speakers, wanted, caplog
):
    hparams = HPARAMS | {"dev_speakers": dev_speakers}
    with caplog.at_level(logging.INFO):
        offer_verification(hparams, "h/verify.yaml", "enc", "train.csv", lists)
    command = "python speaker_verification_cosine.py h/verify.yaml "
    command += "--data_folder=/data --pretrained_folder=enc "
    command += "--cohort_manifest=train.csv"
    if wanted is None:
        assert "Write a trial list first" in caplog.messages[-1]
    else:
        assert caplog.messages[-1] == command + wanted


@pytest.mark.parametrize(
    ("epochs", "frozen", "start", "said"),
    [
        (
            15,
            0,
            None,
            "The margin is 0 at the end, not `final_margin` 0.2: `marg",
        ),
        (
            30,
            29.5,
            "folder",
            "`margin_fix_epoch` 40, but `number_of_epochs` is 30",
        ),
        (
            39,
            0,
            None,
            "`margin_start_epoch` is 20",
        ),  # it is fixed behind epoch 39
        (40, 39, "folder", None),
        (
            40,
            40,
            "folder",
            "Only the classifier is trained: `frozen_epochs` is 40",
        ),
        (40, 2, None, "`frozen_epochs` is 2, but there is no `start_from`"),
    ],
)
def test_a_training_says_its_batches_and_what_it_is_too_short_for(
    epochs, frozen, start, said, caplog
):
    hparams = SimpleNamespace(
        epoch_counter=EpochCounter(epochs),
        lr_schedule=StepSchedule(0.1, [8]),
        margin_schedule=MarginSchedule(0.0, 0.2, 20, 40),
        modules={"loss": SphereFace2()},
        frozen_epochs=frozen,
        start_from=start,
        train_dataloader_opts={},
    )
    brain = SimpleNamespace(
        hparams=hparams,
        train_sampler=range(6),
        grad_accumulation_factor=4,
        device="cpu",
        device_type="cpu",
        precision="fp32",
    )
    manifest = pd.DataFrame({"duration": [1.0], "spk_id": ["a"]})
    with caplog.at_level(logging.INFO):
        log_training(brain, manifest, 3, 64)
    assert "1 updates an epoch at a global batch of 256 on" in caplog.text
    warned = [r.getMessage() for r in caplog.records if r.levelname != "INFO"]
    assert len(warned) == (said is not None)
    assert said is None or said in warned[0]


STATES = ["file", "changed", "folder", "pipe", "link out", "link", "dangling"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [*NAMES, LOCK, JOURNAL])
def test_a_received_folder_is_refused_or_used_and_changes_nothing_else(
    name, state, tmp_path
):
    folder, diary = tmp_path / "out", tmp_path / "diary"
    diary.write_text("dear")
    folder.mkdir()
    if state == "changed":
        for _ in range(2):
            start(folder)
            end()
    path = folder / name
    if os.path.lexists(path):
        path.unlink()
    if state in ("file", "changed"):
        path.write_text("mine")
    elif state == "folder":
        path.mkdir()
    elif state == "pipe":
        os.mkfifo(path)
    elif state == "link":
        (folder / "mine").write_text("mine")
        path.symlink_to("mine")
    else:
        path.symlink_to(diary if state == "link out" else "/no/such/file")
    before = snapshot(folder)
    _, said = sentence_or_result(start, folder)
    assert diary.read_text() == "dear"
    assert not os.path.exists("/no/such/file")
    if state in ("link out", "dangling"):
        assert "outside its folder" in said
        assert snapshot(folder) == before  # before anything is written
    elif name not in (LOCK, JOURNAL):
        assert name in said
    after = snapshot(folder)
    for kept, held in before.items():
        if is_own(folder / kept) or kept in (LOCK, JOURNAL):
            continue
        if kept in NAMES and kept != name:
            continue  # a log of ours, to which was added
        assert after[kept] == held, kept


LINKS = [LOCK, JOURNAL, "hyperparams.yaml", "train_log.txt", "tensorboard"]


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("script", ["training", "verification"])
def test_scripts_refuse_a_received_folder_before_they_prepare(
    script, name, recipe_folder, tmp_path
):
    if script == "training":
        from train_speaker_embeddings import main

        yaml = "resnet_csphereface2_small.yaml"
        options = []
    else:
        from speaker_verification_cosine import main

        yaml = "verification_resnet_small.yaml"
        (tmp_path / "hyperparams.yaml").write_text("")
        options = [f"--pretrained_folder={tmp_path}"]
    folder, target = tmp_path / "received", tmp_path / "elsewhere"
    folder.mkdir()
    target.mkdir()
    (folder / name).symlink_to(target)
    _, said = sentence_or_result(
        main,
        [
            *(str(recipe_folder / "hparams" / yaml), "--device=cpu"),
            *(f"--data_folder={tmp_path}", f"--output_folder={folder}"),
            *options,
        ],
    )
    assert f"{name} is a link to {target}, outside its folder" in said
    assert not list(target.iterdir())
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_another_scripts_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    start(folder)
    claim_output_folder(folder, folder.parent / "script.py")
    with pytest.raises(ValueError, match="of a run of script.py.*choose"):
        claim_output_folder(folder, "speaker_verification_cosine.py")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.py").touch()  # the user's
    claim_output_folder(tmp_path / "mine", "speaker_verification_cosine.py")
