#!/usr/bin/env python3
"""Prepares manifests of VoxCeleb1, VoxCeleb2 or any corpus of that shape.

    python voxceleb_prepare.py --data_folder /data/VoxCeleb1,/data/VoxCeleb2 \
        --save_folder results/prepared --dev_speakers 40

Audio is <data_folder>/**/<speaker>/<session>/<utterance>.wav (or flac, ogg), or
<data_folder>/<speaker>/<utterance>.wav (--layout says which, where both could
be meant); only its headers are read. VoxCeleb2's m4a is converted first, by
convert_audio.py. With --file_list the utterances are those of a list of
`speaker path` lines, a Kaldi data folder or a CSV of SpeechBrain's. Relative
names of lists are looked for in the working directory, then in the data
folders. After an interruption the same command resumes.
"""

import argparse
import contextlib
import errno
import logging
import os
import re
import sys

from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.corpus import (
    corpus_fingerprint,
    corpus_folders,
    split_names,
)
from speechbrain_ext.dataio.file_lists import list_utterances
from speechbrain_ext.dataio.fingerprinted_files import FingerprintedFiles
from speechbrain_ext.dataio.kaldi import write_kaldi
from speechbrain_ext.dataio.manifests import (
    COLUMNS,
    require_readable,
    scan_files,
    write_manifest,
)
from speechbrain_ext.dataio.parallel import removed_on_error
from speechbrain_ext.dataio.preparation import (
    OUTPUTS,
    check_options,
    log_summary,
    prepared_corpus,
    read_prepared,
)
from speechbrain_ext.dataio.splits import hold_out_speakers, require_speakers
from speechbrain_ext.dataio.text_files import find_file, shorten, text_digest
from speechbrain_ext.dataio.trials import (
    make_trials,
    read_trials,
    require_utterances,
    resolve_trial_lists,
    write_trials,
)
from speechbrain_ext.dataio.utterance_ids import (
    literal_ids,
    require_no_white_space,
)
from speechbrain_ext.utils.files import (
    atomic_write,
    locked_folder,
    refuse_links,
    require_own,
)
from speechbrain_ext.utils.home import expand_home
from speechbrain_ext.utils.journal import has_grown
from speechbrain_ext.utils.temporaries import clear_temporaries

logger = get_logger(__name__)

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
    layout=None,
):
    """Writes the manifests of a corpus in VoxCeleb's shape, or of a list.

    Speakers that occur in a trial list, and those with a file below a level
    named ``test``, never enter training. Development trials are drawn from
    speakers held out of training. ``save_folder`` gets these files:

    - ``train.csv``;
    - ``dev.csv`` and ``dev_trials.txt`` if ``dev_speakers`` is not 0;
    - ``test.csv``, every utterance of the trial lists, if there are any;
    - ``rejected.csv``, the files left out and why;
    - ``prepare.json``, the options and the counts, written last.

    These names are links to files that have a fingerprint of options, file
    names and lists in their names (``train-1a2b3c4d5e6f.csv``), so that no
    other setting uses them. All checks come before the first manifest is
    written. After an interruption the same call resumes.

    A second call with the same options, file names and trial lists keeps what
    is there. It does not notice that a file has other content under the same
    name: delete ``prepare.json`` then. Nor does it notice that a manifest was
    edited: delete the file that its name links to. A file of the user's that
    has one of these names is never replaced.

    Arguments
    ---------
    data_folder : str or list of str
        The folder of the corpus, or several, also as one text with commas.
    save_folder : str
        Where the manifests go.
    trial_lists : list of str or str or None
        Trial lists, absolute, or relative to the working directory or to a
        data folder; None for those that ``find_trial_lists`` finds, an empty
        list for none.
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
        Prepare nothing; return what an earlier preparation has made. Its
        trial lists must be the same as now; other options are not compared.
    file_list : str or list of str or None
        Lists of the utterances, see ``list_named``, which replace what the
        data folders hold; several with commas; found as trial lists are.
        The files of trial lists may lie in the data folders without being
        listed.
    kaldi : bool
        Write each manifest as a Kaldi data folder too, below ``kaldi``.
    layout : str or None
        ``speaker/session/utterance`` or ``speaker/utterance``; None to find it
        out, see ``list_corpus``.

    Returns
    -------
    speechbrain_ext.dataio.preparation.PreparedCorpus
        Paths of the trial lists and of the files above. With ``skip_prep``
        and no finished preparation, the trial lists are None.

    Raises
    ------
    FileNotFoundError
        If a data folder, a list or a file of a list or trial is missing.
    FileExistsError
        If the save folder holds a file of the user's by the name of one that
        is to be written.
    OSError
        If the save folder cannot be written into, or its disk is full.
    ValueError
        If an option is out of range, a folder holds no audio, two files have
        one ID, a line of a trial list is broken, a trial's file or too many
        files are unreadable, too few speakers can be held out, or fewer than
        two are left for training.

    Example
    -------
    >>> prepared = prepare_voxceleb("/data", "results/save", skip_prep=True)
    >>> prepared.train.as_posix()
    'results/save/train.csv'
    """
    switches = {"skip_prep": skip_prep, "test_only": test_only, "kaldi": kaldi}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(
                f"`{name}` must be True or False, got {shorten(value)!r}."
            )
    if skip_prep:
        if trial_lists is not None:
            folders = split_names(data_folder)
            trial_lists = resolve_trial_lists(trial_lists, folders)
        return read_prepared(save_folder, trial_lists)
    check_options(dev_speakers, dev_trials, max_unreadable, seed, workers)
    folders = corpus_folders(data_folder)
    names = split_names(file_list)
    # a former run may have put its development trials into a data folder
    own = os.path.join(save_folder, "dev_trials")
    lists = resolve_trial_lists(trial_lists, folders, own)
    if test_only and not lists:
        raise ValueError(
            "`test_only` needs trial lists, but the data folders hold none; "
            "name them in `trial_lists`."
        )
    options = {
        "data_folder": folders,
        "file_list": [find_file(n, folders, "`file_list`") for n in names],
        "layout": layout,
        "trial_lists": lists,
        "dev_speakers": dev_speakers,
        "dev_trials": dev_trials,
        "max_unreadable": max_unreadable,
        "seed": seed,
        "test_only": test_only,
        "kaldi": kaldi,
    }
    _prepare(save_folder, options, workers)
    return prepared_corpus(save_folder, lists)


def _prepare(save_folder, options, workers):
    """Writes what the options ask for, unless it is there."""
    folders, lists = options["data_folder"], options["trial_lists"]
    trials = {path: read_trials(path) for path in lists}

    def tested(ids):
        """The utterances of the trials, with a list that names each."""
        if literal := literal_ids(ids):
            for path in lists:
                trials[path] = read_trials(path, literal=literal)
        return {
            name: path
            for path, table in trials.items()
            for name in table[["enrol", "test"]].to_numpy().flat
        }

    files, left_out = list_utterances(
        folders, options["file_list"], tested, options["layout"]
    )
    test_ids = tested(files.ID)
    options["fingerprint"] = corpus_fingerprint(files, lists)
    files_of = FingerprintedFiles(save_folder, options, list(OUTPUTS.values()))
    names = [OUTPUTS[name] for name in _wanted(options)]
    files_of.require_free()
    if files_of.are_done(names, OUTPUTS["done"]):
        if not files_of.are_linked([*names, OUTPUTS["done"]]):
            with locked_folder(save_folder, deep=False):
                files_of.link([*names, OUTPUTS["done"]])
        logger.info(f"{save_folder} is up to date: nothing to prepare")
        return
    known = set(files.ID.to_numpy())
    for path, table in trials.items():
        require_utterances(table, known, path)
    if options["test_only"]:
        files = files[files.ID.isin(test_ids)]
    # it may be the corpus itself, which has files and links of its own
    lock = locked_folder(save_folder, deep=False)
    with removed_on_error(save_folder), lock:
        journal = os.path.join(save_folder, f"headers-{files_of.stamp}.jsonl")
        try:
            scanned = scan_files(files, left_out, workers, journal)
            tables, summary = _split_tables(*scanned, files, test_ids, options)
        except (ValueError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(journal)  # files may be mended before the next run
            raise
        _write(files_of, tables, summary)
        _remove_journals(save_folder)
    log_summary(summary, os.path.join(save_folder, OUTPUTS["rejected"]))


def _remove_journals(save_folder):
    """Removes the headers that interrupted runs kept."""
    for name in os.listdir(save_folder):
        path = os.path.join(save_folder, name)
        if re.fullmatch(r"headers-\w+\.jsonl", name) and has_grown(path):
            os.unlink(path)


def _split_tables(manifest, rejected, summary, files, test_ids, options):
    """Checks everything; returns what is to be written, and its counts."""
    if options["file_list"]:
        missing = rejected.wav[rejected.reason == NOT_THERE]
        if len(missing):
            raise FileNotFoundError(
                f"{len(missing)} of the {len(files)} listed files are not "
                f"there: {', '.join(missing.head(3))}; correct the list, or "
                "name in `data_folder` the folder that its paths start from."
            )
    require_readable(rejected, len(files), options["max_unreadable"])
    _check_readable_tests(test_ids, files, manifest, rejected)
    wanted, seed = _wanted(options), options["seed"]
    tables = {"rejected": rejected}
    tables["test"] = manifest[manifest.ID.isin(test_ids)]
    if "train" in wanted:
        is_test = files.official_test | files.ID.isin(test_ids)
        test_speakers = set(files.spk_id[is_test])
        tables["train"], tables["dev"] = hold_out_speakers(
            manifest, test_speakers, options["dev_speakers"], seed
        )
        require_speakers(
            tables["train"], options["file_list"] or options["data_folder"]
        )
        listed = set(files.spk_id[files.ID.isin(test_ids)])
        summary["only_in_test_folders"] = len(test_speakers - listed)
        summary["train_speakers"] = tables["train"].spk_id.nunique()
    if "dev_trials" in wanted:
        require_no_white_space(tables["dev"].ID)
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
    summary["trial_list_digests"] = {
        path: text_digest(path, "trial list") for path in options["trial_lists"]
    }
    return {name: tables[name] for name in wanted}, summary


def _wanted(options):
    """Which tables these options make, in the order of writing."""
    made = {
        "train": not options["test_only"],
        "dev": options["dev_speakers"] and not options["test_only"],
        "dev_trials": options["dev_speakers"] and not options["test_only"],
        "test": options["trial_lists"],
        "rejected": True,
        "kaldi": options["kaldi"],
    }
    return [name for name in made if made[name]]


def _check_readable_tests(test_ids, files, manifest, rejected):
    """Raises where a trial names an utterance that was rejected."""
    reasons = dict(zip(rejected.wav, rejected.reason, strict=True))
    named = files[files.ID.isin(test_ids)]
    broken = named[~named.ID.isin(manifest.ID)]
    if len(broken):
        first = broken.iloc[0]
        raise ValueError(
            f"{len(broken)} files of the trial lists are unreadable, among "
            f"them {first.wav} ({reasons[first.wav]}), which "
            f"{test_ids[first.ID]} names; restore them or take their trials "
            "out."
        )


def _write(files_of, tables, summary):
    """Writes everything, ``prepare.json`` last, then the links."""
    for name, table in tables.items():
        path = files_of.path(OUTPUTS[name])
        if name == "dev_trials":
            write_trials(table, path)
        elif name == "rejected":
            with atomic_write(path) as stream:
                table.to_csv(stream, index=False, lineterminator="\n")
        elif name == "kaldi":
            if os.path.islink(path):
                require_own(path)  # it would be written through
            refuse_links(path)
            clear_temporaries(path)
            for part, manifest in table.items():
                pieces = summary["pieces"] > 0
                write_kaldi(manifest, os.path.join(path, part), pieces)
        else:
            # the true speakers of a noisy list stay beside the given ones
            columns = [*COLUMNS, "spk_id_clean"]
            write_manifest(table[[c for c in columns if c in table]], path)
    files_of.mark_done(OUTPUTS["done"], summary)
    files_of.link([OUTPUTS[name] for name in [*tables, "done"]])


def main(arguments=None):
    """Prepares by the command line; returns 1 on bad input, else 0."""
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
    add("--layout", help="speaker/session/utterance or speaker/utterance")
    add("--kaldi", action="store_true", help="Kaldi data folders too")
    add("--test_only", action="store_true", help="only the trials' utterances")
    add("--workers", type=int, help="processes; default: one a core")
    options = vars(parser.parse_args(expand_home(arguments)))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare_voxceleb(**options)
    except (ValueError, OSError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
