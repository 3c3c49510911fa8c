#!/usr/bin/env python3
"""EERs of the small recipes on MiniVox, beside the published code's.

    python benchmarks/minivox.py --data_folder=MINIVOX [--seeds 42 43]
        [--losses csphereface2 aam] [--json FILE]

MiniVox is 3.7 hours of real speech of 342 speakers in VoxCeleb's layout. Each
recipe is trained and verified by its own command, about 20 minutes each on
two idle cores; what --output_folder already holds is not done again. The
bounds are what WeSpeaker's ResNet and losses reach there at the same size,
by one run each; they are held against the mean of the seeds.
"""

import json
import pathlib
import subprocess
import sys
import time

import record
from record import ROOT, finish, parser, print_header, print_row

RECIPE = ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"
MINUTES = 30  # on two idle cores

# EER % of the published code: O cosine, O AS-norm, H cosine, H AS-norm
# (C-SphereFace2: the better of its two seeds for each)
PUBLISHED = {
    "csphereface2": (11.58, 10.55, 16.50, 15.18),
    "asphereface2": (13.40, 11.73, 18.45, 16.35),
    "aam": (11.65, 10.53, 16.45, 15.30),
}
LOSSES = (
    *PUBLISHED,
    "am",
    "softmax",
    "msphereface2_face",
    "aam_subcenter",
    "angularprototypical",
)
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


def measure(loss, seed, data_folder, output_folder, options):
    """Trains and verifies one recipe, as far as that is not done."""
    trained = output_folder / f"{loss}_{seed}"
    verified = output_folder / f"verification_{loss}_{seed}"
    seconds = trained / "train_seconds.txt"
    if not seconds.exists():
        taken = run(
            "train_speaker_embeddings.py",
            f"resnet_{loss}_small.yaml",
            data_folder=data_folder,
            output_folder=trained,
            seed=seed,
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


def rows_of(loss, seeds, found, quick):
    """The record's rows of one recipe; a quick run is held to no bound."""

    def row(name, value, unit, bound=None):
        return record.row(
            f"{loss} {name}", value, unit, None if quick else bound
        )

    for seed, (minutes, _) in zip(seeds, found, strict=True):
        yield row(f"seed {seed} minutes", minutes, "min", MINUTES)
    bounds = PUBLISHED.get(loss, (None,) * len(CONDITIONS))
    for i, (trials, scoring) in enumerate(CONDITIONS):
        eers = [values[i] for _, values in found]
        if len(seeds) > 1:
            for seed, eer in zip(seeds, eers, strict=True):
                yield row(f"seed {seed} {trials} {scoring} EER", eer, "%")
        mean = sum(eers) / len(eers)
        what = "mean" if len(seeds) > 1 else f"seed {seeds[0]}"
        yield row(f"{what} {trials} {scoring} EER", mean, "%", bounds[i])


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "one epoch")
    options.add_argument("--data_folder", required=True)
    options.add_argument("--output_folder", default=ROOT / "results/minivox")
    options.add_argument("--losses", nargs="+", default=LOSSES)
    options.add_argument("--seeds", nargs="+", type=int, default=[42])
    arguments = options.parse_args()
    output_folder = pathlib.Path(arguments.output_folder).resolve()
    data_folder = pathlib.Path(arguments.data_folder).resolve()
    print_header()
    rows = []
    options = {"number_of_epochs": 1} if arguments.quick else {}
    seeds = arguments.seeds
    for loss in arguments.losses:
        found = [
            measure(loss, seed, data_folder, output_folder, options)
            for seed in seeds
        ]
        rows += rows_of(loss, seeds, found, arguments.quick)
    for row in rows:
        print_row(row)
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
