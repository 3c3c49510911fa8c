#!/usr/bin/env python3
"""The front end's rate: KaldiFbank beside torchaudio's and SpeechBrain's.

    python benchmarks/frontend.py [--quick] [--json FILE]

80 filterbanks of 32 crops of two seconds, and of one crop, in float32.
torchaudio's `compliance.kaldi.fbank` takes one waveform at a time, with the
same options. SpeechBrain's `Fbank` has other filters and no pre-emphasis: it
is here for its time only. All take turns, and the median counts.
"""

import time

import torch
import torchaudio
from record import finish, parser, print_header, print_row, row
from speechbrain.lobes.features import Fbank

from speechbrain_ext.lobes.features import KaldiFbank

FASTER = 2.0  # than torchaudio, at least
CLOSE = 2e-3  # largest difference of a log energy


def one_by_one(wavs):
    """The published front end: torchaudio, a waveform at a time."""
    kaldi = torchaudio.compliance.kaldi.fbank
    options = {"num_mel_bins": 80, "window_type": "hamming", "dither": 0.0}
    # Kaldi's 16-bit scale
    return torch.stack(
        [kaldi(wav[None] * 2**15, **options) for wav in wavs.unbind()]
    )


def taken(front_ends, wavs, rounds):
    """Seconds of each front end, measured in turns: all of them, sorted."""
    found = {name: [] for name in front_ends}
    with torch.no_grad():
        for turn in range(rounds + 2):  # the first two warm up
            for name, front_end in front_ends.items():
                started = time.perf_counter()
                front_end(wavs)
                if turn > 1:
                    found[name].append(time.perf_counter() - started)
    return {name: sorted(times) for name, times in found.items()}


def main():
    """Prints the table and writes the record."""
    options = parser(__doc__, "few rounds")
    arguments = options.parse_args()
    print_header()
    torch.manual_seed(0)
    ours = KaldiFbank(80, dither=0.0)
    ours.eval()
    front_ends = {
        "KaldiFbank": ours,
        "torchaudio one by one": one_by_one,
        "SpeechBrain Fbank": Fbank(n_mels=80),
    }
    record = []
    for crops in (32, 1):
        wavs = 0.1 * torch.randn(crops, 32240)
        apart = (ours(wavs) - one_by_one(wavs)).abs().max().item()
        words = f"{crops} crops" if crops > 1 else "1 crop"
        found = taken(front_ends, wavs, 5 if arguments.quick else 60)
        middle = {name: one[len(one) // 2] for name, one in found.items()}
        for name, times in found.items():
            rate = crops / middle[name]
            spread = [1000 * times[int(q * len(times))] for q in (0.1, 0.9)]
            made = row(f"{name}, {words}", rate, "crops/s")
            made["milliseconds, 10 to 90 %"] = [round(t, 3) for t in spread]
            record.append(made)
        ratio = middle["torchaudio one by one"] / middle["KaldiFbank"]
        bound = FASTER if crops > 1 and not arguments.quick else None
        name = f"KaldiFbank / torchaudio, {words}"
        record.append(row(name, ratio, "x", bound, at_least=True))
        name = f"difference from torchaudio, {words}"
        record.append(row(name, apart, "log energy", CLOSE, digits=6))
    for made in record:
        print_row(made)
    finish(record, arguments.json, 0)


if __name__ == "__main__":
    main()
