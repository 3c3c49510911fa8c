#!/usr/bin/env python3
"""Time and memory of the losses, compared with literal formulas.

    python benchmarks/losses.py [--quick] [--json FILE]

The bare layer is one linear forward and backward on normalised inputs, batch
256, 17,982 classes (VoxCeleb2 at three speeds), 256 dimensions, float32. Each
row is that layer with a loss, forward and backward. All rows take turns in
rounds. A time is the median over the rounds; a ratio is the median of those
within a round, with its quartiles, so that a slow minute of the machine slows
both sides of it. "Literal" is the published formula as in the published code.
A row also pays for the memory that the row before it gave back to the system,
and the literal formulas give back the most. So the rows are measured twice: in
the order of the table, where A-SphereFace2 always follows a literal formula,
and in a balanced order: in all rounds together, each row follows each other
row equally often. A training has one loss. So SphereFace2 is measured a third
time, each row with the layer alone, in a process of its own; and so a fourth
time, in which glibc gives no memory back to the system.
Memory is the peak beyond the cosines during forward and backward of the loss,
in tensors of [batch, classes]. It is measured in a separate process, in which
glibc returns freed memory at once.
"""

import ctypes
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch
from record import finish, parser, print_header, print_row, row
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear,
    normalize,
)

from speechbrain_ext.nnet.losses import (
    AAMSoftmax,
    AMSoftmax,
    Softmax,
    SphereFace2,
)
from speechbrain_ext.nnet.losses.one_vs_all import KEPT

DIMENSIONS = 256
# name of the row: bounds of time / bare layer, of literal / ours, and of
# memory, on two CPU cores
BOUNDS = {
    "SphereFace2 C": (1.15, 1.8, 2),
    "SphereFace2 C uncompiled": (1.35, 1.8, 2),
    "SphereFace2 A": (1.15, 1.8, 2),
    "SphereFace2 A uncompiled": (1.35, 1.8, 2),
    "SphereFace2 M face": (None, None, 2),
    "SphereFace2 M face uncompiled": (None, None, 2),
}
GPU_BOUND = 1.3
TENSORS = "tensors of [batch, classes]"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(10**9),
}


class LiteralSphereFace2(torch.nn.Module):
    """The literal formulas of the speaker paper, with a mask of classes."""

    def __init__(self, margin_type, margin, scale=32.0, weight=0.7, power=3):
        super().__init__()
        self.margin_type, self.margin, self.scale = margin_type, margin, scale
        self.weight, self.power = weight, power
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, outputs, targets):
        """The loss of cosines [batch, 1, classes]."""
        cosines, m = outputs.squeeze(1), self.margin

        def g(z):
            return 2 * torch.pow((z + 1) / 2, self.power) - 1

        if self.margin_type == "A":
            sines = torch.sqrt(1.0 - torch.pow(cosines, 2))
            down = cosines * math.cos(m) + sines * math.sin(m)
            up = cosines * math.cos(m) - sines * math.sin(m)
            beyond = cosines - (1 + math.cos(math.pi - m))
            up = torch.where(cosines > math.cos(math.pi - m), up, beyond)
            positive, negative = g(up), g(down)
        else:
            positive, negative = g(cosines) - m, g(cosines) + m
        positive = self.scale * positive + self.bias
        negative = self.scale * negative + self.bias
        positive = self.weight * torch.log(1 + torch.exp(-positive))
        negative = (1 - self.weight) * torch.log(1 + torch.exp(negative))
        mask = torch.zeros_like(cosines).scatter_(1, targets, 1.0)
        return (mask * positive + (1 - mask) * negative).sum(1).mean()


class LiteralFace(torch.nn.Module):
    """Type M of the face paper, as in its code."""

    def __init__(self, margin=1.7, scale=40.0, weight=0.7, power=3):
        super().__init__()
        self.margin, self.scale = margin, scale
        self.weight, self.power = weight, power
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, outputs, targets):
        """The loss of cosines [batch, 1, classes]."""
        cosines = outputs.squeeze(1)
        mask = torch.zeros_like(cosines).scatter_(1, targets, 1.0)
        with torch.no_grad():
            angles = torch.acos(cosines.clamp(-1 + 1e-7, 1 - 1e-7))
            angles = torch.where(mask > 0, self.margin * angles, angles)
            shifted = torch.cos(angles.clamp(max=math.pi))
            similar = 2 * torch.pow((shifted + 1) / 2, self.power) - 1
            change = similar - cosines
        logits = self.scale * (cosines + change) + self.bias
        weight = self.weight * mask + (1 - self.weight) * (1 - mask)
        weight = weight * cosines.shape[1] / self.scale
        return binary_cross_entropy_with_logits(logits, mask, weight=weight)


class LiteralSoftmax(torch.nn.Module):
    """Cross-entropy of scaled cosines."""

    def forward(self, outputs, targets):
        """The loss of cosines [batch, 1, classes]."""
        return cross_entropy(32.0 * outputs.squeeze(1), targets.squeeze(1))


def rows(quick):
    """The losses to measure, by name; each literal formula after its loss."""
    found = {
        "SphereFace2 C": SphereFace2("C", 0.2),
        "SphereFace2 C literal": LiteralSphereFace2("C", 0.2),
        "SphereFace2 A": SphereFace2("A", 0.15),
        "SphereFace2 A literal": LiteralSphereFace2("A", 0.15),
        "SphereFace2 M face": SphereFace2(
            "M", 1.7, 40.0, form="face", out_neurons=17982
        ),
        "SphereFace2 M literal": LiteralFace(),
        "AMSoftmax": AMSoftmax(0.2),
        "AAMSoftmax": AAMSoftmax(0.2),
        "AAMSoftmax top 5": AAMSoftmax(0.2, 32.0, 5, 0.06),
        "Softmax": Softmax(),
        "cross-entropy of scaled cosines": LiteralSoftmax(),
    }
    if not quick:  # small batches are never compiled
        found["SphereFace2 C uncompiled"] = SphereFace2("C", 0.2, compile=False)
        found["SphereFace2 A uncompiled"] = SphereFace2(
            "A", 0.15, compile=False
        )
        found["SphereFace2 M face uncompiled"] = SphereFace2(
            "M", 1.7, 40.0, form="face", out_neurons=17982, compile=False
        )
    return found


def synchronise(device):
    """Waits until a GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def balanced(names):
    """Orders in which each name follows each other one equally often.

    Williams, "Experimental designs balanced for the estimation of residual
    effects of treatments", 1949: 0, n - 1, 1, n - 2, ... shifted n times, and
    the same backwards.
    """
    number = len(names)
    first = [-(-k // 2) * (-1) ** k % number for k in range(number)]
    for shift in range(number):
        order = [names[(place + shift) % number] for place in first]
        yield order
        yield order[::-1]


def times(losses, batch, classes, orders, device):
    """Milliseconds of each row and of the bare layer, one for each round.

    ``orders`` makes the orders of the rounds from the names of the rows.
    """
    torch.manual_seed(0)
    make = {"device": device}
    inputs = normalize(torch.randn(batch, DIMENSIONS, **make)).requires_grad_()
    weight = normalize(torch.randn(classes, DIMENSIONS, **make))
    weight.requires_grad_()
    targets = torch.randint(classes, (batch, 1), **make)
    outer = torch.randn(batch, classes, **make)

    def bare():
        linear(inputs, weight).backward(outer)

    def with_loss(loss):
        def step():
            cosines = linear(inputs, weight).unsqueeze(1)
            loss(cosines, targets).backward()

        return step

    steps = {"bare layer": bare}
    steps |= {name: with_loss(loss) for name, loss in losses.items()}
    found = {name: [] for name in steps}
    rounds = [list(steps)] * 2 + list(orders(list(steps)))
    for turn, names in enumerate(rounds):
        for name in names:
            inputs.grad = weight.grad = None
            synchronise(device)
            started = time.perf_counter()
            steps[name]()
            synchronise(device)
            if turn > 1:  # the first two warm up and compile
                found[name].append(1000 * (time.perf_counter() - started))
    return found


def ratio(name, above, below, bound=None, at_least=False):
    """The row of a ratio: the median within the rounds, and its quartiles."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    low, middle, high = statistics.quantiles(values, n=4)
    made = row(name, middle, "x", bound, at_least)
    return made | {"quartiles": [round(low, 2), round(high, 2)]}


def resident(field):
    """A field of this process's memory in bytes, from Linux."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}; Linux is needed.")


def memory(loss, batch, classes, device):
    """Peak beyond the cosines, in tensors of [batch, classes]."""
    torch.manual_seed(0)
    inputs = normalize(torch.randn(batch, DIMENSIONS, device=device))
    weight = normalize(torch.randn(classes, DIMENSIONS, device=device))
    cosines = linear(inputs, weight).unsqueeze(1).requires_grad_()
    targets = torch.randint(classes, (batch, 1), device=device)
    for _ in range(2):  # the first compiles
        cosines.grad = None
        KEPT.clear()  # what is kept for the next batch counts too
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak
            before = resident("VmRSS")
        loss(cosines, targets).backward()
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = resident("VmHWM")
    return (peak - before) / (cosines.element_size() * cosines.numel())


def separately(*words, **environment):
    """What this program prints in a process of its own, as JSON."""
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def setting(quick):
    """Device, batch, classes, rounds and losses."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, classes, rounds = (64, 1211, 3) if quick else (256, 17982, 25)
    losses = {k: v.to(device) for k, v in rows(quick).items()}
    return device, batch, classes, rounds, losses


def measure(quick):
    """The record's rows."""
    device, batch, classes, rounds, losses = setting(quick)
    more = ["--quick"] * quick
    peaks = separately("--memory", *more, **GIVE_BACK)
    shape = losses, batch, classes
    taken = times(*shape, lambda names: [names] * rounds, device)
    fair = times(*shape, balanced, device)
    bare, bare_fair = taken["bare layer"], fair["bare layer"]
    record = [row("bare layer", statistics.median(bare), "ms")]
    for name in losses:
        slower, faster, tensors = BOUNDS.get(name, (None, None, None))
        if device == "cuda" and slower:
            slower = GPU_BOUND
        if quick:
            slower = faster = tensors = None
        label = f"{name} / bare layer"
        record += [
            row(name, statistics.median(taken[name]), "ms"),
            ratio(label, taken[name], bare, slower),
            ratio(f"{label}, balanced order", fair[name], bare_fair, slower),
            row(f"{name}: memory", peaks[name], TENSORS, tensors),
        ]
        if name in BOUNDS:
            for how, given in (("alone", {}), ("alone, memory kept", KEEP)):
                own = separately(f"--alone={name}", *more, **given)
                own = own[name], own["bare layer"]
                record.append(ratio(f"{label}, {how}", *own, slower))
        literal = " ".join(name.split()[:2]) + " literal"
        if literal in taken and literal != name:
            label = f"{literal} / {name}"
            record.append(
                ratio(label, taken[literal], taken[name], faster, True)
            )
    return record, device


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "a small case")
    options.add_argument("--memory", action="store_true", help="only memory")
    options.add_argument("--alone", metavar="ROW", help="only times of a row")
    arguments = options.parse_args()
    device, batch, classes, rounds, losses = setting(arguments.quick)
    if arguments.alone:
        one = {arguments.alone: losses[arguments.alone]}
        orders = [["bare layer", arguments.alone]] * rounds
        shape = batch, classes, lambda names: orders, device
        print(json.dumps(times(one, *shape)))
        return
    if arguments.memory:
        peaks = {
            name: memory(loss, batch, classes, device)
            for name, loss in losses.items()
        }
        print(json.dumps(peaks))
        return
    record, device = measure(arguments.quick)
    print_header()
    if device == "cpu":
        print("On the processor; a GPU was not measured.")
    for found in record:
        print_row(found)
    finish(record, arguments.json, 0)


if __name__ == "__main__":
    main()
