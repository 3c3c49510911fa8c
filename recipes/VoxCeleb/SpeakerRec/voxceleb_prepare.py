"""Prepares VoxCeleb1, VoxCeleb2 or any corpus of that shape: manifests of
training, development and test utterances.

    python voxceleb_prepare.py --data_folder /data/VoxCeleb1,/data/VoxCeleb2 \
        --save_folder results/prepared --dev_speakers 40

Audio is <data_folder>/**/<speaker>/<session>/<utterance>.wav (or flac, ogg);
only its headers are read. VoxCeleb2's m4a is converted first, by
convert_audio.py. With --file_list the utterances are those of a list of
`speaker path` lines, a Kaldi data folder or a CSV of SpeechBrain's. A run that
was killed goes on with the same command.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import sys

import pandas as pd
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.corpus import list_corpus
from speechbrain_ext.dataio.file_lists import list_named
from speechbrain_ext.dataio.kaldi import write_kaldi
from speechbrain_ext.dataio.manifests import (
    COLUMNS,
    replacing,
    scan_files,
    write_manifest,
)
from speechbrain_ext.dataio.parallel import exclusive
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
    "kaldi": "kaldi",
}
DONE = "prepare.json"
DIGITS = 12  # of the fingerprint that file names show
NOT_THERE = f"cannot be opened: {os.strerror(errno.ENOENT)}"


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
    file_list=None,
    kaldi=False,
):
    """Write the manifests of a corpus in VoxCeleb's shape, or of a list.

    Speakers that occur in a trial list, and those with a file below a level
    named ``test``, never enter training. Development trials are drawn from
    speakers held out of training. In ``save_folder`` come ``train.csv``;
    ``dev.csv`` and ``dev_trials.txt`` if ``dev_speakers`` is not 0;
    ``test.csv``, every utterance of the trial lists, if there are any;
    ``rejected.csv``, the files left out and why; last ``prepare.json``, the
    options and the counts. These names are links to files whose names have a
    fingerprint of options, file names and lists in them
    (``train-1a2b3c4d5e6f.csv``), so that no other setting uses them. No
    manifest is written before every check has passed. A run that was killed
    goes on where it was when it is called again.

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
    file_list : str or list of str or None
        Lists of the utterances, see ``list_named``, in the place of all that
        the data folders hold; several with commas. The files of trial lists
        may lie in the data folders without being listed.
    kaldi : bool
        Write each manifest as a Kaldi data folder too, below ``kaldi``.

    Raises
    ------
    FileNotFoundError
        If a data folder, a list or a file of a list or trial is missing.
    OSError
        If the save folder cannot be written into, or its disk is full.
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
    lists = _resolve_lists(trial_lists, folders, save_folder)
    sources = _split(file_list)
    files, left_out = _list_files(folders, sources, lists)
    if test_only and not lists:
        raise ValueError(
            "`test_only` needs trial lists, but the data folders hold none; "
            "name them in `trial_lists`."
        )
    options = {
        "data_folder": folders,
        "file_list": sources,
        "trial_lists": lists,
        "dev_speakers": dev_speakers,
        "dev_trials": dev_trials,
        "max_unreadable": max_unreadable,
        "seed": seed,
        "test_only": test_only,
        "kaldi": kaldi,
        "fingerprint": _fingerprint(files, lists),
    }
    wanted = _wanted(options)
    stamp = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:DIGITS]
    if _is_done(save_folder, options, wanted, stamp):
        _link(save_folder, wanted, stamp)
        logger.info("%s is up to date: nothing to prepare", save_folder)
        return
    test_ids = _read_test_ids(lists, files)
    if test_only:
        files = files[files.ID.isin(test_ids)]
    with _emptied_on_error(save_folder), exclusive(save_folder):
        journal = os.path.join(save_folder, f"headers-{stamp}.jsonl")
        try:
            scanned = scan_files(files, left_out, workers, journal)
            tables, summary = _split_tables(*scanned, files, test_ids, options)
        except (ValueError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(journal)  # what is wrong may be mended until then
            raise
        tables = {name: tables[name] for name in wanted}
        _write(save_folder, tables, options, summary, stamp)
        for name in os.listdir(save_folder):
            if name.startswith("headers-"):  # of any run that was killed
                os.unlink(os.path.join(save_folder, name))
    _log(summary, save_folder)


def _list_files(folders, sources, lists):
    """The utterances of the data folders, or of lists and trials."""
    if not sources:
        return list_corpus(folders)
    files = pd.concat([list_named(s, folders) for s in sources])
    tested = set()
    for path in lists:
        tested |= set(read_trials(path)[["enrol", "test"]].to_numpy().flat)
    tested -= set(files.ID)
    left_out = {"misplaced": 0, "other_formats": {}}
    if tested:  # a list to train from: the trials' files beside it
        others, left_out = list_corpus(folders)
        files = pd.concat([files, others[others.ID.isin(tested)]])
    files = files.sort_values("ID", ignore_index=True)
    if "start" in files:
        files = files.fillna({"start": 0, "stop": -1})
        files = files.astype({"start": int, "stop": int})
    again = files[files.ID.duplicated(keep=False)]
    if len(again):
        one, other = again.wav.head(2)
        raise ValueError(
            f"Two files have the ID {again.ID.iloc[0]}: {one} and {other}; "
            "keep one of them."
        )
    return files, left_out


def _split_tables(manifest, rejected, summary, files, test_ids, options):
    """What is written, after all checks, and its counts."""
    if options["file_list"]:
        missing = rejected.wav[rejected.reason == NOT_THERE]
        if len(missing):
            raise FileNotFoundError(
                f"{len(missing)} of the {len(files)} listed files are not "
                f"there: {', '.join(missing.head(3))}; correct the list, or "
                "name in `data_folder` the folder that its paths start from."
            )
    _check_unreadable(rejected, len(files), options["max_unreadable"])
    _check_readable_tests(test_ids, files, rejected)
    wanted, seed = _wanted(options), options["seed"]
    tables = {"rejected": rejected}
    tables["test"] = manifest[manifest.ID.isin(test_ids)]
    if "train" in wanted:
        is_test = files.official_test | files.ID.isin(test_ids)
        tables["train"], tables["dev"] = hold_out_speakers(
            manifest,
            set(files.spk_id[is_test]),
            options["dev_speakers"],
            seed,
        )
        summary["train_speakers"] = tables["train"].spk_id.nunique()
    if "dev_trials" in wanted:
        tables["dev_trials"] = make_trials(
            tables["dev"], options["dev_trials"], seed
        )
    if options["kaldi"]:
        tables["kaldi"] = {
            name: tables[name]
            for name in ("train", "dev", "test")
            if name in wanted
        }
    summary |= {name: len(tables[name]) for name in wanted if name != "kaldi"}
    summary["trial_lists"] = len(options["trial_lists"])
    return tables, summary


@contextlib.contextmanager
def _emptied_on_error(folder):
    """Takes a folder away again that was made for nothing."""
    there = os.path.exists(folder)
    try:
        yield
    except (ValueError, OSError):
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def _split(names):
    """A list of absolute paths from a list, one text with commas, or None."""
    if names is None:
        return []
    if isinstance(names, (str, os.PathLike)):
        names = [part.strip() for part in os.fspath(names).split(",")]
    return [os.path.abspath(name) for name in filter(None, names)]


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
        own = os.path.realpath(os.path.join(save_folder, "dev_trials"))
        found = find_trial_lists(folders)
        return [p for p in found if not os.path.realpath(p).startswith(own)]
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
    for column in files.columns.difference(["wav", "official_test"]):
        named = "\n".join(map(str, files[column].to_numpy()))
        digest.update(hashlib.sha256(named.encode()).digest())
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
        "kaldi": options["kaldi"],
    }
    return [name for name in OUTPUTS if made[name]]


def _stamped(save_folder, name, stamp):
    """The path that bears the fingerprint."""
    stem, ending = os.path.splitext(name)
    return os.path.join(save_folder, f"{stem}-{stamp}{ending}")


def _is_done(save_folder, options, wanted, stamp):
    """Whether a former run with these options wrote everything."""
    names = [OUTPUTS[name] for name in wanted]
    paths = [_stamped(save_folder, name, stamp) for name in names]
    done = os.path.join(save_folder, DONE)
    if not all(map(os.path.exists, paths)) or not os.path.lexists(done):
        return False
    try:
        with open(
            _stamped(save_folder, DONE, stamp), encoding="utf-8"
        ) as stream:
            done = json.load(stream)
    except (OSError, ValueError):
        return False  # no mark or a broken one: it has to be done again
    return isinstance(done, dict) and options == {
        name: value for name, value in done.items() if name != "summary"
    }


def _link(save_folder, wanted, stamp):
    """Points the plain names at the files of a fingerprint."""
    for name in [*OUTPUTS, DONE]:
        plain = OUTPUTS.get(name, name)
        link = os.path.join(save_folder, plain)
        if name in wanted or name == DONE:
            target = os.path.basename(_stamped("", plain, stamp))
            if os.path.islink(link) and os.readlink(link) == target:
                continue
            temporary = f"{link}.tmp"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            os.symlink(target, temporary)
            os.replace(temporary, link)
        elif os.path.lexists(link):
            # must not look as if these options had made it
            os.unlink(link)


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


def _write(save_folder, tables, options, summary, stamp):
    """Write everything, the mark that it is whole last, then the links."""
    for name, table in tables.items():
        path = _stamped(save_folder, OUTPUTS[name], stamp)
        if name == "dev_trials":
            write_trials(table, path)
        elif name == "rejected":
            with replacing(path) as stream:
                table.to_csv(stream, index=False, lineterminator="\n")
        elif name == "kaldi":
            shutil.rmtree(path, ignore_errors=True)  # of a killed run
            for part, manifest in table.items():
                write_kaldi(manifest, os.path.join(path, part))
        else:
            write_manifest(table[COLUMNS], path)
    with replacing(_stamped(save_folder, DONE, stamp)) as stream:
        json.dump({**options, "summary": summary}, stream, indent=2)
        stream.write("\n")
    _link(save_folder, list(tables), stamp)


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
    add("--file_list", help="a list of the utterances; several with commas")
    add("--kaldi", action="store_true", help="Kaldi data folders too")
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
