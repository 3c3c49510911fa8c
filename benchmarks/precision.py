#!/usr/bin/env python3
"""A training step of ResNet34 in bf16 beside float32, on a processor.

    python benchmarks/precision.py [--quick] [--json FILE]

Forward and backward of the encoder alone, on random features of 200 frames, on
one thread. Both precisions take turns after one step that warms up; a time is
the median of the rounds. A bf16 that is slower than float32 is why a log says
so: the processor then has no instructions for it.
"""

import statistics
import time

import torch
from record import finish, parser, print_header, print_row, row

from speechbrain_ext.lobes.models.ResNet import ResNet
from speechbrain_ext.utils.devices import has_bf16

# channels and batch: that of the small recipe, and that of the large ones
SIZES = {8: 64, 32: 16}
PRECISIONS = "fp32", "bf16"


def seconds(channels, batch, rounds):
    """The median seconds of a step, by precision."""
    torch.manual_seed(0)
    encoder = ResNet(80, channels=channels, lin_neurons=256)
    features = torch.randn(batch, 200, 80)
    found = {name: [] for name in PRECISIONS}
    for _ in range(rounds + 1):
        for name, times in found.items():
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
                embeddings = encoder(features)
            embeddings.float().sum().backward()
            times.append(time.perf_counter() - started)
    return {name: statistics.median(t[1:]) for name, t in found.items()}


def measure(quick):
    """The record's rows."""
    torch.set_num_threads(1)
    for channels, batch in SIZES.items():
        found = seconds(channels, 4 if quick else batch, 1 if quick else 7)
        words = f"ResNet34, {channels} channels, batch {batch}"
        for name, taken in found.items():
            yield row(f"{words}, {name}", taken, "s")
        ratio = found["bf16"] / found["fp32"]
        yield row(f"{words}, bf16 / fp32", ratio, "x")


def main():
    """Measures and prints."""
    options = parser(__doc__, "one round of four utterances").parse_args()
    print_header()
    print(f"Instructions for bf16: {has_bf16()}.")
    rows = []
    for one in measure(options.quick):
        print_row(one)
        rows.append(one)
    finish(rows, options.json, seed=0)


if __name__ == "__main__":
    main()
