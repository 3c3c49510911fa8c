#!/usr/bin/env python3
"""Compares two systems on the same trials, with intervals.

    python compare_systems.py A.scores B.scores --plot det.png

Score files have lines of `enrol test score target|nontarget`, as verification
and WeSpeaker write them, in any order. Speakers are drawn with replacement, the
same ones for both systems. A difference is significant if its interval does
not contain 0. The speaker of an utterance is its name up to the first `/` (or
`-` if there is none), or is read from a manifest.
"""

import argparse
import json
import os
import pathlib
import sys

import numpy as np
import pandas as pd

from speechbrain_ext.dataio.manifests import read_manifest
from speechbrain_ext.dataio.score_files import read_scores
from speechbrain_ext.dataio.trials import read_enrolment
from speechbrain_ext.utils.bootstrap import SpeakerBootstrap, compare
from speechbrain_ext.utils.evaluation import metric_functions
from speechbrain_ext.utils.files import atomic_write, require_own
from speechbrain_ext.utils.home import expand_home
from speechbrain_ext.utils.plots import det_plot

PICTURES = (".png", ".pdf", ".svg")
MOST_REPLICATES = 100_000
RESULTS = ("results.json", "calibration.json")  # of a verification


def check(arguments):
    """Checks the arguments before anything is read."""
    for name in ("first", "second", "manifest", "enrolment"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            raise FileNotFoundError(
                f"`{name}` must be a file, but {path} is not; check its path."
            )
    if arguments.enrolment and not arguments.manifest:
        raise ValueError(
            "`--enrolment` needs `--manifest`, which has the speakers of its "
            "utterances; pass both."
        )
    if os.path.samefile(arguments.first, arguments.second):
        raise ValueError(
            f"{arguments.first} and {arguments.second} are the same file; name "
            "the scores of two systems."
        )
    for name in ("p_targets", "confidence"):
        for share in np.atleast_1d(getattr(arguments, name)):
            if not 0 < share < 1:
                raise ValueError(
                    f"`--{name}` must be in (0, 1), got {share:g}; pass a "
                    "fraction, not percent."
                )
    if not 2 <= arguments.replicates <= MOST_REPLICATES:
        raise ValueError(
            f"`--replicates` must be from 2 to {MOST_REPLICATES}, got "
            f"{arguments.replicates}; 1000 is usual."
        )
    if arguments.seed < 0:
        raise ValueError(f"`--seed` must be 0 or more, got {arguments.seed}.")
    if arguments.json and arguments.json == arguments.plot:
        raise ValueError(
            f"`--json` and `--plot` are both {arguments.json}; name two files."
        )
    if arguments.json and arguments.json.name in RESULTS:
        raise ValueError(
            f"`--json` is {arguments.json}, the name of verification's "
            "results; choose another name."
        )
    for path in filter(None, (arguments.plot, arguments.json)):
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"{path} cannot be written: the folder {path.parent} does not "
                "exist; create it, or name another."
            )
        given = arguments.first, arguments.second, arguments.manifest
        given = filter(None, (*given, arguments.enrolment))
        if path.exists() and any(os.path.samefile(path, x) for x in given):
            raise ValueError(
                f"{path} is one of the files to read and would be replaced; "
                "name another file."
            )
        require_own(path)
    if arguments.json and arguments.json.suffix != ".json":
        raise ValueError(f"`--json` must end with .json, got {arguments.json}.")
    if arguments.plot and arguments.plot.suffix not in PICTURES:
        raise ValueError(
            f"`--plot` must end with {', '.join(PICTURES)}, got "
            f"{arguments.plot}."
        )


def read_table(path):
    """Reads the trials of a score file; `time` numbers repeated trials."""
    try:
        with open(path, encoding="utf-8") as file:
            line = next((line for line in file if line.strip()), "")
        if not line:
            raise ValueError(f"{path} is empty; name a file with scores.")
        if len(line.split()) == 3:
            raise ValueError(
                f"{path} has lines of three words, like Kaldi's score files, "
                "which do not mark target trials; name the file with lines "
                "`enrol test score target|nontarget`."
            )
        enrol, test, scores, targets = read_scores(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file; name a file with lines "
            "`enrol test score target|nontarget`."
        ) from error
    table = pd.DataFrame({"enrol": enrol, "test": test})
    table["target"], table["score"] = targets.numpy(), scores.numpy()
    if table["target"].nunique() < 2:
        kind = "target" if table["target"][0] else "nontarget"
        raise ValueError(
            f"{path} must have target and nontarget trials, but all of its "
            f"{len(table)} are {kind} trials; name the scores of a whole list."
        )
    # each repetition of a trial counts
    trial = ["enrol", "test"]
    table["time"] = table.groupby(trial).cumcount()
    return table.set_index([*trial, "time"])


def read_both(first, second):
    """Reads the trials of both files in the same order, and both scores."""
    one, other = read_table(first), read_table(second)
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
            f"{second}, for example {' '.join(one.index[wrong][0][:2])}; score "
            "the same list with both systems."
        )
    trials = one.index.to_frame(index=False)
    trials["target"] = one["target"].to_numpy()
    return trials, one["score"].to_numpy(), other["score"].to_numpy()


def speakers_of(trials, manifest, enrolment=None):
    """The speakers of both sides of the trials.

    The speaker of a model is that of its first utterance.
    """
    if manifest is None:
        return [
            [
                name.split("/" if "/" in name else "-", maxsplit=1)[0]
                for name in trials[side]
            ]
            for side in ("enrol", "test")
        ]
    known = read_manifest(manifest).set_index("ID")["spk_id"].to_dict()
    first = {}
    if enrolment is not None:
        models = read_enrolment(enrolment)
        first = {model: names[0] for model, names in models.items()}
    sides = [
        [first.get(name, name) for name in trials["enrol"]],
        trials["test"].tolist(),
    ]
    missing = sorted(set().union(*sides) - known.keys())
    if missing:
        raise ValueError(
            f"{manifest} lacks {len(missing)} utterances of the trials: "
            f"{', '.join(missing[:20])}; name the manifest of the test "
            "utterances, and with --enrolment the list of the models."
        )
    return [[known[name] for name in side] for side in sides]


def system_names(first, second):
    """The shortest ends of both paths that differ."""
    if first.stem != second.stem:
        return first.stem, second.stem
    paths = [path.absolute().parts for path in (first, second)]
    for number in range(1, max(map(len, paths)) + 1):
        ends = ["/".join(parts[-number:]) for parts in paths]
        if ends[0] != ends[1]:
            break
    return tuple(ends)


def table_of(found):
    """The metrics of both systems and their differences, as text."""
    rows = []
    for name, values in found.items():
        shown, digits = {"figure": name}, 2 if "%" in name else 3
        for key, ends in (
            ("first", "first interval"),
            ("second", "second interval"),
            ("difference", "interval"),
        ):
            low, high = values[ends]
            shown[key] = (
                f"{values[key]:.{digits}f} "
                f"[{low:.{digits}f}, {high:.{digits}f}]"
            )
        rows.append({**shown, "p": f"{values['p']:.3f}"})
    return pd.DataFrame(rows).to_string(index=False)


def verdict(name, values, confidence):
    """Says in a sentence what a difference means."""
    low, high = values["interval"]
    share = f"{100 * confidence:g} % interval of the difference"
    if values["difference"] == low == high == 0:
        return f"{name}: both systems have the same value in every draw."
    if low <= 0 <= high:
        return f"{name}: the difference may be chance; the {share} contains 0."
    better = "first" if high < 0 else "second"
    return (
        f"{name}: the {better} system is better, by more than chance; the "
        f"{share} does not contain 0."
    )


def make_parser():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=pathlib.Path, help="its score file")
    parser.add_argument("second", type=pathlib.Path, help="its score file")
    parser.add_argument(
        "--manifest", type=pathlib.Path, help="CSV with ID and spk_id"
    )
    parser.add_argument(
        "--enrolment",
        type=pathlib.Path,
        help="verification's list of models, if the trials name models",
    )
    parser.add_argument(
        "--p_targets",
        type=float,
        nargs="+",
        default=[0.01, 0.05],
        help="priors of minDCF",
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="the scores are log-likelihood ratios: actDCF and Cllr too",
    )
    parser.add_argument(
        "--replicates", type=int, default=1000, help="draws of the speakers"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="of the intervals"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument(
        "--json", type=pathlib.Path, help="file to write the figures into"
    )
    parser.add_argument(
        "--plot",
        type=pathlib.Path,
        help="picture to write: DET curves of both systems (png, pdf, svg)",
    )
    return parser


def main(argv=None):
    """Prints the table of differences."""
    arguments = make_parser().parse_args(expand_home(argv))
    try:
        check(arguments)
        trials, first, second = read_both(arguments.first, arguments.second)
        targets = trials["target"].to_numpy()
        speakers = speakers_of(trials, arguments.manifest, arguments.enrolment)
        try:
            bootstrap = SpeakerBootstrap(
                targets, *speakers, arguments.replicates, arguments.seed
            )
        except ValueError as error:
            if arguments.manifest:
                raise
            raise ValueError(
                f"{error} --manifest=<output_folder>/save/test.csv names the "
                "speakers."
            ) from error
        functions = metric_functions(arguments.p_targets, arguments.calibrated)
        found = compare(
            bootstrap, first, second, functions, arguments.confidence
        )
        if arguments.plot:
            names = system_names(arguments.first, arguments.second)
            pairs = [(s[targets], s[~targets]) for s in (first, second)]
            systems = dict(zip(names, pairs, strict=True))
            det_plot(systems, arguments.plot, p_targets=arguments.p_targets)
        if arguments.json:
            with atomic_write(arguments.json) as file:
                json.dump(found, file, indent=2)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    number = len(set().union(*speakers))
    print(f"first:  {arguments.first}\nsecond: {arguments.second}")
    print(
        f"{len(trials)} trials ({targets.sum()} target) of {number} speakers; "
        f"in brackets {100 * arguments.confidence:g} % intervals, from "
        f"{arguments.replicates} draws of the speakers; the difference is "
        "first minus second\n"
    )
    print(table_of(found), end="\n\n")
    for name, values in found.items():
        print(verdict(name, values, arguments.confidence))


if __name__ == "__main__":
    main()
