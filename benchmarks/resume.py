#!/usr/bin/env python3
"""Killed and resumed runs, compared with undisturbed runs.

    python benchmarks/resume.py [--quick] [--json FILE]

A small recipe on synthetic voices is killed with SIGKILL ten times and started
again with the same command. The kill hits torchrun, all processes and their
workers, at seeded random moments, during the start and during training. The
weights in the end must equal those of an undisturbed run bit by bit: on one
and on two processes, with no and with two workers, with a checkpoint every
third update. Then one of two processes is killed: torchrun must end within a
minute, and finish with the same weights with --max-restarts=1. In addition,
tests/helpers/kill_points.py kills training, export and verification at ten
calls each that change the disk, fills the disk at five calls, and trains on
five disks that are too small (as root). Weights and scores must then equal
those of an undisturbed run.
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import torch
from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
OPTIONS = {
    "device": "cpu",
    "channels": 4,
    "embedding_size": 16,
    "number_of_epochs": 15,
    "batch_size": 8,
    "sentence_len": 0.6,
    "dev_speakers": 2,
    "dev_trials": 40,
    "average_checkpoints": 3,
    "precision": "fp32",
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 3,
}


def start(corpus, folder, processes, workers, *torchrun):
    """Starts the recipe's training in its own session."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", *torchrun]
        launcher += [f"--nproc_per_node={processes}"]
    options = OPTIONS | {
        "data_folder": corpus,
        "output_folder": folder,
        "train_dataloader_opts": f"{{num_workers: {workers}}}",
    }
    folder.mkdir(exist_ok=True)
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen(
            [
                *launcher,
                "train_speaker_embeddings.py",
                "hparams/resnet_csphereface2_small.yaml",
                "--noprogressbar",
                *(f"--{key}={value}" for key, value in options.items()),
            ],
            cwd=RECIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def saved(folder):
    """Number of checkpoints that the runs in a folder have written."""
    said = folder / "said.txt"
    return said.read_text().count("Saved the") if said.exists() else 0


def wait(run, folder, more, seconds=300):
    """Waits until a run has written more checkpoints, or has ended."""
    wanted, limit = saved(folder) + more, time.monotonic() + seconds
    while run.poll() is None and saved(folder) < wanted:
        if time.monotonic() > limit:
            raise TimeoutError(f"no progress in {seconds} s: {folder}")
        time.sleep(0.05)


def end(run, folder):
    """Waits until a run ends; raises if it failed."""
    if run.wait(900) != 0:
        raise RuntimeError((folder / "said.txt").read_text()[-3000:])


def weights(folder):
    """All weights that a run has exported."""
    names = ("embedding_model", "classifier", "loss")
    return {
        (name, key): value
        for name in names
        for key, value in torch.load(
            folder / "pretrained" / f"{name}.ckpt"
        ).items()
    }


def differing(one, other):
    """Number of tensors that are not bitwise equal."""
    one, other = weights(one), weights(other)
    return sum(not torch.equal(one[key], other[key]) for key in one)


def kill_and_resume(corpus, folder, processes, workers, kills, seed):
    """Kills and resumes a run, then lets it end; returns the kills."""
    rng, done = random.Random(seed), 0
    while done < kills:
        run = start(corpus, folder, processes, workers)
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0, 8))  # during the start
        else:
            wait(run, folder, rng.randint(1, 3))
            time.sleep(rng.uniform(0, 0.5))
        if run.poll() is not None:
            end(run, folder)
            break
        for process in [run.pid, *descendants(run.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        run.wait()
        done += 1
    end(start(corpus, folder, processes, workers), folder)
    return done


def descendants(process):
    """All descendants of a process."""
    listed = pathlib.Path(f"/proc/{process}/task/{process}/children")
    try:
        started = [int(child) for child in listed.read_text().split()]
    except FileNotFoundError:
        return []
    return started + [one for child in started for one in descendants(child)]


def kill_one(corpus, folder, *torchrun):
    """Kills one of two processes; returns the run and the time to its end."""
    run = start(corpus, folder, 2, 0, *torchrun)
    wait(run, folder, 4)
    os.kill(descendants(run.pid)[1], signal.SIGKILL)
    killed = time.monotonic()
    run.wait(900)
    return run, time.monotonic() - killed


def stop_everywhere(corpus, folder, quick):
    """Stops runs at chosen calls, see tests/helpers/kill_points.py."""
    folder.mkdir()
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    counts = (1, 1, 0) if quick else (10, 5, 5 if root else 0)
    names = ("points", "full", "tmpfs")
    flags = [f"--{n}={v}" for n, v in zip(names, counts, strict=True)]
    path = os.pathsep.join(map(str, (ROOT / "tests/helpers", ROOT)))
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tests" / "helpers" / "kill_points.py",
            corpus,
            folder,
        ]
        + [*flags, "--verify"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def note_stops(runs, note):
    """Adds rows for the runs that were stopped."""
    kinds = dict.fromkeys((run["phase"], run["act"]) for run in runs)
    words = {"kill": "killed", "fill": "full disk", "tmpfs": "small tmpfs"}
    for phase, act in kinds:
        some = [r for r in runs if (r["phase"], r["act"]) == (phase, act)]
        name = f"{phase}, {words[act]}: "
        note(name + "runs", len(some), "runs")
        if act != "kill":
            said = [run["stopped"]["said"] for run in some]
            plain = [
                "No space left while" in one and "Traceback" not in one
                for one in said
            ]
            note(name + "not one sentence", plain.count(False), "runs", 0)
        bad = sum(bool(run["again"] or run["left"]) for run in some)
        note(name + "failed or left files, run again", bad, "runs", 0)
        found = sum(len(run["differing"]) for run in some)
        note(name + "differing", found, "tensors and score files", 0)


def main():
    """Prints and writes the record."""
    options = parser(__doc__, "two kills on one process").parse_args()
    print_header()
    record = []

    def note(*arguments, **keywords):
        record.append(row(*arguments, **keywords))
        print_row(record[-1])

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpus = synthesise_corpus(
            folder / "corpus", 6, 3, 2, 3, (0.7, 1.4), trials=40, workers=2
        )
        stops = stop_everywhere(corpus, folder / "stops", options.quick)
        note_stops(stops, note)
        cases = [(1, 0)] if options.quick else [(1, 0), (1, 2), (2, 0), (2, 2)]
        for processes, workers in cases:
            alone = folder / f"alone{processes}"
            if not alone.exists():
                end(start(corpus, alone, processes, 0), alone)
            killed = folder / f"killed{processes}{workers}"
            kills = kill_and_resume(
                corpus,
                killed,
                processes,
                workers,
                kills=2 if options.quick else 10,
                seed=10 * processes + workers,
            )
            name = f"{processes} process(es), {workers} workers: "
            least = None if options.quick else 10
            note(name + "kills", kills, "kills", least, at_least=True)
            note(name + "differing", differing(alone, killed), "tensors", 0)
        if not options.quick:
            _, seconds = kill_one(corpus, folder / "one")
            note("one of two killed: until the end", seconds, "s", 60)
            run, _ = kill_one(corpus, folder / "restart", "--max-restarts=1")
            note("with --max-restarts=1: exit code", run.returncode, "", 0)
            found = differing(folder / "alone2", folder / "restart")
            note("with --max-restarts=1: differing", found, "tensors", 0)
    seeds = [10 * processes + workers for processes, workers in cases]
    finish(record, options.json, seeds)


if __name__ == "__main__":
    main()
