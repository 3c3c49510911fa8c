#!/usr/bin/env python3
"""Embeddings of the same speech in other file formats and sample rates.

    python benchmarks/formats.py --pretrained_folder=FOLDER \
        --data_folder=CORPUS [--trials veri_O.txt] [--quick] [--json FILE]

CORPUS has VoxCeleb's layout: wav/<id>.wav at 16 kHz and meta/<trial list>.
Every utterance of the trials is written again in each format and embedded by
SpeakerVerifier from both files. Rows have the cosine of the two embeddings,
and the equal error rate if enrolment is the 16 kHz wav and the test is the
other file. 8 kHz has no bound: half of the spectrum is missing. 44.1 kHz with
16 bits has none either: rounding the resampled signal to 16 bits puts noise
where the 16 kHz file has digital silence.
"""

import pathlib
import tempfile
from math import gcd

import numpy as np
import soundfile
import torch
from record import finish, parser, print_header, print_row, row
from scipy.signal import resample_poly

from speechbrain_ext.dataio.trials import read_trials
from speechbrain_ext.inference.speaker import SpeakerVerifier
from speechbrain_ext.utils.metrics import EER

RATE = 16000  # of the corpus
LEAST = 0.95  # cosine
# name, sample rate, channels, suffix, coding, lowest cosine that is allowed
FORMATS = (
    ("44.1 kHz stereo wav", 44100, 2, "wav", "PCM_24", LEAST),
    ("24 kHz flac", 24000, 1, "flac", "PCM_24", LEAST),
    ("16 kHz ogg", 16000, 1, "ogg", "VORBIS", LEAST),
    ("44.1 kHz stereo wav of 16 bits", 44100, 2, "wav", "PCM_16", None),
    ("8 kHz wav", 8000, 1, "wav", "PCM_16", None),
)


def resampled(samples, rate):
    """Samples at another rate, by SciPy: the package's own is another."""
    common = gcd(rate, RATE)
    return resample_poly(samples, rate // common, RATE // common)


def embedding(verifier, path):
    """The embedding of a file, of length 1."""
    found = verifier.encode_batch(verifier.load_audio(path)).flatten()
    return torch.nn.functional.normalize(found.double(), dim=0)


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


def measure(verifier, trials, folder):
    """Yields rows."""
    ids = sorted({*trials["enrol"], *trials["test"]})
    number = {one: index for index, one in enumerate(ids)}
    paths = [folder / "wav" / f"{one}.wav" for one in ids]
    enrol = [number[one] for one in trials["enrol"]]
    test = [number[one] for one in trials["test"]]
    target = torch.tensor(trials["target"].to_numpy())
    own = torch.stack([embedding(verifier, path) for path in paths])

    def eer(tested):
        scores = (own[enrol] * tested[test]).sum(dim=1)
        return 100 * EER(scores[target], scores[~target])[0]

    yield row("16 kHz wav", eer(own), "EER %")
    for name, rate, channels, suffix, coding, least in FORMATS:
        other = copies(verifier, paths, rate, channels, suffix, coding)
        same = (own * other).sum(dim=1)
        yield row(f"{name}, mean", same.mean().item(), "cosine", digits=4)
        yield row(
            f"{name}, lowest",
            same.min().item(),
            "cosine",
            least,
            at_least=True,
            digits=4,
        )
        yield row(f"{name}, test", eer(other), "EER %")


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "twenty trials")
    options.add_argument("--pretrained_folder", required=True)
    options.add_argument("--data_folder", required=True, type=pathlib.Path)
    options.add_argument("--trials", default="veri_O.txt")
    arguments = options.parse_args()
    print_header()
    folder = arguments.data_folder
    trials = read_trials(f"{folder}/meta/{arguments.trials}")
    if arguments.quick:
        trials = trials[:20]
    verifier = SpeakerVerifier.from_folder(arguments.pretrained_folder)
    record = []
    for one in measure(verifier, trials, folder):
        print_row(one)
        record.append(one)
    finish(record, arguments.json)


if __name__ == "__main__":
    main()
