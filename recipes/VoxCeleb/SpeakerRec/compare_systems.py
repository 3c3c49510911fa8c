#!/usr/bin/env python3
"""Compares two systems on the same trials, with intervals.

    python compare_systems.py A.scores B.scores

Score files have lines of `enrol test score target|nontarget`, as verification
and WeSpeaker write them, in any order. Speakers are drawn with replacement,
the same for both systems; a difference whose interval leaves 0 out is more
than chance. A trial's speakers are told by its names up to the first `/` (or
`-` where there is none), or by a manifest.
"""

import argparse
import json
import pathlib
import re
import sys

import pandas as pd

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.utils.bootstrap import SpeakerBootstrap, compare
from speechbrain_ext.utils.figures import figure_functions
from speechbrain_ext.utils.files import atomic_write


def read_both(first, second):
    """The trials of both files in one order, and both scores."""
    tables = []
    for path in (first, second):
        enrol, test, scores, targets = read_scores(path)
        table = pd.DataFrame({"enrol": enrol, "test": test})
        table["target"], table["score"] = targets.numpy(), scores.numpy()
        # a trial that comes twice is one of its own each time
        trial = ["enrol", "test"]
        table["time"] = table.groupby(trial).cumcount()
        tables.append(table.set_index([*trial, "time"]))
    one, other = tables
    for left, right, path in ((one, other, second), (other, one, first)):
        missing = left.index.difference(right.index)
        if len(missing):
            named = ", ".join(" ".join(key[:2]) for key in missing[:5])
            raise ValueError(
                f"{path} lacks {len(missing)} trials of the other file, among "
                f"them {named}; score the same list with both systems."
            )
    other = other.loc[one.index]
    wrong = one["target"].to_numpy() != other["target"].to_numpy()
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} trials have different labels in {first} and "
            f"{second}, among them {' '.join(one.index[wrong][0][:2])}."
        )
    trials = one.index.to_frame(index=False)
    trials["target"] = one["target"].to_numpy()
    return trials, one["score"].to_numpy(), other["score"].to_numpy()


def speakers_of(trials, manifest):
    """Speaker of both sides of each trial."""
    if manifest is None:
        return [
            [
                re.split("/", name, maxsplit=1)[0]
                if "/" in name
                else name.split("-", 1)[0]
                for name in trials[side]
            ]
            for side in ("enrol", "test")
        ]
    known = read_manifest(manifest).set_index("ID")["spk_id"]
    missing = sorted(
        set(trials[["enrol", "test"]].to_numpy().flat) - set(known.index)
    )
    if missing:
        raise ValueError(
            f"{manifest} lacks {len(missing)} utterances of the trials: "
            f"{', '.join(missing[:20])}."
        )
    return [known[trials[side]].tolist() for side in ("enrol", "test")]


def main(argv=None):
    """Prints the table of differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=pathlib.Path)
    parser.add_argument("second", type=pathlib.Path)
    parser.add_argument("--manifest", help="CSV with ID and spk_id")
    parser.add_argument(
        "--p_targets", type=float, nargs="+", default=[0.01, 0.05]
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="the scores are log-likelihood ratios: actDCF and Cllr too",
    )
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args(argv)
    try:
        trials, first, second = read_both(arguments.first, arguments.second)
        bootstrap = SpeakerBootstrap(
            trials["target"].to_numpy(),
            *speakers_of(trials, arguments.manifest),
            arguments.replicates,
            arguments.seed,
        )
        functions = figure_functions(arguments.p_targets, arguments.calibrated)
        found = compare(
            bootstrap, first, second, functions, arguments.confidence
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    rows = []
    for name, values in found.items():
        shown = {"figure": name}
        for key, ends in (
            ("first", "first interval"),
            ("second", "second interval"),
            ("difference", "interval"),
        ):
            digits = 2 if "%" in name else 3
            low, high = values[ends]
            shown[key] = (
                f"{values[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
            )
        rows.append({**shown, "p": f"{values['p']:.3f}"})
    print(pd.DataFrame(rows).to_string(index=False))
    if arguments.json:
        with atomic_write(arguments.json) as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
