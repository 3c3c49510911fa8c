"""Training, export and verification end as ones left alone, whatever happens.

Ten points of each, and real small disks: ``benchmarks/resume.py``.
"""

import json
import pathlib

from processes import run_script

HELPERS = pathlib.Path(__file__).parents[1] / "helpers"
POINTS, FULL = 3, 3


def test_a_stopped_run_ends_as_one_left_alone(corpus, tmp_path):
    words = [HELPERS / "kill_points.py", corpus, tmp_path]
    words += [f"--points={POINTS}", f"--full={FULL}"]
    done = run_script(list(map(str, words)), HELPERS)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == 3 * POINTS + FULL
    assert len({(run["phase"], run["act"]) for run in runs}) == 6
    for run in runs:
        assert run["again"] == 0, run["said"]
        assert run["differing"] == [] and run["left"] == [], run
        assert run["compared"] > 30
        code, said = run["stopped"]["code"], run["stopped"]["said"]
        if run["act"] == "kill":
            assert code == -9, said
            continue
        # a full disk: one sentence, and no half-written file counts as whole
        assert code == 1 and "Traceback" not in said, said
        assert "error: No space left while writing to" in said
