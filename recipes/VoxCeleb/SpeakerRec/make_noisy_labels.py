#!/usr/bin/env python3
"""Corrupts a share of the labels of a training manifest, reproducibly.

    python make_noisy_labels.py results/x/save/train.csv noisy.csv \
        --kind symmetric --rate 0.3 --seed 1986

Beside the new manifest stands label_noise.json with all that was done. A
recipe does the same by its key `label_noise`.
"""

import argparse
import sys

from speechbrain_ext.dataio.label_noise import corrupt_labels, write_corrupted
from speechbrain_ext.dataio.manifests import read_manifest


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
        "--exact", action="store_true", help="the share of every class"
    )
    parser.add_argument("--outside", help="manifest for open_set")
    parser.add_argument("--parts", type=int, help="of split and merge")
    parser.add_argument("--by", choices=["random", "session"])
    arguments = parser.parse_args(argv)
    try:
        options = {}
        if arguments.exact:
            options["exact"] = True
        if arguments.outside:
            options["outside"] = read_manifest(arguments.outside)
        for name in ("parts", "by"):
            if getattr(arguments, name) is not None:
                options[name] = getattr(arguments, name)
        noisy, report = corrupt_labels(
            read_manifest(arguments.manifest),
            arguments.kind,
            arguments.rate,
            arguments.seed,
            **options,
        )
        path = write_corrupted(noisy, report, arguments.noisy_manifest)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{report['corrupted']} of {report['utterances']} labels are wrong "
        f"({100 * report['rate_reached']:.2f} %); see {path}"
    )


if __name__ == "__main__":
    main()
