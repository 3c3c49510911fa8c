"""The runner of studies: each run once, whatever happens to the runner.

The scripts of the recipe are stand-ins here. With the real ones, five kills:
``benchmarks/study_kills.py``.
"""

import contextlib
import copy
import errno
import json
import multiprocessing
import os
import pathlib
import signal
import time

import pytest
from conftest import ROOT
from study_repository import STUDY, records


def processes_of(folder):
    """Processes whose command line names a folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words:
            found.append(int(path.parent.name))
    return [number for number in found if number != os.getpid()]


def test_a_study_is_run_recorded_and_summed_up(call, study, tmp_path):
    record_file = tmp_path / "rows.json"
    assert call(STUDY, f"--json={record_file}", "--jobs=2") == 0
    _, rows = records(tmp_path / "out")
    assert rows == json.loads(record_file.read_text())
    assert study.record.faults(rows) == []
    by_name = {row["name"]: row for row in rows}
    row = by_name["am seed 2 veri_O cosine EER"]
    assert row["value"] == 20.0 and row["interval"] == [10.0, 30.0]
    assert row["clean"] is True and len(row["commit"]) == 40
    assert (tmp_path / "out" / row["scores"]).is_file()
    assert str(tmp_path) not in row["command"]
    assert "--channels=4" in row["command"]
    assert "bound" not in row
    difference = by_name["am minus aam veri_O cosine EER"]
    low, high = difference["interval"]
    assert low <= difference["value"] <= high
    assert difference["seed"] == [[1, 2], [1, 2]]
    lower = by_name["am minus aam veri_O cosine EER, lower end"]
    assert lower["value"] == low and lower["holds"] == (low <= 0)
    # what was fine-tuned is compared with what it started from
    assert by_name["tuned minus aam veri_O cosine EER"]["seed"] == [[1], [1]]
    queue = json.loads((tmp_path / "out" / "queue.json").read_text())
    assert [run["state"] for run in queue] == ["done"] * 5
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| am | 2 | 20.00 [10.00, 30.00] |" in summary
    # from the rows alone
    other = tmp_path / "summary"
    other.mkdir()
    call(STUDY, "--summary", f"--json={record_file}", output_folder=other)
    assert (other / "summary.md").read_text() == summary
    made = {path.name for path in other.glob("[!.]*")}
    assert made == {
        *("summary.md", "summary.csv", "eer.png", "det_veri_O_cosine.png")
    }


def test_what_has_ended_is_collected(call, tmp_path):
    first = {**STUDY, "queue": [{"systems": ["aam", "am"], "seeds": [1]}]}
    assert call(first) == 0
    assert call(STUDY, "--collect") == 1  # not all are done
    queue = json.loads((tmp_path / "out" / "queue.json").read_text())
    states = {run["run"]: run["state"] for run in queue}
    assert states.pop("aam_1") == states.pop("am_1") == "done"
    assert set(states.values()) == {"waiting"}
    assert not (tmp_path / "out" / "runs" / "aam_2").exists()
    _, rows = records(tmp_path / "out")
    seeds = {row["name"]: row["seed"] for row in rows}
    name = "am minus aam veri_O cosine EER"
    assert seeds[name] == [[1], [1]]
    # what followed from rows that are no more
    old = [row | {"name": "old"} for row in rows if row["name"] == name]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(rows + old))
    assert call(STUDY, "--collect", f"--json={path}") == 1
    assert {row["name"] for row in json.loads(path.read_text())} == set(seeds)


def test_what_is_empty_in_a_study_is_left_out(study, tmp_path):
    path = tmp_path / "study.yaml"
    empty = {"compare": None, "options": None, "systems__am__options": None}
    path.write_text(json.dumps(changed(**empty)))
    found = study.study_file.read_study(path)
    assert found["options"] == {} and found["compare"] == []
    run = study.study_file.runs_of(found)["am_1"]
    assert run["options"] == {}


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "benchmarks" / "studies").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_the_studies_of_this_repository_can_run(path, call, study, tmp_path):
    content = study.study_file.read_study(path)
    wespeaker = tmp_path / "wespeaker"
    (wespeaker / "wespeaker" / "models").mkdir(parents=True)
    runs = study.study_file.check_study(content, ROOT, call.data, wespeaker)
    assert len(runs) >= 15
    # every system is run, and every comparison has its runs
    used = {run["system"] for run in runs.values()}
    assert used == set(content["systems"])
    seeds = {name: set() for name in used}
    for run in runs.values():
        seeds[run["system"]].add(run["seed"])
    for names in content["compare_increases"]:
        assert set.intersection(*(seeds[name] for name in names))


def test_a_study_has_the_keys_of_its_base(study, tmp_path):
    folder = ROOT / "benchmarks" / "studies"
    paths = folder / "noise.yaml", folder / "noise_small_network.yaml"
    base, small = map(study.study_file.read_study, paths)
    assert base.keys() == small.keys()
    differing = {key for key in base if base[key] != small[key]}
    assert differing == {"name", "options"}
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(ValueError, match="must have no `base` of its own"):
        study.study_file.read_study(tmp_path / "a.yaml")


# After which file the runner is killed
MOMENTS = (
    "study.json",
    "runs/aam_1/training/calls.txt",
    "runs/aam_1/verification/calls.txt",
    "runs/am_1/record.json",
    "runs/aam_2/training/pretrained",
)


def kill_when(runner, path):
    """Kills a runner once a file is there."""
    limit = time.monotonic() + 300
    while not path.exists():
        assert runner.is_alive() and time.monotonic() < limit
        time.sleep(0.01)
    os.kill(runner.pid, signal.SIGKILL)
    runner.join()


def test_kills_repeat_nothing(call, tmp_path):
    (call.data / "slow").touch()
    assert call(STUDY, name="alone") == 0
    context = multiprocessing.get_context("fork")
    folder, written = tmp_path / "killed", {}
    for moment in MOMENTS:
        runner = context.Process(
            target=call, args=(STUDY,), kwargs={"name": "killed"}
        )
        runner.start()
        kill_when(runner, folder / moment)
        limit = time.monotonic() + 30
        while processes_of(folder) and time.monotonic() < limit:
            time.sleep(0.01)
        assert processes_of(folder) == []
        for path in folder.glob("runs/*/record.json"):
            stamp = path.stat().st_mtime_ns
            assert written.setdefault(path, stamp) == stamp
    assert call(STUDY, name="killed") == 0
    assert len(written) >= 2
    for path, stamp in written.items():
        assert path.stat().st_mtime_ns == stamp
    assert records(folder)[0] == records(tmp_path / "alone")[0]
    calls = [
        path.read_text().count("called")
        for path in folder.glob("runs/*/*/calls.txt")
    ]
    assert len(calls) == 10 and sum(calls) <= 10 + len(MOMENTS)


def test_a_killed_run_goes_on_while_the_runner_lives(call, tmp_path):
    (call.data / "slow").touch()
    context = multiprocessing.get_context("fork")
    runner = context.Process(target=call, args=(STUDY,))
    runner.start()
    limit = time.monotonic() + 300
    while not (tmp_path / "out/runs/am_1/training/calls.txt").exists():
        assert runner.is_alive() and time.monotonic() < limit
        time.sleep(0.02)
    for process in processes_of(tmp_path / "out/runs/am_1"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    runner.join(600)
    queue = json.loads((tmp_path / "out" / "queue.json").read_text())
    assert [run["state"] for run in queue] == ["done"] * 5


def test_what_fails_is_marked_and_tried_again_when_asked(call, tmp_path):
    content = copy.deepcopy(STUDY)
    content["queue"] = [
        {"systems": ["aam", "tuned"], "seeds": [13]},
        {"systems": ["am"], "seeds": [1]},
    ]
    assert call(content) == 1
    for _ in range(2):
        queue = json.loads((tmp_path / "out" / "queue.json").read_text())
        states = {run["run"]: run for run in queue}
        assert "the loss is not finite" in states["aam_13"]["reason"]
        assert states["aam_13"]["state"] == "failed"
        assert states["tuned_13"]["waits for"] == "aam_13"
        assert states["am_1"]["state"] == "done"
        assert call(content) == 1  # nothing is tried again by itself
    calls = tmp_path / "out" / "runs" / "aam_13" / "training" / "calls.txt"
    assert calls.read_text().count("called") == 1
    (call.data / "mended").touch()
    assert call(content, "--retry") == 0
    assert calls.read_text().count("called") == 2


class TestFullDisk:
    """A full disk ends a study with one sentence."""

    def test_of_a_run(self, call, tmp_path):
        content = {**STUDY, "queue": [{"systems": ["am"], "seeds": [28]}]}
        said = call(content)
        assert said == "error: No space left while writing to a folder."
        folder = tmp_path / "out" / "runs" / "am_28"
        assert not (folder / "failed.json").exists()
        assert not (folder / "record.json").exists()
        (call.data / "mended").touch()
        assert call(content) == 0

    def test_of_the_record(self, call, study, tmp_path, monkeypatch):
        def full(rows):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        content = {**STUDY, "queue": [{"systems": ["am"], "seeds": [1]}]}
        with monkeypatch.context() as patch:
            patch.setattr(study.record, "text_of", full)
            said = call(content)
        assert said.startswith("error: No space left while writing")
        assert len(said.splitlines()) == 1
        folder = tmp_path / "out" / "runs" / "am_1"
        assert not (folder / "record.json").exists()
        assert call(content) == 0


def changed(**changes):
    """The study with some keys changed."""
    content = copy.deepcopy(STUDY)
    for path, value in changes.items():
        *parts, last = path.split("__")
        node = content
        for part in parts:
            node = node[part]
        node[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(systems__am__recipe="no_such.yaml"), "no_such.yaml"),
        (changed(options__number_of_epoch=1), "number_of_epochs"),
        (changed(options__batch_size="many"), "many"),
        (changed(systems__am__options={"no_such_key": 1}), "no_such_key"),
        (changed(systems__am__options={"seed": 1}), "given by the runner"),
        (changed(verification__options={"scoring": "cosine"}), "scorings"),
        (changed(queue=[{"systems": ["am"], "seeds": [-1]}]), "-1"),
        (changed(queue=[{"systems": ["am"], "seeds": ["a"]}]), "'a'"),
        (changed(queue=[{"systems": ["a"], "seeds": [1]}]), "'a'"),
        (changed(queue=[{"systems": ["tuned"], "seeds": [1]}]), "aam_1"),
        (changed(queue=[{"systems": ["am", "am"], "seeds": [1]}]), "twice"),
        (changed(compare=[["am", "no_such"]]), "no_such"),
        (changed(systems__am={"published": "aam"}), "wespeaker"),
        (changed(systems__am={"option": 1}), "option"),
        (changed(system=1), "system"),
        (changed(queue=[]), "queue"),
        (changed(label_report=3), "label_report"),
        (changed(base="no_such.yaml"), "no_such.yaml does not exist"),
        (changed(options__label_noise={"kind": "merge", "rat": 1}), "'rat'"),
        (changed(options__label_filter={"kind": "ORGat"}), "ORGat"),
        (changed(compare_increases=[["am", "aam"]]), "other clean"),
        (changed(compare_increases=[["am", "aam", "a", "b"]]), "'a'"),
        (changed(compare=[{"am": "aam"}]), "`compare` must have lines"),
        (changed(compare={"am": "aam"}), "`compare` must be a list"),
        (changed(options=[1]), "`options` must be a dict"),
        (changed(systems__am__options=[1]), "system am must be a dict"),
        (changed(queue=["am"]), "A line of `queue` must have the lists"),
        (changed(queue=[{"systems": ["am"], "seeds": 4}]), "`queue` must have"),
    ],
)
def test_a_study_that_cannot_run_is_refused(call, tmp_path, content, words):
    said = call(content)
    assert said.startswith("error: ") and words in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out" / "runs").exists()


def test_a_missing_data_folder_is_refused(call, tmp_path):
    said = call(STUDY, data_folder=tmp_path / "nowhere")
    assert "nowhere is not a folder" in said
    (tmp_path / "empty").mkdir()
    assert "no trial lists" in call(STUDY, data_folder=tmp_path / "empty")
    assert not (tmp_path / "out" / "runs").exists()


def test_a_folder_of_another_setting_is_refused(call):
    content = {**STUDY, "queue": [{"systems": ["am"], "seeds": [1]}]}
    assert call(content) == 0
    other = copy.deepcopy(content)
    other["systems"]["am"]["options"]["channels"] = 8
    assert "another setting" in call(other)
    assert "no_such" in call(content, "--commit=no_such")


def test_a_file_of_another_setting_is_refused(call, tmp_path):
    content = {**STUDY, "queue": [{"systems": ["am"], "seeds": [1]}]}
    rows = tmp_path / "rows.json"
    assert call(content, f"--json={rows}") == 0
    held = rows.read_bytes()
    other = copy.deepcopy(content)
    other["systems"]["am"]["options"]["channels"] = 8
    said = call(other, f"--json={rows}", name="other")
    assert "another setting" in said and "am_1" in said
    assert not (tmp_path / "other" / "runs").exists()
    assert rows.read_bytes() == held
    rows.write_text('[{"name": "older", "value": 1, "unit": "s"}]')
    assert "lacks commit" in call(content, f"--json={rows}")
    said = call(content, f"--json={tmp_path / 'nowhere' / 'rows.json'}")
    assert "its folder does not exist" in said
