"""Training, export and verification end as ones left alone, whatever happens.

Ten points of each, and real small disks: ``benchmarks/resume.py``.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]
POINTS, FULL = 3, 3


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """What became of each run that was stopped, and run again."""
    places = [
        TESTS,
        TESTS / "helpers",
        TESTS.parent,
        os.environ.get("PYTHONPATH", ""),
    ]
    done = subprocess.run(
        [
            *(sys.executable, TESTS / "helpers" / "kill_points.py", corpus),
            *(tmp_path_factory.mktemp("killed"), f"--points={POINTS}"),
            f"--full={FULL}",
        ],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(3 * POINTS + FULL))
def test_a_stopped_run_ends_as_one_left_alone(number, runs):
    assert len(runs) == 3 * POINTS + FULL
    run = runs[number]
    assert run["again"] == 0, run["said"]
    assert run["differing"] == [] and run["left"] == []
    assert run["compared"] > 30
    if run["act"] == "kill":
        assert run["stopped"]["code"] == -9
        return
    # a full disk: one sentence, and no half-written file is counted as whole
    said = run["stopped"]["said"]
    assert run["stopped"]["code"] == 1, said
    assert "Traceback" not in said
    assert "error: No space left while writing to" in said


def test_every_phase_was_stopped(runs):
    stopped = {(run["phase"], run["act"]) for run in runs}
    assert len(stopped) == 6
