#!/usr/bin/env python3
"""Time and memory of refusing hostile pretrained folders.

    python benchmarks/hostile_folders.py [--quick] [--json FILE]

Each folder of tests/helpers/hostile_folders.py is loaded by ``load_folder`` in
a process of its own, and must be refused. Rows have the largest values of all:
the time of the whole process, which includes the import of torch and
SpeechBrain, and its processor time; the time of ``load_folder`` alone; and the
peak memory of the process.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import ROOT, finish, parser, print_header, print_row, row

LOAD = """
import json, resource, sys, time
from speechbrain_ext.inference.safe_loading import load_folder
start, refused = time.perf_counter(), False
try:
    load_folder(sys.argv[1])
except (ValueError, OSError):
    refused = True
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_SELF)
figures = {"refused": refused, "loading": seconds}
# ru_maxrss would have the memory of the process that forked
with open("/proc/self/status") as status:
    kib = next(line for line in status if line.startswith("VmHWM"))
figures |= {"peak": 1024 * int(kib.split()[1])}
figures |= {"processor": used.ru_utime + used.ru_stime}
print(json.dumps(figures))
"""


def measure(folder, outside):
    """Loads a folder in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=outside,
        check=True,
    )
    seconds = time.perf_counter() - start
    return json.loads(done.stdout) | {"process": seconds}


def measure_all(folders, work):
    """What each hostile folder took, by its name."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    from hostile_folders import HOSTILE
    from verification_runs import export_encoder

    good = export_encoder(work / "good", ["a", "b"])
    outside = work / "outside"
    outside.mkdir()
    shutil.copy(good / "embedding_model.ckpt", outside / "secret.ckpt")
    shutil.copy(good / "hyperparams.yaml", outside / "secret.yaml")
    found = {"": measure(good, outside)}
    for name in list(HOSTILE)[:folders]:
        folder = shutil.copytree(good, work / "hostile")
        HOSTILE[name][0](folder, outside)
        found[name] = measure(folder, outside)
        shutil.rmtree(folder)
    return found


def largest(found, name, key, unit, bound=None, times=1):
    """The row of a largest value; it names the folder."""
    folder = max(found, key=lambda one: found[one][key])
    made = row(name, times * found[folder][key], unit, bound)
    return made | {"folder": folder}


def rows_of(found):
    """Rows of what the folders took."""
    good = found.pop("")
    refused = sum(one["refused"] for one in found.values())
    return [
        row("folders", len(found), "folders"),
        row("refused", refused, "folders", len(found), at_least=True),
        largest(found, "whole process, largest", "process", "s", 5),
        largest(found, "its processor time, largest", "processor", "s"),
        largest(found, "loading alone, largest", "loading", "s", 5),
        largest(found, "peak memory, largest", "peak", "MB", 1000, 1e-6),
        row("good folder, whole process", good["process"], "s"),
        row("good folder, loading alone", good["loading"], "s"),
        row("good folder, peak memory", 1e-6 * good["peak"], "MB"),
    ]


def main():
    """Prints the table and writes the record."""
    arguments = parser(__doc__, "ten folders").parse_args()
    print_header()
    with tempfile.TemporaryDirectory() as work:
        found = measure_all(10 if arguments.quick else None, Path(work))
    record = rows_of(found)
    for one in record:
        print_row(one)
    finish(record, arguments.json)


if __name__ == "__main__":
    main()
