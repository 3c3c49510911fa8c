#!/usr/bin/env python3
"""EERs of the small recipes on MiniVox, beside the published code's.

    python benchmarks/minivox.py --data_folder=MINIVOX [--json FILE]

MiniVox is 3.7 hours of real speech of 342 speakers in VoxCeleb's layout. Each
recipe is trained and verified by its own command, about 20 minutes each on
two idle cores; what --output_folder already holds is not done again. The
bounds are what WeSpeaker's ResNet and losses reach there at the same size.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
MINUTES = 30  # on two idle cores

# EER % of the published code: O cosine, O AS-norm, H cosine, H AS-norm
# (C-SphereFace2: the better of its two seeds for each)
PUBLISHED = {
    "csphereface2": (11.58, 10.55, 16.50, 15.18),
    "asphereface2": (13.40, 11.73, 18.45, 16.35),
    "aam": (11.65, 10.53, 16.45, 15.30),
}
CONDITIONS = (
    ("veri_O", "cosine"),
    ("veri_O", "AS-norm"),
    ("veri_H", "cosine"),
    ("veri_H", "AS-norm"),
)


def run(script, yaml, **options):
    """Runs a script of the recipe and returns its seconds."""
    flags = [f"--{key}={value}" for key, value in options.items()]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, script, f"hparams/{yaml}", "--noprogressbar", *flags],
        cwd=RECIPE,
        check=True,
    )
    return time.perf_counter() - started


def measure(loss, data_folder, output_folder, options):
    """Trains and verifies one recipe, as far as that is not done."""
    trained = output_folder / loss
    verified = output_folder / f"verification_{loss}"
    seconds = trained / "train_seconds.txt"
    if not seconds.exists():
        taken = run(
            "train_speaker_embeddings.py",
            f"resnet_{loss}_small.yaml",
            data_folder=data_folder,
            output_folder=trained,
            **options,
        )
        seconds.write_text(f"{taken}\n")
    if not (verified / "results.json").exists():
        run(
            "speaker_verification_cosine.py",
            "verification_resnet_small.yaml",
            data_folder=data_folder,
            output_folder=verified,
            pretrained_folder=trained / "pretrained",
            cohort_manifest=trained / "save" / "train.csv",
        )
    results = json.loads((verified / "results.json").read_text())
    eers = {(row["trials"], row["scoring"]): row["EER %"] for row in results}
    return float(seconds.read_text()) / 60, [eers[c] for c in CONDITIONS]


def rows_of(loss, minutes, eers, quick):
    """The record's rows of one recipe; a quick run is held to no bound."""
    found = [(f"{loss} minutes", minutes, "min", MINUTES)]
    for (trials, scoring), eer, bound in zip(
        CONDITIONS, eers, PUBLISHED[loss], strict=True
    ):
        found.append((f"{loss} {trials} {scoring} EER", eer, "%", bound))
    for name, value, unit, bound in found:
        row = {"name": name, "value": round(value, 2), "unit": unit}
        if not quick:
            row |= {"bound": bound, "holds": round(value, 2) <= bound}
        yield row


def main():
    """Prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--output_folder", default=ROOT / "results/minivox")
    parser.add_argument("--quick", action="store_true", help="one epoch")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    output_folder = pathlib.Path(arguments.output_folder).resolve()
    data_folder = pathlib.Path(arguments.data_folder).resolve()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} "
        f"cores, Python {platform.python_version()}, torch "
        f"{torch.__version__}, commit {commit}"
    )
    record = []
    for loss in PUBLISHED:
        options = {"number_of_epochs": 1} if arguments.quick else {}
        minutes, eers = measure(loss, data_folder, output_folder, options)
        record += rows_of(loss, minutes, eers, arguments.quick)
    for row in record:
        bound = f"  at most {row['bound']}" if "bound" in row else ""
        holds = "" if row.get("holds", True) else "  DOES NOT HOLD"
        print(
            f"{row['name']:40} {row['value']:8.2f} {row['unit']}{bound}{holds}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(not all(row.get("holds", True) for row in record))


if __name__ == "__main__":
    main()
