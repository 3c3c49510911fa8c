"""Calibrations and figures in an encoder's folder, and faults of it."""

import types

import filelock
import pytest
import torch

from speechbrain_ext.inference import verified
from speechbrain_ext.inference.embedding_store import model_fingerprint
from speechbrain_ext.inference.model_card import model_card
from speechbrain_ext.inference.verified import (
    keep_calibrations,
    keep_cohort,
    keep_figures,
)
from speechbrain_ext.processing.back_end import BackEnd
from speechbrain_ext.processing.calibration import (
    Calibration,
    load_calibrations,
)
from speechbrain_ext.processing.cohort_file import load_cohort
from speechbrain_ext.utils.files import (
    atomic_write,
    lock_output_folder,
)
from speechbrain_ext.utils.temporaries import LOCK

CALIBRATION = {"cosine": Calibration([2.0], 0.5, ["score"])}
ROW = {"trials": "O", "scoring": "cosine", "EER %": 1.5}
NAMES = ("calibration.json", "normalization.npz", "README.md")


@pytest.fixture
def folder(tmp_path):
    """A folder with an encoder's files, and a card that is ours."""
    (tmp_path / "hyperparams.yaml").write_text("a: 1")
    (tmp_path / "embedding_model.ckpt").write_bytes(b"weights")
    with atomic_write(tmp_path / "README.md") as stream:
        stream.write(model_card("seed: 1", 2, 8))
    return tmp_path


@pytest.fixture
def back_end():
    """Eight speakers of a cohort."""
    return BackEnd(torch.eye(8), list("abcdefgh"))


@pytest.fixture
def report():
    """What a finished report of a list has."""
    table = [ROW | {"condition": "f"}]
    parts = ("by gender", table)
    path = types.SimpleNamespace(stem="veri_o")
    return types.SimpleNamespace(rows=[ROW], tables=parts, path=path)


def test_what_was_measured_lies_beside_the_encoder(folder, back_end):
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")
    kept = load_calibrations(folder / NAMES[0])["cosine"]
    assert kept.bias == 0.5
    assert (folder / NAMES[1]).exists()
    keep_calibrations(folder, CALIBRATION, back_end, "utterance")
    assert not (folder / NAMES[1]).exists()  # of older calibrations


def test_a_models_card_gets_the_figures(folder, report):
    report.tables = ("by gender",)
    keep_figures(folder, [report])
    text = (folder / "README.md").read_text()
    assert "| cosine | 1.50 |" in text and "veri_o: by gender" in text


def test_a_card_of_the_users_is_left_alone_with_a_warning(
    folder, report, caplog
):
    report.tables = ()
    keep_figures(folder, [report])
    assert not caplog.text
    (folder / "README.md").write_text("mine")
    keep_figures(folder, [report])
    assert (folder / "README.md").read_text() == "mine"
    assert (
        "README.md was changed, or is your own, so the figures" in caplog.text
    )


@pytest.mark.parametrize("name", NAMES[:2])
def test_beside_a_users_file_nothing_is_written(folder, back_end, caplog, name):
    (folder / name).write_text("mine")
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")
    assert (folder / name).read_text() == "mine"
    other = NAMES[1 - NAMES.index(name)]
    assert not (folder / other).exists()
    assert "gets no calibration.json" in caplog.text


def test_no_calibration_stays_beside_another_cohort(
    folder, back_end, monkeypatch
):
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(verified, "keep_cohort", full)
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")
    assert not (folder / NAMES[0]).exists()


def test_a_folder_that_this_process_has_locked_is_no_other_runs(
    folder, back_end, caplog
):
    lock_output_folder(folder)
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")
    assert "gets no" not in caplog.text
    with pytest.raises(filelock.Timeout):
        filelock.FileLock(folder / LOCK, timeout=0).acquire()


def test_what_a_killed_run_left_is_cleared(folder, back_end):
    left = folder / ".speechbrain_ext-99999999-calibration.json"
    left.touch()
    keep_calibrations(folder, CALIBRATION, back_end, "speaker")
    assert not left.exists()


def test_a_model_of_the_hub_is_left_alone(
    back_end, report, monkeypatch, folder
):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    keep_calibrations("hf:owner/name", CALIBRATION, back_end, "speaker")
    keep_figures("hf:owner/name", [report])
    assert sorted(folder.rglob("*")) == before


def test_the_cohort_belongs_to_this_encoder(folder, back_end):
    keep_cohort(folder, back_end, "speaker")
    found = load_cohort(folder / NAMES[1], model_fingerprint(folder))
    assert torch.equal(found.cohort, back_end.cohort)
    with pytest.raises(ValueError, match="another encoder"):
        load_cohort(folder / NAMES[1], "0" * 64)
