#!/usr/bin/env python3
"""Digests of the noise suite of a corpus, and whether they are the same.

    python benchmarks/noise_lists.py --data_folder=MINIVOX [--quick] \
        [--json FILE]

The manifest is that of the recipes for small corpora: all training speakers
and no development speakers. The suite is written three times: in one process,
in three processes, and with the rows in another order. All files must be the
same, and in each class exactly the share of the list must be wrong (of
utterances, or of sessions). --quick writes it once.
"""

import collections
import importlib
import pathlib
import sys
import tempfile

from record import ROOT, finish, parser, print_header, print_row, row

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.noise_suite import HASHES, write_suite

EXACT = ("symmetric", "session")


def train_manifest(data_folder, folder):
    """The manifest that a recipe for a small corpus trains on."""
    sys.path.insert(0, str(ROOT / "recipes" / "VoxCeleb" / "SpeakerRec"))
    prepare = importlib.import_module("voxceleb_prepare").prepare_voxceleb
    prepare(str(data_folder), str(folder), seed=42)
    return read_manifest(folder / "train.csv")


def differing(one, other):
    """Number of lists whose hashes are not those of another folder."""
    lines = [set((f / HASHES).read_text().splitlines()) for f in (one, other)]
    return len(lines[0] ^ lines[1])


def units_by_class(path, true, sessions):
    """Wrong and all utterances (or sessions) of each class of a list."""
    units = collections.defaultdict(dict)
    for line in path.read_text().splitlines():
        name, label = line.split(" ")
        unit = name.rpartition("/")[0] if sessions else name
        units[true[name]][unit] = label != true[name]
    return {c: (sum(of.values()), len(of)) for c, of in units.items()}


def inexact_classes(folder, suite, manifest):
    """Number of classes whose share of wrong labels is not the list's."""
    true = dict(zip(manifest["ID"], manifest["spk_id"], strict=True))
    sessions = manifest["ID"].str.rpartition("/")[0]
    sessions = sessions.groupby(manifest["spk_id"]).nunique()
    found = 0
    for name, one in suite["lists"].items():
        kind = name.partition("-")[0]
        if kind not in EXACT:
            continue
        rate = one["label_noise"]["rate"]
        least = one["label_noise"]["min_sessions"]
        counts = units_by_class(folder / f"{name}.txt", true, kind == "session")
        for speaker, (wrong, count) in counts.items():
            share = int(rate * count + 0.5) if sessions[speaker] >= least else 0
            found += wrong != share
    return found


def main():
    """Writes the suite, compares it, and writes the record."""
    options = parser(__doc__, "write the suite once, compare nothing")
    options.add_argument("--data_folder", type=pathlib.Path, required=True)
    arguments = options.parse_args()
    print_header()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        manifest = train_manifest(arguments.data_folder, folder / "save")
        suite = write_suite(manifest, folder / "one", workers=1)
        record = [
            row("utterances", suite["utterances"], "utterances"),
            row("speakers", suite["speakers"], "speakers"),
        ]
        for name, one in suite["lists"].items():
            made = row(name, one["corrupted"], "wrong labels")
            record.append(made | {"sha256": one["sha256"]})
        inexact = inexact_classes(folder / "one", suite, manifest)
        name = "classes with another share than the list's"
        record.append(row(name, inexact, "classes", 0))
        if not arguments.quick:
            write_suite(manifest, folder / "three", workers=3)
            shuffled = manifest.sample(frac=1, random_state=1)
            write_suite(shuffled, folder / "order", workers=1)
            for other, words in (
                ("three", "lists that differ with 3 processes"),
                ("order", "lists that differ with the rows in another order"),
            ):
                count = differing(folder / "one", folder / other)
                record.append(row(words, count, "lists", 0))
    for made in record:
        print_row(made)
    finish(record, arguments.json, 42)


if __name__ == "__main__":
    main()
