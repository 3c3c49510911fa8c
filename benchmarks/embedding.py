#!/usr/bin/env python3
"""Embedding whole utterances beside the bare forward pass of the encoder.

    python benchmarks/embedding.py --pretrained_folder=FOLDER \
        --data_folder=CORPUS [--trials veri_O.txt] [--quick] [--json FILE]

CORPUS has VoxCeleb's layout: wav/<id>.wav at 16 kHz and meta/<trial list>.
200 utterances of the trials are embedded as the recipe does it: read from the
disk, checked for silence, sorted by length, padded to batches of 30 s. Beside
it stands the encoder's network alone, on random features of the same shapes
without masks, at the same precision. The variants take turns; a ratio is the
median of those within a round. The EERs are of all trials, by cosine.
"""

import pathlib
import statistics
import time

import numpy as np
import pandas as pd
import soundfile
import torch
from record import finish, parser, print_header, print_row, row
from speechbrain.utils.autocast import AMPConfig, TorchAutocast
from torch.nn.functional import normalize

from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.embedding import embed_batches, utterance_loader
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.utils.metrics import EER

SEED = 42
RATE = 16000
BATCH_SECONDS = 30.0
PRECISIONS = "fp32", "bf16"
LEAST = 0.85  # share of the bare forward's rate
MASKS = 1.05  # time with masks / time without, at most
MOVED = 0.5  # points of EER, far within the interval of a MiniVox list
ROUNDS = 9


def utterance_table(folder, ids):
    """A manifest of wav files."""
    table = pd.DataFrame({"ID": ids, "wav": [f"{folder}/{i}.wav" for i in ids]})
    sizes = [soundfile.info(path).frames for path in table["wav"]]
    return table.assign(start=0, stop=sizes, duration=np.array(sizes) / RATE)


def embedded(verifier, table, precision):
    """Embeddings of a manifest, in its order."""
    found = {}
    for rows, part in embed_batches(
        verifier, table, BATCH_SECONDS, precision=precision
    ):
        found.update(zip(rows, part, strict=True))
    return torch.stack([found[number] for number in range(len(table))])


def variants(verifier, table):
    """What is timed, by name."""
    network, batches = verifier.mods.embedding_model, []
    for batch in utterance_loader(table, BATCH_SECONDS, 0, 0, 1, RATE):
        wavs, lengths = batch.sig
        with torch.inference_mode():
            features = verifier.mods.compute_features(wavs)
            features = verifier.mods.mean_var_norm(features, lengths)
        batches.append((torch.randn(features.shape), features, lengths))

    def alone(precision, which, masks=False):
        dtype = AMPConfig.from_name(precision).dtype
        with torch.inference_mode(), TorchAutocast("cpu", dtype=dtype):
            for batch in batches:
                network(batch[which], batch[2] if masks else None)

    made = {"features, no masks": lambda: alone("fp32", 1)}
    made["features, masks"] = lambda: alone("fp32", 1, masks=True)
    for one in PRECISIONS:
        made[f"bare forward, {one}"] = lambda one=one: alone(one, 0)
        made[one] = lambda one=one: embedded(verifier, table, one)
    return made


def times(made, rounds):
    """Seconds of each variant, one per round."""
    found = {name: [] for name in made}
    for turn in range(rounds + 1):  # the first warms up
        for name, run in made.items():
            started = time.perf_counter()
            run()
            if turn:
                found[name].append(time.perf_counter() - started)
    return found


def ratio(name, above, below, bound, at_least):
    """The row of a ratio within the rounds."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    value = statistics.median(values)
    span = [round(min(values), 3), round(max(values), 3)]
    return row(name, value, "x", bound, at_least, 3) | {"range": span}


def measure(verifier, table, rounds, bounds):
    """Yields the rows of the rates."""
    seconds = table["duration"].sum()
    yield row("utterances", len(table), "", digits=0)
    taken = times(variants(verifier, table), rounds)
    for one in PRECISIONS:
        rate = seconds / statistics.median(taken[one])
        yield row(f"embedding, {one}", rate, "times real time", digits=0)
        yield ratio(
            f"embedding / bare forward, {one}",
            taken[f"bare forward, {one}"],
            taken[one],
            LEAST if bounds else None,
            True,
        )
    yield ratio(
        "time with masks / without",
        taken["features, masks"],
        taken["features, no masks"],
        MASKS if bounds else None,
        False,
    )


def error_rate(verifier, folder, trials, precision="fp32"):
    """EER of trials by cosine, %."""
    ids = sorted({*trials["enrol"], *trials["test"]})
    table = utterance_table(folder, ids)
    embeddings = normalize(embedded(verifier, table, precision))
    place = {one: number for number, one in enumerate(ids)}
    enrol, test = (
        embeddings[[place[one] for one in trials[side]]]
        for side in ("enrol", "test")
    )
    scores = (enrol * test).sum(dim=1)
    target = torch.tensor(trials["target"].to_numpy())
    return 100 * EER(scores[target], scores[~target])[0]


def error_rates(verifier, folder, trials, name):
    """Yields the EERs."""
    found = []
    for one in PRECISIONS:
        found.append(error_rate(verifier, folder, trials, one))
        yield row(f"{name}, {one}", found[-1], "EER %")
    moved = abs(found[0] - found[1])
    yield row(f"{name}, bf16 beside fp32", moved, "points of EER", MOVED)


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "twelve utterances, no EER")
    options.add_argument("--pretrained_folder", required=True)
    options.add_argument("--data_folder", required=True, type=pathlib.Path)
    options.add_argument("--trials", default="veri_O.txt")
    arguments = options.parse_args()
    print_header()
    quick, folder = arguments.quick, arguments.data_folder
    trials = read_trials(f"{folder}/meta/{arguments.trials}")
    ids = sorted({*trials["enrol"], *trials["test"]})
    order = np.random.default_rng(SEED).permutation(len(ids))
    chosen = [ids[one] for one in order[: 12 if quick else 200]]
    table = utterance_table(folder / "wav", chosen)
    verifier = SpeakerVerifier.from_folder(arguments.pretrained_folder)
    record = []
    for one in measure(verifier, table, 2 if quick else ROUNDS, not quick):
        print_row(one)
        record.append(one)
    if not quick:
        for one in error_rates(
            verifier, folder / "wav", trials, arguments.trials
        ):
            print_row(one)
            record.append(one)
    finish(record, arguments.json, SEED)


if __name__ == "__main__":
    main()
