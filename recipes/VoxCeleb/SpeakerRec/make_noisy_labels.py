#!/usr/bin/env python3
"""Simulates label noise: corrupts a share of the labels of a manifest.

    python make_noisy_labels.py results/x/save/train.csv noisy.csv \
        --kind symmetric --rate 0.3 --seed 1986

The same seed gives the same labels. label_noise.json, beside the new manifest,
lists what was changed. The key `label_noise` of a recipe does the same.
"""

import argparse
import sys

from speechbrain_ext.dataio.label_noise import write_corrupted
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.inference.noisy_labels import noisy_manifest


def main(argv=None):
    """Writes the manifest and its report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("noisy_manifest")
    parser.add_argument(
        "--kind",
        required=True,
        choices=["symmetric", "pair", "open_set", "split", "merge"],
    )
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--exact", action="store_true", help="corrupt this share of each class"
    )
    parser.add_argument(
        "--outside", help="manifest of other speakers, for open_set"
    )
    parser.add_argument(
        "--parts",
        type=int,
        help="split: labels per speaker; merge: speakers per label",
    )
    parser.add_argument(
        "--by",
        choices=["random", "session", "name", "nearest"],
        help="split: random or session; pair: name or nearest",
    )
    parser.add_argument(
        "--embeddings_from",
        help="pretrained folder that finds the nearest speaker, for pair",
    )
    parser.add_argument(
        "--device", default="cpu", help="where the encoder runs"
    )
    arguments = vars(parser.parse_args(argv))
    source, target = arguments.pop("manifest"), arguments.pop("noisy_manifest")
    device, seed = arguments.pop("device"), arguments.pop("seed")
    try:
        asked = {
            key: value
            for key, value in arguments.items()
            if value is not None and value is not False
        }
        manifest = read_manifest(source)
        noisy, report = noisy_manifest(manifest, asked, seed, device)
        path = write_corrupted(noisy, report, target)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{report['corrupted']} of {report['utterances']} labels are wrong "
        f"({100 * report['rate_reached']:.2f} %); see {path}"
    )


if __name__ == "__main__":
    main()
