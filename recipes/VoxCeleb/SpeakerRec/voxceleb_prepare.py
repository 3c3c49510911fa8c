"""Prepares VoxCeleb1, VoxCeleb2 or any corpus of that shape: manifests of
training, development and test utterances.

    python voxceleb_prepare.py --data_folder /data/VoxCeleb1,/data/VoxCeleb2 \
        --save_folder results/prepared --dev_speakers 40

Audio is <data_folder>/**/<speaker>/<session>/<utterance>.wav (or flac, ogg);
only its headers are read. VoxCeleb2's m4a has to be converted first.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import math
import os
import sys

from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.corpus import list_corpus
from speechbrain_ext.dataio.manifests import (
    COLUMNS,
    replacing,
    scan_files,
    write_manifest,
)
from speechbrain_ext.dataio.splits import hold_out_speakers
from speechbrain_ext.dataio.trials import (
    find_trial_lists,
    make_trials,
    read_trials,
    require_utterances,
    write_trials,
)

logger = get_logger(__name__)

OUTPUTS = {
    "train": "train.csv",
    "dev": "dev.csv",
    "dev_trials": "dev_trials.txt",
    "test": "test.csv",
    "rejected": "rejected.csv",
}
DONE = "prepare.json"


def prepare_voxceleb(
    data_folder,
    save_folder,
    trial_lists=None,
    dev_speakers=0,
    dev_trials=2000,
    max_unreadable=0.01,
    seed=1986,
    test_only=False,
    workers=None,
    skip_prep=False,
):
    """Write the manifests of a corpus in VoxCeleb's shape.

    Speakers that occur in a trial list, and those with a file below a level
    named ``test``, never enter training. Development trials are drawn from
    speakers held out of training. In ``save_folder`` come ``train.csv``;
    ``dev.csv`` and ``dev_trials.txt`` if ``dev_speakers`` is not 0;
    ``test.csv``, every utterance of the trial lists, if there are any;
    ``rejected.csv``, the files left out and why; last ``prepare.json``, the
    options and the counts. Nothing is written before every check has passed.

    A second call with the same options, file names and trial lists keeps what
    is there. It does not notice that a file has other content under the same
    name, nor that a manifest was edited: delete ``prepare.json`` then.

    Arguments
    ---------
    data_folder : str or list of str
        The folder of the corpus, or several, also as one text with commas.
    save_folder : str
        Where the manifests go.
    trial_lists : list of str or str or None
        Trial lists, absolute or relative to a data folder; None for those
        that ``find_trial_lists`` finds, an empty list for none.
    dev_speakers : int
        Speakers held out for development, chosen by the seed and their names
        among the training speakers with two utterances or more; 0 or at
        least 2.
    dev_trials : int
        Development trials, half of them target trials; fewer where there are
        not as many pairs.
    max_unreadable : float
        Fraction of unreadable files, in [0, 1], above which the preparation
        stops; 1 allows any.
    seed : int
        Chooses the development speakers and trials.
    test_only : bool
        Write ``test.csv`` and ``rejected.csv`` alone, from the files of the
        trial lists: to verify where no training data is.
    workers : int or None
        Processes that read headers; None for one a core.
    skip_prep : bool
        Do nothing.

    Raises
    ------
    FileNotFoundError
        If a data folder, a trial list or a file of a trial is missing.
    ValueError
        If an option is out of range, a folder holds no audio, two files have
        one ID, a line of a trial list is broken, a trial's file or too many
        files are unreadable, too few speakers can be held out, or no speaker
        is left for training.

    Example
    -------
    >>> prepare_voxceleb("/data/VoxCeleb1", "results/prepared", skip_prep=True)
    """
    if skip_prep:
        return
    _check_options(dev_speakers, dev_trials, max_unreadable)
    folders = _split_folders(data_folder)
    files, left_out = list_corpus(folders)
    lists = _resolve_lists(trial_lists, folders, save_folder)
    if test_only and not lists:
        raise ValueError(
            "`test_only` needs trial lists, but the data folders hold none; "
            "name them in `trial_lists`."
        )
    options = {
        "data_folder": folders,
        "trial_lists": lists,
        "dev_speakers": dev_speakers,
        "dev_trials": dev_trials,
        "max_unreadable": max_unreadable,
        "seed": seed,
        "test_only": test_only,
        "fingerprint": _fingerprint(files, lists),
    }
    wanted = _wanted(options)
    if _is_done(save_folder, options, wanted):
        logger.info("%s is up to date: nothing to prepare", save_folder)
        return
    test_ids = _read_test_ids(lists, files)
    if test_only:
        files = files[files.ID.isin(test_ids)]
    manifest, rejected, summary = scan_files(files, left_out, workers)
    _check_unreadable(rejected, len(files), max_unreadable)
    _check_readable_tests(test_ids, files, rejected)
    tables = {"rejected": rejected}
    tables["test"] = manifest[manifest.ID.isin(test_ids)]
    if not test_only:
        is_test = files.official_test | files.ID.isin(test_ids)
        tables["train"], tables["dev"] = hold_out_speakers(
            manifest, set(files.spk_id[is_test]), dev_speakers, seed
        )
        summary["train_speakers"] = tables["train"].spk_id.nunique()
    if "dev_trials" in wanted:
        tables["dev_trials"] = make_trials(tables["dev"], dev_trials, seed)
    summary |= {name: len(tables[name]) for name in wanted}
    summary["trial_lists"] = len(lists)
    tables = {name: tables[name] for name in wanted}
    _write(save_folder, tables, options, summary)
    _log(summary, save_folder)


def _check_options(dev_speakers, dev_trials, max_unreadable):
    if dev_speakers < 0 or dev_speakers == 1:
        raise ValueError(
            "`dev_speakers` must be 0 (no development trials) or at least 2 "
            f"(nontarget trials need two), got {dev_speakers}; hold out two."
        )
    if dev_trials < 2:
        raise ValueError(
            "`dev_trials` must be at least 2, a target and a nontarget trial, "
            f"got {dev_trials}; to have none set `dev_speakers` to 0."
        )
    if not 0 <= max_unreadable <= 1:
        raise ValueError(
            "`max_unreadable` must be a fraction in [0, 1], got "
            f"{max_unreadable}; 1 % is 0.01."
        )


def _split_folders(data_folder):
    """Absolute paths; a text is split at commas unless it is a folder's name."""
    if isinstance(data_folder, (str, os.PathLike)):
        data_folder = os.fspath(data_folder)
        if not os.path.isdir(data_folder):
            data_folder = [part.strip() for part in data_folder.split(",")]
        else:
            data_folder = [data_folder]
    folders = [os.path.abspath(folder) for folder in data_folder if folder]
    if not folders:
        raise FileNotFoundError(
            "`data_folder` names no folder; give the one that holds the corpus."
        )
    return folders


def _resolve_lists(trial_lists, folders, save_folder):
    """Absolute paths of the trial lists."""
    if trial_lists is None:
        # A former run may have put its development trials into a data folder.
        own = os.path.realpath(os.path.join(save_folder, OUTPUTS["dev_trials"]))
        found = find_trial_lists(folders)
        return [path for path in found if os.path.realpath(path) != own]
    if isinstance(trial_lists, (str, os.PathLike)):
        trial_lists = [
            part.strip() for part in os.fspath(trial_lists).split(",")
        ]
    resolved = []
    for name in filter(None, trial_lists):
        places = [os.path.join(folder, name) for folder in folders]
        held = [place for place in places if os.path.isfile(place)]
        if not held:
            raise FileNotFoundError(
                f"The trial list {name} does not exist (looked for "
                f"{', '.join(dict.fromkeys(places))}); give its absolute path "
                "or one relative to a data folder."
            )
        resolved.append(os.path.abspath(held[0]))
    return list(dict.fromkeys(resolved))


def _fingerprint(files, lists):
    """Digest of the corpus's file names and of the trial lists' content."""
    digest = hashlib.sha256("\n".join(files.wav.to_numpy()).encode())
    for path in lists:
        with open(path, "rb") as stream:
            digest.update(hashlib.sha256(stream.read()).digest())
    return digest.hexdigest()


def _wanted(options):
    """Which of the OUTPUTS these options make, in the order of writing."""
    made = {
        "train": not options["test_only"],
        "dev": options["dev_speakers"] and not options["test_only"],
        "dev_trials": options["dev_speakers"] and not options["test_only"],
        "test": options["trial_lists"],
        "rejected": True,
    }
    return [name for name in OUTPUTS if made[name]]


def _is_done(save_folder, options, wanted):
    """Whether a former run with these options wrote everything."""
    paths = [os.path.join(save_folder, OUTPUTS[name]) for name in wanted]
    if not all(map(os.path.isfile, paths)):
        return False
    try:
        with open(os.path.join(save_folder, DONE), encoding="utf-8") as stream:
            done = json.load(stream)
    except (OSError, ValueError):
        return False  # no mark or a broken one: it has to be done again
    return isinstance(done, dict) and options == {
        name: value for name, value in done.items() if name != "summary"
    }


def _read_test_ids(lists, files):
    """IDs of all utterances of the trial lists, each of them in the corpus."""
    known = set(files.ID.to_numpy())
    test_ids = {}
    for path in lists:
        trials = read_trials(path)
        require_utterances(trials, known, path)
        test_ids |= dict.fromkeys(
            trials[["enrol", "test"]].to_numpy().flat, path
        )
    return test_ids


def _check_unreadable(rejected, total, max_unreadable):
    if len(rejected) > max_unreadable * total:
        enough = math.ceil(1e4 * len(rejected) / total) / 1e4
        shown = "; ".join(
            f"{wav} ({reason})"
            for wav, reason in rejected.head(3).itertuples(index=False)
        )
        raise ValueError(
            f"{len(rejected)} of {total} audio files are unreadable, more than "
            f"`max_unreadable` = {max_unreadable} allows: {shown}; repair or "
            f"remove them, or set `max_unreadable` to {enough:.4f} to leave "
            "them out."
        )


def _check_readable_tests(test_ids, files, rejected):
    """Raise where a trial names a file that was rejected."""
    reasons = dict(zip(rejected.wav, rejected.reason, strict=True))
    broken = files[files.wav.isin(reasons) & files.ID.isin(test_ids)]
    if len(broken):
        first = broken.iloc[0]
        raise ValueError(
            f"{len(broken)} files of the trial lists are unreadable, among "
            f"them {first.wav} ({reasons[first.wav]}), which "
            f"{test_ids[first.ID]} names; restore them or take their trials out."
        )


def _write(save_folder, tables, options, summary):
    """Write everything, the mark that it is whole last."""
    os.makedirs(save_folder, exist_ok=True)
    # Without the mark, a run that is killed from here on is done again; and
    # what these options do not make must not look as if they had made it.
    for name in [DONE, *(OUTPUTS[name] for name in OUTPUTS.keys() - tables)]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(save_folder, name))
    for name, table in tables.items():
        path = os.path.join(save_folder, OUTPUTS[name])
        if name == "dev_trials":
            write_trials(table, path)
        elif name == "rejected":
            with replacing(path) as stream:
                table.to_csv(stream, index=False, lineterminator="\n")
        else:
            write_manifest(table[COLUMNS], path)
    with replacing(os.path.join(save_folder, DONE)) as stream:
        json.dump({**options, "summary": summary}, stream, indent=2)
        stream.write("\n")


def _log(summary, save_folder):
    """The counts, one line each, of what is there and of what was left out."""
    logger.info(
        "%d utterances of %d speakers in %d sessions, %.2f hours",
        *(summary[key] for key in ("files", "speakers", "sessions")),
        summary["seconds"] / 3600,
    )
    if summary["stereo"] or summary["resampled"]:
        logger.info(
            "%d stereo files are mixed down and %d are resampled to 16 kHz "
            "when they are read",
            summary["stereo"],
            summary["resampled"],
        )
    if summary["rejected"]:
        logger.warning(
            "%d unreadable files are left out: see %s",
            summary["rejected"],
            os.path.join(save_folder, OUTPUTS["rejected"]),
        )
    others = {"outside the folders' shape": summary["misplaced"]}
    others |= summary["other_formats"]
    others = [f"{count} {name}" for name, count in others.items() if count]
    if others:
        logger.info("other audio files left out: %s", ", ".join(others))
    if "train" in summary:
        logger.info(
            "training: %d utterances of %d speakers",
            summary["train"],
            summary["train_speakers"],
        )
    if "dev" in summary:
        logger.info(
            "development: %d trials of %d utterances, their speakers held out",
            summary["dev_trials"],
            summary["dev"],
        )
    if "test" in summary:
        logger.info(
            "test: %d utterances in %d trial lists, their speakers held out",
            summary["test"],
            summary["trial_lists"],
        )
    else:
        logger.warning("no trial list, so no test manifest")


def main(arguments=None):
    """Prepare by the command line; 1 where the input is at fault, else 0."""
    parser = argparse.ArgumentParser(
        description="Write the manifests of a corpus in VoxCeleb's shape."
    )
    add = parser.add_argument
    add("--data_folder", required=True, help="the corpus; several with commas")
    add("--save_folder", required=True, help="where the manifests go")
    add("--trial_lists", help="with commas; default: those found in the corpus")
    add("--dev_speakers", type=int, default=0, help="speakers held out")
    add("--dev_trials", type=int, default=2000, help="development trials")
    add("--max_unreadable", type=float, default=0.01, help="fraction, 0 to 1")
    add("--seed", type=int, default=1986, help="chooses the held-out speakers")
    add("--test_only", action="store_true", help="only the trials' utterances")
    add("--workers", type=int, help="processes; default: one a core")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare_voxceleb(**options)
    except (ValueError, OSError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
