#!/usr/bin/env python3
"""Simulates label noise: corrupts a share of the labels of a manifest.

    python make_noisy_labels.py results/x/save/train.csv noisy.csv \
        --kind=symmetric --rate=0.3 --seed=1986
    python make_noisy_labels.py results/x/save/train.csv suite_folder --suite

The same seed gives the same labels. label_noise.json, beside the new manifest,
lists what was changed; so each list needs a folder of its own. The key
`label_noise` of a recipe does the same.
--suite writes the standard set of lists, with their hashes in SHA256SUMS.
"""

import argparse
import json
import pathlib
import sys

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain_ext.dataio.label_noise import KINDS, write_corrupted
from speechbrain_ext.dataio.label_noise_report import labels_fingerprint
from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.noise_suite import write_suite
from speechbrain_ext.dataio.preparation import OUTPUTS
from speechbrain_ext.inference.noisy_labels import (
    noisy_manifest,
    speaker_means,
)
from speechbrain_ext.utils.home import expand_home

# What --suite takes, besides the manifest and the folder
OF_SUITE = ("outside", "embeddings_from", "min_sessions")


def command_line():
    """The parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("manifest", help="the clean manifest")
    add("target", help="the noisy manifest; with --suite, a folder")
    add("--suite", action="store_true", help="write the standard set of lists")
    add("--kind", choices=KINDS)
    add("--rate", type=float, help="share in [0, 1]")
    add("--seed", type=int)
    add("--exact", action="store_true", help="corrupt this share of each class")
    add("--outside", help="manifest of other speakers, for open_set")
    add(
        "--parts",
        type=int,
        help="split: labels per speaker; merge: speakers per label",
    )
    add(
        "--by",
        choices=["random", "session", "name", "nearest"],
        help="split: random or session; pair: name or nearest",
    )
    add(
        "--embeddings_from",
        help="pretrained folder that finds the nearest speaker, for pair",
    )
    add(
        "--min_sessions",
        type=int,
        help="corrupt only speakers with that many sessions (suite: 2)",
    )
    add("--clusters", help="file of `utterance cluster` lines, for clusters")
    add(
        "--kinds",
        help="for mixture: [{kind: session, rate: 0.1}, {kind: ..}, ..]",
    )
    add("--device", default="cpu", help="where the encoder runs")
    add("--workers", type=int, help="processes of --suite; default: the cores")
    return parser


def parsed(text):
    """The value of --kinds, which is YAML."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise ValueError(
            f"--kinds must be a list such as [{{kind: session, rate: 0.1}}], "
            f"got {text[:80]!r}."
        ) from error


def suite(source, folder, asked, device, workers):
    """Writes the suite; returns what to say."""
    for name in asked:
        if name not in OF_SUITE:
            raise ValueError(
                f"--{name} does not go with --suite, whose kinds, rates and "
                "seeds are fixed; leave it out."
            )
    manifest, loaded = read_manifest(source), {}
    if "min_sessions" in asked:
        loaded["min_sessions"] = asked["min_sessions"]
    if "outside" in asked:
        loaded["outside"] = read_manifest(asked["outside"])
    if "embeddings_from" in asked:
        encoder = asked["embeddings_from"]
        loaded["embeddings"] = speaker_means(encoder, manifest, device)
    made = write_suite(manifest, folder, workers=workers, **loaded)
    said = [f"left out: {n} ({why})" for n, why in made["left_out"].items()]
    said.append(f"{len(made['lists'])} lists; hashes in {folder}/SHA256SUMS")
    return "\n".join(said)


def check_target(source, target):
    """Raises where a noisy list would replace what is needed later."""
    path = pathlib.Path(target)
    report, remedy = path.with_name("label_noise.json"), "name another one"
    prepared = path.with_name(OUTPUTS["done"]).exists()
    if path.exists() and path.samefile(source):
        reason = "is the clean manifest itself"
    elif path.name in OUTPUTS.values() and prepared:
        reason = "is a file of a preparation, which would write it again"
    elif path.name in ("train_noisy.csv", "dev_noisy.csv") and prepared:
        reason = "is a list that a training has used or will write"
    elif path.exists() and not _is_noisy_list(path, report):
        reason = "was not written by this command"
    elif report.exists() and not path.exists():
        reason = f"would replace {report}, the report of another list"
        remedy = "name one in another folder"
    else:
        return
    raise ValueError(f"The target {target} {reason}; {remedy}.")


def _is_noisy_list(path, report):
    """Whether a manifest has the labels that a report is about."""
    try:
        told = json.loads(report.read_text(encoding="utf-8"))["fingerprint"]
        held = read_manifest(path)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return told == labels_fingerprint(held["ID"], held["spk_id"])


def single(source, target, asked, device):
    """Writes one noisy manifest; returns what to say."""
    if "seed" not in asked or "kind" not in asked:
        raise ValueError(
            "--kind and --seed must be given, or --suite; --help lists all "
            "options."
        )
    if "kinds" in asked:
        asked["kinds"] = parsed(asked["kinds"])
    manifest = read_manifest(source)
    check_target(source, target)
    noisy, report = noisy_manifest(manifest, asked, asked["seed"], device)
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    path = write_corrupted(noisy, report, target)
    return (
        f"{report['corrupted']} of {report['utterances']} labels are wrong "
        f"({100 * report['rate_reached']:.2f} %); see {path}"
    )


def main(argv=None):
    """Writes the manifest and its report, or the suite."""
    arguments = vars(command_line().parse_args(expand_home(argv)))
    source, target = arguments.pop("manifest"), arguments.pop("target")
    device, workers = arguments.pop("device"), arguments.pop("workers")
    whole = arguments.pop("suite")
    asked = {
        key: value
        for key, value in arguments.items()
        if value is not None and value is not False
    }
    try:
        if whole:
            said = suite(source, target, asked, device, workers)
        else:
            said = single(source, target, asked, device)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: Interrupted.")
    print(said)


if __name__ == "__main__":
    main()
