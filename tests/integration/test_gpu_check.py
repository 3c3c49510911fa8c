"""`benchmarks/gpu.py` without a GPU: its parts, what it skips, going on."""

import importlib
import json
import sys
import zipfile

import pytest
import torch
from conftest import ROOT

STATE = ("0" * 40, True)


@pytest.fixture
def check(monkeypatch):
    """The program's modules, ``gpu`` and ``gpu_parts``, without a GPU."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("RECORD_COMMIT", STATE[0])
    names = ("gpu", "gpu_parts", "record", "gpu_throughput", "study_run")
    names += ("study_file", "minivox_published")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    gpu, *_ = (importlib.import_module(name) for name in names)
    monkeypatch.setenv(gpu.READY, "yes")
    yield gpu, sys.modules["gpu_parts"]
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def started(check, monkeypatch):
    """The parts that a call starts; each ends at once, with one row."""
    found = []

    def run_part(name, device, arguments, seconds):
        assert 0 < seconds <= 60 * check[0].PART_MINUTES
        found.append(name)
        label = f"{name}, {device}: finished"
        return [{"name": label, "value": 1.0, "unit": "s"}]

    monkeypatch.setattr(check[0], "run_part", run_part)
    return found


def test_the_parts_are_listed_and_their_functions_exist(
    check, tmp_path, capsys
):
    gpu, parts = check
    assert gpu.main(["--list", f"--work_folder={tmp_path}"]) == 0
    said = capsys.readouterr().out
    for name, part in parts.PARTS.items():
        assert f"\n{name} " in f"\n{said}" and part.about in said
        module, function = part.function.split(".")
        text = (ROOT / "benchmarks" / f"{module}.py").read_text()
        assert f"\ndef {function}(report)" in text


def test_without_a_gpu_each_part_is_skipped_by_name(
    check, started, tmp_path, capsys
):
    gpu, parts = check
    assert gpu.main([f"--work_folder={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in parts.PARTS:
        line = f"SKIPPED: {name} on a GPU: PyTorch finds no GPU"
        assert lines.count(line) == 1
    needing = {name for name, part in parts.PARTS.items() if part.gpus}
    assert started == [name for name in parts.PARTS if name not in needing]


def test_a_part_that_is_done_is_not_repeated(check, started, tmp_path):
    gpu, _ = check
    words = [f"--work_folder={tmp_path}", "--part=losses", "--part=scoring"]
    assert gpu.main(words) == 0
    first = json.loads((tmp_path / "cpu.json").read_text())
    assert [row["commit"] for row in first] == [STATE[0]] * 2
    assert gpu.main(words) == 0
    assert started == ["losses", "scoring"]
    assert gpu.main([*words, "--again"]) == 0
    assert started == ["losses", "scoring"] * 2
    again = json.loads((tmp_path / "cpu.json").read_text())
    assert [row["name"] for row in again] == [row["name"] for row in first]


def test_of_another_commit_it_is_repeated(
    check, started, tmp_path, monkeypatch
):
    gpu, _ = check
    words = [f"--work_folder={tmp_path}", "--part=losses"]
    gpu.main(words)
    sys.modules["record"].state.cache_clear()
    monkeypatch.setenv("RECORD_COMMIT", "1" * 40)
    gpu.main(words)
    assert started == ["losses", "losses"]
    rows = json.loads((tmp_path / "cpu.json").read_text())
    assert [row["commit"] for row in rows] == ["1" * 40]


def test_a_bound_that_does_not_hold_is_said_each_time(
    check, tmp_path, monkeypatch, capsys
):
    gpu, _ = check
    rows = [
        {"name": "losses, cpu: AAM", "value": 2.0, "unit": "x"},
        {"name": "losses, cpu: finished", "value": 1.0, "unit": "s"},
    ]
    rows[0] |= {"bound": 1.0, "holds": False}
    monkeypatch.setattr(gpu, "run_part", lambda *arguments: rows)
    words = [f"--work_folder={tmp_path}", "--part=losses"]
    for _ in range(2):
        assert gpu.main(words) == 1
        assert "Not as it must be: losses" in capsys.readouterr().out


def test_rows_of_a_part_that_was_ended_are_kept(
    check, tmp_path, monkeypatch, capsys
):
    gpu, parts = check
    path = tmp_path / "rows.json"
    report = parts.Report("losses", "cpu", tmp_path, path=path)
    report.note("AAM", 0.5, "x", 1.0)
    rows = json.loads(path.read_text())  # before the part ends
    assert [row["name"] for row in rows] == ["losses, cpu: AAM"]
    monkeypatch.setattr(gpu, "run_part", lambda *arguments: rows)
    words = [f"--work_folder={tmp_path}", "--part=losses"]
    assert gpu.main(words) == 1
    assert "Not as it must be: losses" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "cpu.json").read_text())
    assert row["name"] == "losses, cpu: AAM" and row["holds"]
    gpu.main(words)
    assert "done before" not in capsys.readouterr().out


def test_when_the_minutes_are_over_the_rest_is_named(
    check, started, tmp_path, capsys
):
    gpu, _ = check
    words = [f"--work_folder={tmp_path}", "--part=losses", "--minutes=0"]
    assert gpu.main(words) == 0
    assert started == []
    said = capsys.readouterr().out
    assert "Left: losses. The same command goes on." in said


def test_an_error_in_a_part_is_a_row_that_does_not_hold(
    check, tmp_path, capsys
):
    report = check[1].Report("losses", "cpu", tmp_path)
    with report.check("AAM"):
        raise ValueError("a reason")
    assert report.rows[0]["name"] == "losses, cpu: AAM: errors"
    assert report.rows[0]["holds"] is False
    assert "a reason" in capsys.readouterr().err


def test_a_difference_is_relative_and_a_nan_does_not_hold(check, tmp_path):
    report = check[1].Report("losses", "cpu", tmp_path)
    wanted = torch.tensor([3.0, 4.0])
    report.compare("near", wanted + torch.tensor([0.0, 5e-6]), wanted, 2)
    report.compare("nan", torch.tensor([torch.nan, 4.0]), wanted, 2)
    assert report.rows[0]["value"] == pytest.approx(1.0, abs=0.1)
    assert [row["holds"] for row in report.rows] == [True, False]


def test_a_batch_that_does_not_fit_is_halved(check, capsys):
    class Step:
        device = "cpu"

        def __init__(self, batch):
            self.batch = batch

        def whole(self):
            if self.batch > 70:
                raise torch.OutOfMemoryError("too large")

    made, batch = sys.modules["gpu_throughput"].largest(Step, 256)
    assert (made.batch, batch) == (64, 64)
    said = capsys.readouterr().out
    assert "A batch of 128 does not fit; trying 64." in said


@pytest.mark.parametrize(
    "words, said",
    [
        (["--part=loses"], "`--part` must be one of losses, "),
        (["--wheels=nothing"], "`--wheels` must be a folder with wheels"),
        (["--commit=" + "1" * 40], "`--commit` is for a copy without .git"),
    ],
)
def test_bad_input_is_a_sentence(
    check, monkeypatch, tmp_path, capsys, words, said
):
    gpu, _ = check
    if "--part" not in words[0]:
        monkeypatch.delenv(gpu.READY)
    with pytest.raises(SystemExit) as ended:
        gpu.main([*words, f"--work_folder={tmp_path}"])
    assert said in str(ended.value)


def test_a_wheel_says_its_name(check, tmp_path):
    path = tmp_path / "a_b-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a_b/__init__.py", "")
        archive.writestr("a_b-1.0.dist-info/METADATA", "Name: a.b\n\nText")
    assert check[0].wheel_name(path) == "a.b"
    assert check[0].installed("torch")
    assert not check[0].installed("a.b")


@pytest.mark.parametrize("name, runs", [("minivox", 3), ("resnet34", 2)])
def test_the_studies_for_a_gpu_can_run(check, tmp_path, name, runs):
    study_file = importlib.import_module("study_file")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "veri_O.txt").write_text("1 a/b/1.wav a/c/1.wav\n")
    path = ROOT / "benchmarks" / "studies" / "gpu" / f"{name}.yaml"
    found = study_file.read_study(path)
    assert len(study_file.check_study(found, ROOT, tmp_path, None)) == runs
