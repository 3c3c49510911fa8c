"""A study continues elsewhere from the small files of its runs."""

import copy
import importlib
import json

import numpy as np
import pytest
from study_repository import STUDY, records


@pytest.fixture
def kept(call, tmp_path):
    """The folder of small files of a study, and its rows."""
    folder = tmp_path / "kept"
    assert call(STUDY, f"--keep={folder}", "--replicates=50") == 0
    return folder, records(tmp_path / "out")[0]


def test_what_is_kept_gives_the_same_figures(call, kept, tmp_path):
    folder, rows = kept
    names = {path.name for path in folder.glob("*.npz")}
    assert names == {
        *("aam_1.npz", "aam_2.npz", "am_1.npz", "am_2.npz", "tuned_1.npz")
    }
    options = {"name": "new", "work_folder": tmp_path / "trees"}
    assert call(STUDY, f"--keep={folder}", "--replicates=50", **options) == 0
    assert records(tmp_path / "new")[0] == rows
    # only what others start from was trained again
    trained = (tmp_path / "new" / "runs").glob("*/training")
    assert [path.parent.name for path in trained] == ["aam_1"]


def test_what_has_ended_before_is_kept_too(call, study, tmp_path):
    folder = tmp_path / "kept"
    assert call(STUDY) == 0
    assert call(STUDY, f"--keep={folder}") == 0
    keeping = importlib.import_module("study_keep")
    rows, scores = keeping.read(folder / "am_2.npz")
    file = "runs/am_2/verification/scores_veri_O_cosine.txt"
    found = json.loads((tmp_path / "out/runs/am_2/record.json").read_text())
    assert rows == found and list(scores) == [file]
    ranks = scores[file][2]
    expected = [
        float(line.split()[2])
        for line in (tmp_path / "out" / file).read_text().splitlines()
    ]
    assert np.argsort(ranks).tolist() == np.argsort(expected).tolist()
    assert len(list(folder.iterdir())) == 6  # the trials are there once


def test_a_run_that_has_begun_goes_on(call, kept, tmp_path):
    folder, _ = kept
    begun = tmp_path / "new" / "runs" / "am_2"
    begun.mkdir(parents=True)
    setting = json.loads((tmp_path / "out/runs/am_2/setting.json").read_text())
    (begun / "setting.json").write_text(json.dumps(setting))
    assert call(STUDY, f"--keep={folder}", name="new") == 0
    trained = (tmp_path / "new" / "runs").glob("*/training")
    assert sorted(path.parent.name for path in trained) == ["aam_1", "am_2"]


def test_what_does_not_fit_is_refused(call, study, kept, tmp_path):
    folder, _ = kept
    other = copy.deepcopy(STUDY)
    other["systems"]["am"]["options"]["channels"] = 8
    said = call(other, f"--keep={folder}", name="new")
    assert said.startswith("error: ") and "another setting" in said
    path = folder / "am_1.npz"
    with np.load(path) as arrays:
        held = dict(arrays)
    rows = json.loads(str(held["rows"]))
    rows[0]["commit"] = "0123456789" * 4
    held["rows"] = np.array(json.dumps(rows))
    np.savez(path, **held)
    said = call(STUDY, f"--keep={folder}", name="third")
    assert "--commit=012345678901" in said
    # also in a folder that has its own runs, where nothing is taken over
    assert "--commit=012345678901" in call(STUDY, f"--keep={folder}")
    for content in (b"", b"no file of ours", path.read_bytes()[:500]):
        path.write_bytes(content)
        said = call(STUDY, f"--keep={folder}", name="third")
        assert said.startswith("error: ") and "am_1.npz is damaged" in said
        assert path.read_bytes() == content
    # all are checked before the first is taken over
    assert not (tmp_path / "third" / "runs").exists()
