"""One run of a study, in a process of its own: trains, verifies, records.

`study.py` starts it. What it did before it was killed is not done again:
training resumes at its checkpoint. Its folder has `log.txt`, `phases.json`
and, once it has ended, `record.json` or `failed.json`.
"""

import argparse
import collections
import errno
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import record
import study_file

from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.utils.error_curve import ErrorCurve
from speechbrain_ext.utils.files import atomic_write, locked_folder

FULL, KILLED = errno.ENOSPC, 128 + signal.SIGKILL  # exit codes
SHOWN = 15  # last lines of the log that say why a run failed
DET_POINTS = 40


class RunFailedError(Exception):
    """A command of the run ended with an error."""


def die_with(parent):
    """Lets this process end when its parent does (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)  # it has ended already


def write_json(path, value):
    """Writes a file of the run, whole."""
    with atomic_write(path) as stream:
        json.dump(value, stream, indent=1)


class Phases:
    """When each command began and ended, over all attempts."""

    def __init__(self, folder):
        self.path, self.log = folder / "phases.json", folder / "log.txt"
        self.held = []
        if self.path.exists():
            self.held = json.loads(self.path.read_text())
        for attempt in self.held:
            if attempt["ended"] is None:  # killed: the log's last word
                ended = self.log.stat().st_mtime if self.log.exists() else 0
                attempt["ended"] = max(ended, attempt["started"])

    def is_done(self, name):
        """Whether a command has ended well."""
        return any(a["phase"] == name and a["done"] for a in self.held)

    def begin(self, name):
        """Notes that a command begins."""
        began = {"phase": name, "started": time.time(), "ended": None}
        self.held.append({**began, "done": False})
        write_json(self.path, self.held)

    def end(self, done):
        """Notes that a command has ended."""
        self.held[-1] |= {"ended": time.time(), "done": done}
        write_json(self.path, self.held)

    def minutes(self, name=None):
        """Minutes of one command, or all, over all attempts."""
        chosen = [a for a in self.held if name in (None, a["phase"])]
        return sum(a["ended"] - a["started"] for a in chosen) / 60


def execute(cwd, words, log):
    """Runs a command; its words go to the log, the last of them to errors."""
    command = [sys.executable, *map(str, words)]
    tail, parent = collections.deque(maxlen=SHOWN), os.getpid()
    log.write(f"\n$ cd {cwd}; {shlex.join(command)}\n")
    log.flush()
    with subprocess.Popen(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=lambda: die_with(parent),  # noqa: PLW1509
    ) as process:
        try:
            for line in process.stdout:
                tail.append(line.rstrip())
                log.write(line)
                log.flush()
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:
        sys.exit(KILLED)
    if process.returncode:
        said = [line for line in tail if line]
        full = [line for line in said if "No space left" in line]
        if full:
            raise OSError(full[-1].removeprefix("error: "))
        raise RunFailedError(
            f"{words[0]} ended with code {process.returncode}:\n"
            + "\n".join(said)
        )


def det_points(scores_file):
    """False acceptances and rejections of a score file, [[fa, fr], ...]."""
    _, _, scores, targets = read_scores(scores_file)
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    curve = ErrorCurve.from_scores(scores[targets], scores[~targets])
    accepted = np.asarray(curve.accepted) / curve.negatives
    rejected = np.asarray(curve.rejected) / curve.positives
    wanted = np.geomspace(max(1e-4, 1 / curve.negatives), 0.6, DET_POINTS)
    # accepted falls with the threshold
    places = np.searchsorted(-accepted, -wanted)
    places = np.unique(np.clip(places, 0, len(accepted) - 1))
    pairs = np.stack([accepted[places], rejected[places]], 1)
    return np.round(pairs, 4).tolist()


def rows_of(name, run, results, folder, phases):
    """The figures of a run."""
    for phase in dict.fromkeys(a["phase"] for a in phases.held):
        words = f"{run['system']} seed {run['seed']} {phase}"
        yield record.row(words, phases.minutes(phase), "min")
    for found in results:
        words = f"{run['system']} seed {run['seed']} "
        words += f"{found['trials']} {found['scoring']}"
        scores = study_file.results_folder(run, folder) / found["scores"]
        about = {"system": run["system"], "trials": found["trials"]}
        about |= {"scoring": found["scoring"]}
        for key in found:
            if key != "EER %" and not key.startswith("minDCF"):
                continue
            if key.endswith("interval"):
                continue
            figure, _, unit = key.partition(" %")
            unit = "%" if key == "EER %" else ""
            row = record.row(f"{words} {figure}", found[key], unit, digits=4)
            row |= about | {"figure": figure}
            if f"{key} interval" in found:
                ends = found[f"{key} interval"]
                row["interval"] = [round(end, 4) for end in ends]
            if figure == "EER":
                row["scores"] = str(scores.relative_to(folder.parents[1]))
                row["det"] = det_points(scores)
            yield row


def do(name, run, folder, tree, data_folder, wespeaker):
    """All phases of a run that are not done, and its record."""
    phases = Phases(folder)
    made = study_file.commands(run, folder, tree, data_folder, wespeaker)
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        for phase, (cwd, words) in made.items():
            if phases.is_done(phase):
                continue
            phases.begin(phase)
            try:
                execute(cwd, words, log)
            except RunFailedError:
                phases.end(False)
                raise
            phases.end(True)
    results = study_file.results_folder(run, folder) / "results.json"
    results = json.loads(results.read_text())
    source = record.provenance(
        run["seed"],
        phases.minutes(),
        "; ".join(shlex.join(["python", *words]) for _, words in made.values()),
        tree,
    )
    # paths say nothing to others
    for path, word in (
        (folder.parent, "RUNS"),
        (data_folder, "DATA"),
        (wespeaker, "WESPEAKER"),
    ):
        if path is not None:
            source["command"] = source["command"].replace(str(path), word)
    rows = [
        {**row, **source, "setting": run}
        for row in rows_of(name, run, results, folder, phases)
    ]
    write_json(folder / "record.json", rows)


def main():
    """Does the run that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--setting", required=True, help="JSON")
    for name in ("folder", "tree", "data_folder"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--wespeaker", type=pathlib.Path)
    arguments = parser.parse_args()
    folder, run = arguments.folder, json.loads(arguments.setting)
    try:
        with locked_folder(folder):
            if (folder / "record.json").exists():
                return
            try:
                do(
                    arguments.name,
                    run,
                    folder,
                    arguments.tree,
                    arguments.data_folder,
                    arguments.wespeaker,
                )
            except (RunFailedError, ValueError) as error:
                reason = {"reason": str(error), "setting": run}
                write_json(folder / "failed.json", reason)
                sys.exit(1)
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(FULL if "No space left" in str(error) else 1)


if __name__ == "__main__":
    main()
