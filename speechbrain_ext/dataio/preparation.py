"""What a preparation is asked for, what it made, and what it says of it."""

import dataclasses
import json
import numbers
import os
import pathlib

from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.score_files import require_distinct_names
from speechbrain_ext.dataio.text_files import read_text, shorten, text_digest
from speechbrain_ext.dataio.trials import write_expanded_trials

logger = get_logger(__name__)

# Plain names of all that a preparation may write; it writes the last one last
OUTPUTS = {
    "train": "train.csv",
    "dev": "dev.csv",
    "dev_trials": "dev_trials.txt",
    "test": "test.csv",
    "rejected": "rejected.csv",
    "kaldi": "kaldi",
    "done": "prepare.json",
}
ENROLMENT = "enrolment"  # the folder of the trial lists of an enrolment


@dataclasses.dataclass(frozen=True)
class PreparedCorpus:
    """What a preparation found and wrote.

    A path is given whether or not the options make that file.

    Arguments
    ---------
    trial_lists : tuple of pathlib.Path
        The trial lists that were used, absolute; None where this is not known.
    train : pathlib.Path
        Manifest of the training utterances.
    dev : pathlib.Path
        Manifest of the development utterances.
    dev_trials : pathlib.Path
        Trial list of the development utterances.
    test : pathlib.Path
        Manifest of the utterances of the trial lists.
    done : pathlib.Path
        Options and counts, written when all else was whole.

    Example
    -------
    >>> prepared = prepared_corpus("results/save", ["/data/veri_test.txt"])
    >>> prepared.train.as_posix(), prepared.trial_lists[0].name
    ('results/save/train.csv', 'veri_test.txt')
    """

    trial_lists: tuple
    train: pathlib.Path
    dev: pathlib.Path
    dev_trials: pathlib.Path
    test: pathlib.Path
    done: pathlib.Path


def prepared_corpus(save_folder, trial_lists):
    """Names the files of a preparation.

    Arguments
    ---------
    save_folder : str
        Where they are.
    trial_lists : list of str
        Paths of the trial lists; None where they are not known.

    Returns
    -------
    PreparedCorpus
        The paths.

    Example
    -------
    >>> prepared_corpus("results/save", []).test.as_posix()
    'results/save/test.csv'
    """
    if trial_lists is not None:
        trial_lists = tuple(map(pathlib.Path, trial_lists))
    folder = pathlib.Path(save_folder)
    names = ("train", "dev", "dev_trials", "test", "done")
    return PreparedCorpus(trial_lists, *(folder / OUTPUTS[n] for n in names))


def read_prepared(save_folder, trial_lists=None):
    """Reads what an earlier preparation has made.

    Arguments
    ---------
    save_folder : str
        Its save folder.
    trial_lists : list of str or None
        Paths of the trial lists that are wanted now; None for those of the
        preparation.

    Returns
    -------
    PreparedCorpus
        The paths. Without a finished preparation the trial lists are None.

    Raises
    ------
    OSError
        If its ``prepare.json`` or a trial list cannot be read.
    ValueError
        If its ``prepare.json`` is broken, or it was made for other trial
        lists than those that are wanted, or for an enrolment.

    Example
    -------
    >>> read_prepared(getfixture("tmp_path")).trial_lists
    """
    path = os.path.join(save_folder, OUTPUTS["done"])
    if not os.path.lexists(path):
        return prepared_corpus(save_folder, None)
    try:
        options = json.loads(read_text(path, "record of the preparation"))
        lists = options["trial_lists"]
        digests = options.get("summary", {}).get("trial_list_digests", {})
        digests = dict(digests).items()
        prepared = prepared_corpus(save_folder, lists)
        folder = os.path.abspath(os.path.join(save_folder, ENROLMENT))
        enrolled = folder in map(os.path.dirname, lists)
    except (
        LookupError,
        AttributeError,
        TypeError,
        json.JSONDecodeError,
    ) as error:
        raise ValueError(
            f"{path} is broken ({type(error).__name__}: {shorten(error)}); "
            "delete it, and run the preparation again."
        ) from error
    flaw = None
    if trial_lists is None:
        if enrolled:
            flaw = "it has the trial lists of an `enrolment`"
    elif set(trial_lists) != set(lists):
        flaw = "it was made for other `trial_lists`"
    if not flaw:  # a training does not need the lists any more
        flaw = " and ".join(
            f"{path} has changed since"
            for path, digest in digests
            if os.path.exists(path)
            and text_digest(path, "trial list") != digest
        )
    if flaw:
        raise ValueError(
            f"The preparation {path} does not fit what is wanted now: {flaw}; "
            "set `skip_prep` to False."
        )
    return prepared


def expand_trial_lists(paths, models, folder):
    """Writes trial lists of models as lists of the models' utterances.

    Arguments
    ---------
    paths : list of str
        Trial lists whose first names are models.
    models : dict
        Maps each model's name to the IDs of its utterances.
    folder : pathlib.Path
        Where the new lists go, under the same names.

    Returns
    -------
    list of str
        Absolute paths of the new lists.

    Raises
    ------
    ValueError
        If two lists have one name, or a list names a model that is not
        enrolled.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "O.txt").write_text("1 m a/c/1\\n0 m b/a/1\\n")
    >>> models = {"m": ["a/a/1", "a/b/1"]}
    >>> paths = expand_trial_lists([folder / "O.txt"], models, folder / "new")
    >>> pathlib.Path(paths[0]).read_text().split("\\n")[0]
    '1 a/a/1 a/c/1'
    """
    paths = [pathlib.Path(path) for path in paths]
    require_distinct_names(paths)
    folder = pathlib.Path(folder).absolute()
    for path in paths:
        folder.mkdir(parents=True, exist_ok=True)
        write_expanded_trials(path, models, folder / path.name)
    return [str(folder / path.name) for path in paths]


def require_trial_lists(prepared, data_folder):
    """Raises unless a preparation has trial lists to verify.

    Arguments
    ---------
    prepared : PreparedCorpus
        What it returned.
    data_folder : str
        Where lists were looked for.

    Raises
    ------
    FileNotFoundError
        If the preparation is not finished.
    ValueError
        If it has no trial lists, or two of one name.

    Example
    -------
    >>> require_trial_lists(prepared_corpus("save", ["/data/O.txt"]), "/data")
    """
    if prepared.trial_lists is None:
        raise FileNotFoundError(
            f"{prepared.done} does not exist: the corpus is not prepared, or "
            "the preparation did not finish; set `skip_prep` to False."
        )
    if not prepared.trial_lists:
        raise ValueError(
            f"{data_folder} has no trial lists (veri_*.txt, list_test_*.txt, "
            "*trials*.txt); name them in `trial_lists`."
        )
    require_distinct_names(prepared.trial_lists)


def check_options(dev_speakers, dev_trials, max_unreadable, seed, workers):
    """Raises where an option of a preparation has no meaning.

    Arguments
    ---------
    dev_speakers : int
        Speakers to hold out: 0 or at least 2.
    dev_trials : int
        Development trials, at least 2.
    max_unreadable : float
        Fraction of files that may be unreadable, in [0, 1].
    seed : int
        At least 0.
    workers : int
        Processes, at least 1; None for one a core.

    Raises
    ------
    ValueError
        If a number is of another type or out of its range.

    Example
    -------
    >>> check_options(2, 100, 0.01, 0, None)
    >>> check_options(1, 100, 0.01, 0, None)
    Traceback (most recent call last):
    ValueError: `dev_speakers` must be 0 (no development trials) or at least 2 \
(nontarget trials need two), got 1; hold out two.
    """
    _require_whole("dev_speakers", dev_speakers, 0)
    _require_whole("dev_trials", dev_trials, 1)
    _require_whole("seed", seed, 0)
    if workers is not None:
        _require_whole("workers", workers, 1)
    if dev_speakers == 1:
        raise ValueError(
            "`dev_speakers` must be 0 (no development trials) or at least 2 "
            "(nontarget trials need two), got 1; hold out two."
        )
    if dev_trials < 2:
        raise ValueError(
            "`dev_trials` must be at least 2, a target and a nontarget trial, "
            f"got {dev_trials}; to have none set `dev_speakers` to 0."
        )
    fraction = isinstance(max_unreadable, numbers.Real)
    if not fraction or not 0 <= max_unreadable <= 1:
        raise ValueError(
            "`max_unreadable` must be a fraction in [0, 1], got "
            f"{shorten(max_unreadable)}; 1 % is 0.01."
        )


def log_summary(summary, rejected):
    """Logs the counts of what is there and of what was left out.

    Arguments
    ---------
    summary : dict
        Counts of ``scan_files``, and of each manifest that was written.
    rejected : str
        Path of the table of files that were left out.

    Example
    -------
    >>> counts = dict.fromkeys(("files", "speakers", "sessions", "seconds"), 0)
    >>> counts |= {"sample_rates": {}, "stereo": 0, "rejected": 0}
    >>> counts |= {"misplaced": 0, "other_formats": {}}
    >>> log_summary(counts, "rejected.csv")
    """
    logger.info(
        f"{summary['files']} utterances of {summary['speakers']} speakers in "
        f"{summary['sessions']} sessions, {summary['seconds'] / 3600:.2f} hours"
    )
    rates = summary["sample_rates"].items()
    rates = ", ".join(f"{rate} Hz ({count} files)" for rate, count in rates)
    logger.info(
        f"sample rates: {rates}; what differs from the model's `sample_rate` "
        "is resampled when it is read"
    )
    if summary["stereo"]:
        logger.info(
            f"{summary['stereo']} stereo files are mixed down when they are "
            "read"
        )
    if summary["rejected"]:
        logger.warning(
            f"{summary['rejected']} unreadable files are left out: see "
            f"{rejected}"
        )
    others = {"outside the folders' shape": summary["misplaced"]}
    others |= summary["other_formats"]
    others = [f"{count} {name}" for name, count in others.items() if count]
    if others:
        logger.info(f"other audio files left out: {', '.join(others)}")
    if "train" in summary:
        logger.info(
            f"training: {summary['train']} utterances of "
            f"{summary['train_speakers']} speakers"
        )
    if summary.get("only_in_test_folders"):
        logger.warning(
            f"{summary['only_in_test_folders']} speakers in folders named "
            "`test` are left out of the training, though no trial list has them"
        )
    if "dev" in summary:
        logger.info(
            f"development: {summary['dev_trials']} trials of {summary['dev']} "
            "utterances, their speakers held out"
        )
    if "test" in summary:
        logger.info(
            f"test: {summary['test']} utterances, their speakers held out; "
            f"trial lists: {summary['trial_lists']}"
        )
    else:
        logger.warning("no trial list, so no test manifest")


def _require_whole(name, value, least):
    """Raises unless a value is a whole number that is large enough."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(
            f"`{name}` must be a whole number of at least {least}, got "
            f"{shorten(value)!r}."
        )
