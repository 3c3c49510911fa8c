#!/usr/bin/env python3
"""Parameters and multiply-accumulates of every network, and published ones.

    python benchmarks/backbones.py [--quick] [--json FILE]

Multiply-accumulates are counted for convolutions and matrix products on one
utterance of two seconds (200 frames). Milliseconds are the median of five
forward passes of that utterance.
"""

import time

import torch
from record import finish, parser, print_header
from torch.utils.flop_counter import FlopCounterMode

from speechbrain_ext.integrations.golden_gemini import DF
from speechbrain_ext.integrations.wespeaker import BASIC, BOTTLENECK
from speechbrain_ext.lobes.models.DFResNet import DFResNet
from speechbrain_ext.lobes.models.ResNet import GOLDEN_GEMINI, ResNet
from speechbrain_ext.lobes.models.SEResNet import SEResNet
from speechbrain_ext.lobes.models.TDNN import ResSETDNN
from speechbrain_ext.lobes.models.VGG import VGG
from speechbrain_ext.nnet.pooling import AttentiveStatisticsPooling

V2 = {
    "channels": 32,
    "form": "v2",
    "strides": (1, 2, 2, 2),
    "average_frequency": False,
    "pooling": AttentiveStatisticsPooling,
}
OSV = {"activated": True, "norm_momentum": 0.5}
# filterbanks, function that builds the network, published parameters (M) and
# multiply-accumulates (G)
NETWORKS = {
    **{
        name: (80, lambda b=blocks: ResNet(80, b), None, None)
        for name, blocks in BASIC.items()
    },
    **{
        name: (80, lambda b=b: ResNet(80, b, block="bottleneck"), None, None)
        for name, b in BOTTLENECK.items()
    },
    "ResNet34": (80, ResNet, 6.63, 4.55),
    "ResNet34 T14c": (80, lambda: ResNet(strides=GOLDEN_GEMINI), 5.98, None),
    "DF-ResNet60": (80, lambda: DFResNet(80, DF["60"]), 4.05, None),
    "DF-ResNet114": (80, lambda: DFResNet(80, DF["114"]), 6.53, 5.42),
    "DF-ResNet183": (80, lambda: DFResNet(80, DF["183"]), 9.20, None),
    "DF-ResNet237": (80, lambda: DFResNet(80, DF["237"]), None, None),
    "Fast SE-ResNet34": (40, SEResNet, 1.4, None),
    "Thin SE-ResNet34": (
        257,
        lambda: SEResNet(257, form="thin", strides=(1, 2, 2, 2)),
        1.4,
        None,
    ),
    "ResNetSE34V2": (64, lambda: SEResNet(64, **V2), 8.0, None),
    "VGG-M-40": (40, VGG, 4.0, None),
    "OSV ResNet34": (81, lambda: ResNet(81, **OSV), None, None),
    "OSV SE-ResNet34": (
        81,
        lambda: ResNet(81, reduction=16, **OSV),
        None,
        None,
    ),
    "OSV ResNet34 MSEA": (
        81,
        lambda: ResNet(81, lin_neurons=512, all_stages=True, **OSV),
        None,
        None,
    ),
    "OSV RES-SE-TDNN": (81, ResSETDNN, None, None),
}
SMALL = ("ResNet18", "Fast SE-ResNet34", "VGG-M-40")


def measure(bins, maker):
    """Parameters (M), multiply-accumulates (G) and milliseconds."""
    model = maker().eval()
    x = torch.randn(1, 200, bins)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    taken = []
    with torch.no_grad():
        for _ in range(6):
            started = time.perf_counter()
            model(x)
            taken.append(1000 * (time.perf_counter() - started))
    milliseconds = sorted(taken[1:])[2]
    return parameters, counter.get_total_flops() / 2e9, milliseconds


def row(name, value, unit, published, quick, held=True):
    """A row of the record; it must equal the published figure if rounded."""
    made = {"name": name, "value": round(value, 2), "unit": unit}
    if published is not None and not held:
        made["published"] = published
    elif published is not None and not quick:
        digits = 1 if published in (1.4, 8.0, 4.0) else 2
        made["bound"] = published
        made["holds"] = round(value, digits) == published
    return made


def main():
    """Prints the table and writes the record."""
    arguments = parser(__doc__, "three networks").parse_args()
    print_header()
    record = []
    for name, (bins, maker, parameters, macs) in NETWORKS.items():
        if arguments.quick and name not in SMALL:
            continue
        found = measure(bins, maker)
        rows = [
            row(
                f"{name} parameters", found[0], "M", parameters, arguments.quick
            ),
            # published figures include the batch norms
            row(f"{name} MACs", found[1], "G", macs, arguments.quick, False),
            row(f"{name} forward", found[2], "ms", None, arguments.quick),
        ]
        record += rows
        said = "  ".join(
            f"{r['value']:8.2f} {r['unit']}"
            + "".join(
                f" (published {r[key]})"
                for key in ("bound", "published")
                if key in r
            )
            + ("" if r.get("holds", True) else " DIFFERS")
            for r in rows
        )
        print(f"{name:20} {said}")
    finish(record, arguments.json)


if __name__ == "__main__":
    main()
