#!/usr/bin/env python3
"""Runs every benchmark of two cores with --quick and prints one table.

    python benchmarks/all.py [--data_folder=MINIVOX] \
        [--pretrained_folder=FOLDER] [--wespeaker=CHECKOUT] \
        [--only NAME ...] [--minutes 30] [--json FILE]

`make bench` runs it. A benchmark that needs an option or a package that is
not there is skipped by name. After so many minutes the running benchmark is
stopped and the others are left out by name. Figures of quick runs show that a
benchmark works and the order of its figures; the records are made without
--quick. The exit code is 1 if a benchmark failed or a bound does not hold.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from record import ROOT, machine, state, text_of, versions, write_text

# The options and packages that a benchmark needs, shortest first
PROGRAMS = {
    "frontend": (),
    "backbones": (),
    "precision": (),
    "losses": (),
    "distributed": (),
    "hostile_folders": (),
    "inference": (),
    "scoring": (),
    "training": (),
    "resume": (),
    "study_kills": (),
    "label_filters": (),
    "noise_lists": ("data_folder",),
    "data": ("data_folder",),
    "embedding": ("pretrained_folder", "data_folder"),
    "formats": ("pretrained_folder", "data_folder"),
    "interop": (
        "pretrained_folder",
        "data_folder",
        "onnxruntime",
        "sherpa_onnx",
        "wespeakerruntime",
    ),
    "calibration": ("pretrained_folder", "data_folder"),
    "minivox_published": ("data_folder", "wespeaker"),
}
OPTIONS = ("data_folder", "pretrained_folder", "wespeaker")
USEFUL = {"inference": ("data_folder",), "training": ("data_folder",)}
MORE = {  # words of a quick run
    "label_filters": ["--part", "cost"],
    "minivox_published": ["--seeds", "43"],
}
# The other programs in this folder; `make gpu-check` runs those named gpu
OTHERS = {
    "all": "this one",
    "record": "a part of all benchmarks",
    "tables": "writes the tables of the documents",
    "training_loops": "a part of training",
    "noise_plot": "draws curves",
    "scale": "computes what large corpora cost",
    "study": "runs studies, which take days",
    "study_differences": "a part of study",
    "study_file": "a part of study",
    "study_keep": "a part of study",
    "study_names": "a part of study",
    "study_noise": "a part of study",
    "study_rows": "a part of study",
    "study_run": "a part of study",
    "study_summary": "a part of study",
    "study_tree": "a part of study",
}


def missing(name, given):
    """The options and packages that a benchmark needs and does not have."""
    for need in PROGRAMS[name]:
        if need in OPTIONS:
            if given[need] is None:
                yield f"--{need}"
        elif importlib.util.find_spec(need) is None:
            yield f"the package {need}"


def run(name, given, folder, seconds):
    """Runs a benchmark; its rows, and what went wrong or None."""
    path = folder / f"{name}.json"
    words = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    words += ["--quick", f"--json={path}", *MORE.get(name, ())]
    for option in (*PROGRAMS[name], *USEFUL.get(name, ())):
        if given.get(option) is not None:
            words.append(f"--{option}={given[option]}")
    if name == "minivox_published":
        words.append(f"--output_folder={folder / name}")
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its children are stopped with it
    )
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return [], "stopped: the time is over"
    if not path.exists():
        last = said.strip().splitlines()[-1:] or ["no message"]
        return [], f"failed: {last[0]}"
    return json.loads(path.read_text()), None


def number(value):
    """A figure as a table shows it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows, notes):
    """The Markdown table of (benchmark, row) pairs, and the notes."""
    commit, clean = state()
    changed = "" if clean else ", with changes"
    lines = [f"{machine()}; {versions()}; commit {commit[:12]}{changed}.", ""]
    lines += ["| benchmark | figure | value | unit | bound |"]
    lines += ["|---|---|---|---|---|"]
    for name, one in rows:
        bound = ""
        if "bound" in one:
            holds = "holds" if one["holds"] else "DOES NOT HOLD"
            bound = f"{number(one['bound'])} {holds}"
        cells = name, one["name"], number(one["value"]), one["unit"], bound
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", *(f"- {name}: {said}" for name, said in notes)]
    return "\n".join(lines)


def main():
    """Runs the benchmarks and prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in OPTIONS:
        options.add_argument(f"--{option}", type=pathlib.Path)
    options.add_argument("--only", nargs="+", choices=PROGRAMS)
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--json", type=pathlib.Path, metavar="FILE")
    arguments = options.parse_args()
    given = {
        option: value and value.resolve()
        for option in OPTIONS
        for value in [getattr(arguments, option)]
    }
    rows, notes, failed = [], [], False
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only or PROGRAMS:
            left = 60 * arguments.minutes - (time.monotonic() - started)
            wanted = list(missing(name, given))
            if wanted:
                notes.append((name, f"skipped: needs {', '.join(wanted)}"))
                continue
            if left <= 0:
                notes.append((name, "left out: the time is over"))
                continue
            before = time.monotonic()
            found, wrong = run(name, given, pathlib.Path(folder), left)
            taken = time.monotonic() - before
            rows += [(name, one) for one in found]
            failed |= bool(wrong)
            notes.append((name, wrong or f"{taken:.0f} s"))
            print(f"{name}: {notes[-1][1]}", file=sys.stderr, flush=True)
    if arguments.json:
        write_text(
            arguments.json, text_of([{"of": n} | one for n, one in rows])
        )
    print(table(rows, notes))
    sys.exit(failed or not all(one.get("holds", True) for _, one in rows))


if __name__ == "__main__":
    main()
