#!/usr/bin/env python3
"""A study whose runner is killed five times, against one left alone.

    python benchmarks/study_kills.py [--quick] [--json FILE]

A small study on synthetic voices, with the recipe's own scripts: two losses,
and one fine-tuned. Its runner is killed with SIGKILL at seeded random
moments, and started again with the same command. All processes must then be
gone, no record may be written again, and the rows must be those of a study
that was left alone. It takes about five minutes on two cores.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

SEED = 7
STUDY = {
    "name": "kills",
    "options": {
        "channels": 4,
        "embedding_size": 16,
        "number_of_epochs": 2,
        "warmup_epochs": 0.5,
        "margin_start_epoch": 1.5,
        "margin_fix_epoch": 2,
        "batch_size": 8,
        "sentence_len": 0.6,
        "precision": "fp32",
        "train_dataloader_opts": {"num_workers": 0},
    },
    "verification": {
        "recipe": "verification_resnet_small.yaml",
        "options": {
            "scorings": ["cosine", "asnorm"],
            "calibrate": [],
            "bootstrap": 20,
            "num_workers": 0,
        },
    },
    "systems": {
        "aam": {"recipe": "resnet_aam_small.yaml"},
        "csphereface2": {"recipe": "resnet_csphereface2_small.yaml"},
        "tuned": {"recipe": "resnet_aam_small.yaml", "start_from": "aam"},
    },
    "queue": [{"systems": ["aam", "csphereface2", "tuned"], "seeds": [42]}],
    "compare": [["tuned", "aam"]],
}


def start(folder, name):
    """Starts the runner."""
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "study.py"),
        str(folder / "study.yaml"),
        f"--data_folder={folder / 'corpus'}",
        f"--output_folder={folder / name}",
        f"--work_folder={folder / 'trees'}",
        "--jobs=2",
    ]
    with open(folder / f"{name}.txt", "a") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def end(runner, folder, name):
    """Waits for the end of a study that must not fail."""
    if runner.wait(900):
        raise RuntimeError((folder / f"{name}.txt").read_text()[-3000:])


def processes_of(folder):
    """How many processes name a folder in their command line."""
    count = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            count += os.fsencode(folder) in path.read_bytes()
        except OSError:
            continue
    return count


def figures(folder):
    """The rows of a study, without times and dates."""
    rows = json.loads((folder / "records.json").read_text())
    varying = ("minutes", "date")
    return [
        {key: value for key, value in one.items() if key not in varying}
        for one in rows
        if one["unit"] != "min"
    ]


def kill_and_go_on(folder, kills, seconds):
    """Kills a study at random moments; kills, processes left, rewritten."""
    moments, done, left, rewritten = random.Random(SEED), 0, 0, 0
    out, written = folder / "killed", {}
    while done < kills:
        runner = start(folder, "killed")
        time.sleep(moments.uniform(0.1, 0.6) * seconds)
        if runner.poll() is not None:
            break
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        done += 1
        limit = time.monotonic() + 10
        while processes_of(out) and time.monotonic() < limit:
            time.sleep(0.1)
        left += processes_of(out)
        for path in out.glob("runs/*/record.json"):
            stamp = path.stat().st_mtime_ns
            rewritten += written.setdefault(path, stamp) != stamp
    end(start(folder, "killed"), folder, "killed")
    rewritten += sum(p.stat().st_mtime_ns != t for p, t in written.items())
    return done, left, rewritten


def main():
    """Prints the table and writes the record."""
    arguments = parser(__doc__, "one kill").parse_args()
    print_header()
    record = []

    def note(*arguments, **options):
        record.append(row(*arguments, **options))
        print_row(record[-1])

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        synthesise_corpus(
            folder / "corpus", 6, 3, 2, 3, (0.7, 1.4), trials=40, workers=2
        )
        (folder / "study.yaml").write_text(json.dumps(STUDY))
        try:
            started = time.perf_counter()
            end(start(folder, "alone"), folder, "alone")
            seconds = time.perf_counter() - started
            wanted = 1 if arguments.quick else 5
            kills, left, rewritten = kill_and_go_on(folder, wanted, seconds)
        finally:
            git = ["git", "-C", str(ROOT), "worktree", "remove", "--force"]
            for made in (folder / "trees").glob("*.made"):
                tree = made.with_suffix("")
                subprocess.run([*git, str(tree)], check=True)
        alone, killed = figures(folder / "alone"), figures(folder / "killed")
        records = len([*(folder / "killed").glob("runs/*/record.json")])
        begun = sum(
            len(json.loads(path.read_text()))
            for path in (folder / "killed").glob("runs/*/phases.json")
        )
        again = begun - 2 * records
    note("kills", kills, "kills", wanted, at_least=True)
    note("runs with a record", records, "runs", 3, at_least=True)
    note("records written again", rewritten, "records", 0)
    differing = sum(one not in killed for one in alone)
    differing += sum(one not in alone for one in killed)
    note("rows that differ from a study left alone", differing, "rows", 0)
    # a kill stops two runs at most, each in one command
    note("commands begun again", again, "commands", 2 * kills)
    note("processes left after a kill", left, "processes", 0)
    finish(record, arguments.json, SEED)


if __name__ == "__main__":
    main()
