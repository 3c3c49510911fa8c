#!/usr/bin/env python3
"""Embeddings of the same speech in other file formats and sample rates.

    python benchmarks/formats.py --pretrained_folder=FOLDER \
        [--noise_floor_folder=FOLDER] --data_folder=CORPUS \
        [--trials veri_O.txt] [--quick] [--json FILE]

CORPUS has VoxCeleb's layout: wav/<id>.wav at 16 kHz and meta/<trial list>.
120 utterances of the trials, drawn by a seed, are written again in each
format, in 16 bits, and embedded by SpeakerVerifier from both files. Rows have
the cosine of the two embeddings. 8 kHz has no bound: half of the spectrum is
missing.

Some recordings are digitally silent between words: a noise gate or an editor
set the samples to 0. Their log filterbanks are at the floor there, and any
rounding or coding noise lifts them by several nepers. Such utterances, whose
quietest 5 % of the frames have a standard deviation below one 16-bit step,
are counted apart. The bound holds for them too. A second encoder can be given,
trained with the same recipe and `--noise_floor=1.0`.
"""

import pathlib
import tempfile
from math import gcd

import numpy as np
import soundfile
import torch
from embedding import error_rate
from record import finish, parser, print_header, print_row, row
from scipy.signal import resample_poly
from torch.nn.functional import normalize

from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.speaker import SpeakerVerifier

SEED = 42
RATE = 16000  # of the corpus
LEAST = 0.95  # cosine
# name, sample rate, channels, suffix, coding, lowest cosine that is allowed
FORMATS = (
    ("44.1 kHz stereo wav", 44100, 2, "wav", "PCM_16", LEAST),
    ("24 kHz flac", 24000, 1, "flac", "PCM_16", LEAST),
    ("16 kHz ogg", 16000, 1, "ogg", "VORBIS", LEAST),
    ("8 kHz wav", 8000, 1, "wav", "PCM_16", None),
)


def resampled(samples, rate):
    """Samples at another rate, by SciPy: the package's own is another."""
    common = gcd(rate, RATE)
    return resample_poly(samples, rate // common, RATE // common)


def embedding(verifier, path):
    """The embedding of a file, of length 1."""
    found = verifier.encode_batch(verifier.load_audio(path)).flatten()
    return normalize(found.double(), dim=0)


def copies(verifier, paths, rate, channels, suffix, coding):
    """Embeddings of the same files in another format."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        copy = f"{folder}/copy.{suffix}"
        for path in paths:
            samples = resampled(soundfile.read(path)[0], rate)
            samples = np.clip(samples, -1, 1)[:, None].repeat(channels, axis=1)
            soundfile.write(copy, samples, rate, subtype=coding)
            found.append(embedding(verifier, copy))
    return torch.stack(found)


def digitally_silent(path):
    """Whether the quietest 5 % of the frames are below one 16-bit step."""
    samples = soundfile.read(path, dtype="int16")[0].astype(float)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
    return np.percentile(frames.std(axis=1), 5) < 1


def measure(verifier, paths, prefix):
    """Yields rows."""
    silent = torch.tensor([bool(digitally_silent(path)) for path in paths])
    groups = {
        "background noise": ~silent,
        "digital silence": silent,
    }
    if not prefix:
        for group, members in groups.items():
            count = members.sum().item()
            yield row(f"utterances with {group}", count, "", digits=0)
    own = torch.stack([embedding(verifier, path) for path in paths])
    for name, rate, channels, suffix, coding, least in FORMATS:
        other = copies(verifier, paths, rate, channels, suffix, coding)
        same = (own * other).sum(dim=1)
        for group, members in groups.items():
            if not members.any():
                continue
            mean, low = same[members].mean().item(), same[members].min().item()
            words = f"{prefix}{name}, {group}"
            yield row(f"{words}, mean", mean, "cosine", digits=4)
            yield row(f"{words}, lowest", low, "cosine", least, True, 4)


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "twelve utterances")
    options.add_argument("--pretrained_folder", required=True)
    options.add_argument("--noise_floor_folder", help="of another encoder")
    options.add_argument("--data_folder", required=True, type=pathlib.Path)
    options.add_argument("--trials", default="veri_O.txt")
    arguments = options.parse_args()
    print_header()
    folder = arguments.data_folder
    trials = read_trials(f"{folder}/meta/{arguments.trials}")
    ids = sorted({*trials["enrol"], *trials["test"]})
    order = np.random.default_rng(SEED).permutation(len(ids))
    chosen = order[: 12 if arguments.quick else 120]
    paths = [folder / "wav" / f"{ids[one]}.wav" for one in chosen]
    encoders = {"": arguments.pretrained_folder}
    if arguments.noise_floor_folder:
        encoders["noise floor, "] = arguments.noise_floor_folder
    record = []
    for prefix, path in encoders.items():
        verifier = SpeakerVerifier.from_folder(path)
        found = list(measure(verifier, paths, prefix))
        if not arguments.quick:
            rate = error_rate(verifier, folder / "wav", trials)
            found.append(row(f"{prefix}{arguments.trials}", rate, "EER %"))
        for one in found:
            print_row(one)
        record += found
    finish(record, arguments.json, SEED)


if __name__ == "__main__":
    main()
