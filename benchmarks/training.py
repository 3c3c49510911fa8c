#!/usr/bin/env python3
"""Utterances per second of a whole training, beside its encoder and others.

    python benchmarks/training.py [--data_folder=MINIVOX] [--quick] \
        [--json FILE]
    python benchmarks/training.py --rows=1000000 [--json FILE]

Four loops train the network of the small recipe on the same speech and take
turns: the recipe itself (the script's own Brain, loader, loss, optimizer and
progress bar), its encoder alone (forward and backward on random features, at
the same precision), and the two loops of `training_loops.py`, in the manner of
SpeechBrain's recipe and of WeSpeaker's. The first steps of a turn are not
counted. A rate is the median over the turns; a ratio is the median of those
within a round. Nothing is augmented, as in the small recipe. The time from the
command to the end of the first step is that of a process of its own.

With --rows nothing else is measured: a manifest of that many rows is written,
of 100 utterances a speaker, and the script starts on it. The bound of memory
is for the peak, the first step included. Without a data folder a toy corpus is
made.
"""

import argparse
import contextlib
import copy
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import soundfile
import torch
import training_loops
from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.dataio.manifests import read_manifest, write_manifest
from speechbrain_ext.synthetic.toy_corpus import synthesise_corpus

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
SMALL = RECIPE / "hparams" / "resnet_csphereface2_small.yaml"
WHOLE, BARE = "the recipe", "its encoder alone"
ENCODER_SHARE = 0.9  # of the bare encoder's rate, at least
WAIT = 0.03  # share of the time that is spent waiting for data, at most
FASTER = 1.3  # than the two other loops, at least
START = 20.0  # seconds to the first step, at most
ROWS_START, ROWS_MEMORY = 60.0, 2000.0  # s and MB, for a million rows


class Stopped(BaseException):
    """Carries what was wanted out of the script."""


def script():
    """The recipe's script as a module."""
    sys.path.insert(0, str(RECIPE))
    import train_speaker_embeddings

    return train_speaker_embeddings


def command(data_folder, folder):
    """The options of the script."""
    named = {"data_folder": data_folder, "output_folder": folder}
    flags = [f"--{name}={value}" for name, value in named.items()]
    return [str(SMALL), "--device=cpu", *flags]


def recipe_brain(options):
    """The Brain and the loader that the script makes, before they train."""
    module = script()

    def fit(self, epoch_counter, train_set, valid_set=None):
        raise Stopped(self, train_set)

    module.SpeakerBrain.fit = fit
    try:
        module.main(options)
    except Stopped as stopped:
        brain, loader = stopped.args
    finally:
        del module.SpeakerBrain.fit
    brain.on_fit_start()
    return brain, loader


class Turn:
    """A number of batches of a stream; notes when each was wanted and came.

    The first of them do not count.
    """

    def __init__(self, stream, first, steps):
        self.stream, self.first, self.steps = stream, first, first + steps
        self.wanted, self.came = [], []

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _ in range(self.steps):
            self.wanted.append(time.perf_counter())
            batch = next(self.stream)
            self.came.append(time.perf_counter())
            yield batch
        self.wanted.append(time.perf_counter())

    def seconds(self):
        """Seconds of the steps that count, and those of waiting in them."""
        waits = np.subtract(self.came, self.wanted[:-1])[self.first :]
        return self.wanted[-1] - self.wanted[self.first], waits.sum()


def endless(loader):
    """The batches of a loader, epoch after epoch."""
    sampler = getattr(loader, "batch_sampler", None)
    for epoch in itertools.count(1):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        yield from loader


def bare_encoder(brain, features):
    """A loop of forward and backward, at the Brain's precision."""
    encoder = copy.deepcopy(brain.modules["embedding_model"])

    def train(turn, epoch):
        encoder.train()
        for batch in turn:
            with brain.training_ctx:
                encoder(batch).square().sum().backward()
            encoder.zero_grad(set_to_none=True)

    return itertools.repeat(features), train


def brain_turn(brain):
    """Trains a Brain for a turn as its ``fit`` does for an epoch."""

    def train(turn, epoch):
        with open(os.devnull, "w") as nowhere:
            with contextlib.redirect_stderr(nowhere):  # the progress bar
                brain.modules.train()
                brain._fit_train(turn, epoch, True)

    return train


def loops(data_folder, folder):
    """What takes turns, {name: (stream, train)}, and the size of a batch."""
    brain, loader = recipe_brain(command(data_folder, folder))
    hparams = brain.hparams
    batch = hparams.batch_size
    crops = torch.zeros(batch, round(16000 * hparams.sentence_len))
    manifest = read_manifest(folder / "save" / "train.csv")
    shared = {
        "manifest": manifest,
        "encoder": copy.deepcopy(brain.modules["embedding_model"]),
        "embedding_size": hparams.embedding_size,
        "seconds": hparams.sentence_len,
        "batch_size": batch,
        "workers": hparams.train_dataloader_opts["num_workers"],
    }
    features = torch.randn_like(brain.modules["compute_features"](crops))
    theirs, their_loader = training_loops.speechbrain_manner(**shared)
    plain, plain_loader = training_loops.wespeaker_manner(**shared)
    return {
        WHOLE: (endless(loader), brain_turn(brain)),
        BARE: bare_encoder(brain, features),
        "SpeechBrain's manner": (endless(their_loader), brain_turn(theirs)),
        "WeSpeaker's manner": (endless(plain_loader), plain),
    }, batch


def rates(data_folder, folder, rounds, first, steps, bounds):
    """Rows of the rates, the waiting and the ratios."""
    running, batch = loops(data_folder, folder)
    found = {name: [] for name in running}
    waits = {name: [] for name in running}
    for epoch in range(1, rounds + 1):
        for name, (stream, train) in running.items():
            turn = Turn(stream, first, steps)
            train(turn, epoch)
            seconds, waited = turn.seconds()
            found[name].append(batch * steps / seconds)
            waits[name].append(waited / seconds)
    for name, values in found.items():
        yield spread(name, values, "utterances/s", digits=1)
    most = WAIT if bounds else None
    for name in running:
        if name != BARE:
            bound = most if name == WHOLE else None
            made = spread(f"{name}: data wait", waits[name], "share", bound)
            yield made
    for name in list(running)[1:]:
        pairs = zip(found[WHOLE], found[name], strict=True)
        least = ENCODER_SHARE if name == BARE else FASTER
        yield spread(
            f"{WHOLE} / {name}",
            [ours / other for ours, other in pairs],
            "x",
            least if bounds else None,
            at_least=True,
        )
    yield row("threads", torch.get_num_threads(), "threads", digits=0)


def spread(name, values, unit, bound=None, at_least=False, digits=3):
    """A row of a median with the range of the values."""
    middle = statistics.median(values)
    made = row(name, middle, unit, bound, at_least, digits)
    ends = min(values), max(values)
    return made | {"range": [round(float(end), digits) for end in ends]}


def memory():
    """Peak of this process, and what it and its children hold now; MB."""
    # not ru_maxrss, which includes the process that started this one
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(status.split("\nVmHWM:")[1].split()[0]) * 1024 / 1e6
    children = pathlib.Path("/proc/self/task").glob("*/children")
    numbers = [n for file in children for n in file.read_text().split()]
    held = 0
    for number in ("self", *numbers):
        # shared memory counts once, not for each process
        text = pathlib.Path(f"/proc/{number}/smaps_rollup").read_text()
        held += int(text.split("\nPss:")[1].split()[0]) * 1024 / 1e6
    return peak, held


def first_step(options):
    """Runs the script to the end of its first step; prints what it took."""
    module = script()
    update = module.SpeakerBrain.fit_batch

    def fit_batch(self, batch):
        before = memory()
        update(self, batch)
        raise Stopped(time.time(), *before, memory()[0])

    module.SpeakerBrain.fit_batch = fit_batch
    try:
        module.main(options)
    except Stopped as stopped:
        print(json.dumps(stopped.args))


def started(options):
    """Seconds to the end of the first step, and memory in MB.

    The memory is the peak before the step, what the script and its worker hold
    then, and the peak after the step.
    """
    before = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--first_step", json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"The script did not start: {done.stderr[-2000:]}")
    ended, *sizes = json.loads(done.stdout.splitlines()[-1])
    return ended - before, *sizes


def write_rows(folder, count):
    """A manifest of so many rows, of 100 files that are there."""
    (folder / "wav").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 48000)
    paths = [str(folder / "wav" / f"{number:03}.wav") for number in range(100)]
    for path in paths:
        soundfile.write(path, noise, 16000)
    numbers = np.arange(count)
    manifest = pd.DataFrame(
        {
            "ID": [f"id{n // 100:07}/a/{n % 100:05}" for n in numbers],
            "duration": 3.0,
            "wav": np.array(paths, dtype=object)[numbers % 100],
            "start": 0,
            "stop": 48000,
            "spk_id": [f"id{n // 100:07}" for n in numbers],
        }
    )
    (folder / "run" / "save").mkdir(parents=True)
    write_manifest(manifest, folder / "run" / "save" / "train.csv")


def many_rows(folder, count, bounds):
    """Rows of the start on a manifest of many rows."""
    write_rows(folder, count)
    options = command(folder / "wav", folder / "run") + ["--skip_prep=True"]
    seconds, peak, held, after = started(options)
    most = (ROWS_START, ROWS_MEMORY) if bounds else (None, None)
    about = f"{count:,} rows: "
    yield row(f"{about}start to first step", seconds, "s", most[0])
    yield row(f"{about}peak memory", peak, "MB", digits=0)
    yield row(f"{about}memory with the worker", held, "MB", most[1], digits=0)
    name = f"{about}peak memory with a step"
    yield row(name, after, "MB", most[1], digits=0)


def starts(data_folder, folder, times, bounds):
    """Rows of the start to the first step."""
    taken = [
        started(command(data_folder, folder / f"start{number}"))
        for number in range(times)
    ]
    bound = START if bounds else None
    name = "start to first step"
    yield spread(name, [one[0] for one in taken], "s", bound, digits=1)
    for words, place in (("peak memory", 1), ("peak memory with a step", 3)):
        most = max(one[place] for one in taken)
        yield row(f"{name}: {words}", most, "MB", digits=0)


def measured(arguments, folder):
    """All rows."""
    quick = arguments.quick
    if arguments.rows:
        yield from many_rows(folder, arguments.rows, not quick)
        return
    data_folder = arguments.data_folder
    if data_folder is None:
        data_folder = synthesise_corpus(
            folder / "corpus", seconds=(2.5, 4.0), workers=2
        )
    yield from starts(data_folder, folder, 1 if quick else 3, not quick)
    size = (2, 1, 2) if quick else (5, 2, 8)
    yield from rates(data_folder, folder / "run", *size, not quick)


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "two rounds of two steps")
    options.add_argument("--data_folder", type=pathlib.Path)
    options.add_argument("--rows", type=int, help="rows of a manifest")
    options.add_argument("--first_step", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.first_step:
        first_step(json.loads(arguments.first_step))
        return
    if arguments.data_folder is not None:
        arguments.data_folder = arguments.data_folder.resolve()
    print_header()
    record = []
    with tempfile.TemporaryDirectory() as folder:
        for made in measured(arguments, pathlib.Path(folder)):
            print_row(made)
            sys.stdout.flush()
            record.append(made)
    finish(record, arguments.json, 0)


if __name__ == "__main__":
    main()
