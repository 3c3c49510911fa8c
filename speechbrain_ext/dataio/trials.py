"""Trials: pairs of utterances and whether one speaker said both."""

import os
from fnmatch import fnmatch

import numpy as np
import pandas as pd

from speechbrain_ext.dataio.corpus import AUDIO_EXTENSIONS, split_names
from speechbrain_ext.dataio.text_files import (
    find_file,
    read_lines,
    read_text,
    shorten,
)
from speechbrain_ext.utils.files import atomic_write

VOXCELEB_LABELS = {"1": True, "0": False}
KALDI_LABELS = {"target": True, "nontarget": False}
LIST_NAMES = ("veri_*.txt", "list_test_*.txt", "*trials*.txt")
SHOWN = 20  # missing files that an error names


def read_trials(path):
    """Read a trial list in VoxCeleb's or in Kaldi's form.

    A line is ``1|0 enrol test`` (VoxCeleb) or ``enrol test target|nontarget``
    (Kaldi); the first line decides which for the whole list. Empty lines are
    skipped. A trial that occurs more than once is kept each time, since
    published lists have such trials and published results count them.

    Arguments
    ---------
    path : str
        The list, UTF-8.

    Returns
    -------
    pandas.DataFrame
        enrol and test (IDs as a manifest has them, see ``utterance_id``) and
        target (bool), in the list's order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is no text, a line has another form, there are no trials, or all
        are of one kind, which leaves the error rates undefined.

    Example
    -------
    >>> path = getfixture("tmp_path") / "veri.txt"
    >>> lines = "1 id1/a/1.wav id1/b/1.wav\\n0 id1/a/1.wav id2/a/1.wav\\n"
    >>> _ = path.write_text(lines)
    >>> read_trials(path).test.tolist()
    ['id1/b/1', 'id2/a/1']
    """
    text = read_text(path, "trial list")
    fields = text.split()
    if not fields:
        raise ValueError(
            f"The trial list {path} has no trials; a line is "
            "`1|0 enrol test` or `enrol test target|nontarget`."
        )
    kaldi = text.lstrip().partition("\n")[0].split()[-1] in KALDI_LABELS
    at, labels = (2, KALDI_LABELS) if kaldi else (0, VOXCELEB_LABELS)
    for number, line in enumerate(text.split("\n"), start=1):
        trial = line.split()
        if trial and (len(trial) != 3 or trial[at] not in labels):
            form = "enrol test target|nontarget" if kaldi else "1|0 enrol test"
            raise ValueError(
                f"Line {number} of the trial list {path} is broken: "
                f"`{shorten(line)}` must be `{form}`, without white space in "
                "a name; correct or remove it."
            )
    columns = [fields[0::3], fields[1::3], fields[2::3]]
    targets = [labels[label] for label in columns.pop(at)]
    _check_both_kinds(targets, path)
    enrol, test = (_utterance_ids(names) for names in columns)
    return pd.DataFrame({"enrol": enrol, "test": test, "target": targets})


def utterance_id(name):
    """The ID that a manifest gives to a file that a list names.

    Arguments
    ---------
    name : str
        A path or an ID: at most its last three parts count, and the ending of
        an audio file is taken off. ``./`` and a doubled slash change nothing.

    Returns
    -------
    str
        ``speaker/session/utterance``, or less where the name has less.

    Example
    -------
    >>> utterance_id("wav/id10270/5r0dWxy17C8/00001.wav")
    'id10270/5r0dWxy17C8/00001'
    >>> utterance_id("id10270-v1.2-00001")
    'id10270-v1.2-00001'
    """
    parts = name.split("/")
    if "" in parts or "." in parts:
        parts = [part for part in parts if part not in ("", ".")] or parts
    name = "/".join(parts[-3:])
    stem, _, extension = name.rpartition(".")
    return stem if extension.lower() in AUDIO_EXTENSIONS else name


def require_utterances(trials, known, path):
    """Raise unless every utterance of a trial list is there.

    Arguments
    ---------
    trials : pandas.DataFrame
        What ``read_trials`` read.
    known : collection of str
        IDs of the utterances that there are.
    path : str
        The list that was read.

    Raises
    ------
    FileNotFoundError
        If utterances are missing: names some, and the first line at fault.

    Example
    -------
    >>> trials = pd.DataFrame({"enrol": ["a/s/1"], "test": ["b/s/1"]})
    >>> require_utterances(trials, {"a/s/1", "b/s/1"}, "veri.txt")
    """
    named = set(trials[["enrol", "test"]].to_numpy().flat)
    missing = sorted(named.difference(known))
    if not missing:
        return
    first = trials[["enrol", "test"]].isin(missing).any(axis=1).argmax()
    number, line = list(read_lines(path, "trial list"))[first]
    more = len(missing) - SHOWN
    raise FileNotFoundError(
        f"The trial list {path} names {len(missing)} files that no data folder "
        f"or list holds, the first in line {number} (`{shorten(line)}`): "
        f"{shorten(', '.join(missing[:SHOWN]), 1000)}"
        f"{f' and {more} more' * (more > 0)}; add "
        "the folder that has them to `data_folder`, list them with their "
        "speakers in `file_list` (the same paths), or name the lists to use "
        "in `trial_lists`."
    )


def find_trial_lists(folders):
    """Find the trial lists that a corpus came with.

    Arguments
    ---------
    folders : list of str
        The folders of the corpus; each is looked at and its ``meta/``, none
        deeper.

    Returns
    -------
    list of str
        Absolute paths of the files named ``veri_*.txt``, ``list_test_*.txt``
        or ``*trials*.txt``, each once, sorted within a folder.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "meta").mkdir()
    >>> (root / "meta" / "veri_test.txt").touch()
    >>> [os.path.basename(path) for path in find_trial_lists([root])]
    ['veri_test.txt']
    """
    found = []
    for folder in folders:
        for place in (folder, os.path.join(folder, "meta")):
            place = os.path.abspath(place)
            if not os.path.isdir(place):
                continue
            for name in sorted(os.listdir(place)):
                path = os.path.join(place, name)
                wanted = any(fnmatch(name, pattern) for pattern in LIST_NAMES)
                if wanted and os.path.isfile(path):
                    found.append(path)
    return list(dict.fromkeys(found))


def resolve_trial_lists(trial_lists, folders, ignored=None):
    """The trial lists of a corpus, as a YAML or the command line names them.

    Arguments
    ---------
    trial_lists : list of str or str or None
        Absolute, or relative to the working directory or to one of the
        folders, also as one text with commas; None for those that
        ``find_trial_lists`` finds.
    folders : list of str
        The folders of the corpus.
    ignored : str
        What the path of a list that is found must not begin with.

    Returns
    -------
    list of str
        Absolute paths, each once.

    Raises
    ------
    FileNotFoundError
        If a list does not exist.
    ValueError
        If two places have different lists of that name.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> (root / "veri.txt").touch()
    >>> resolve_trial_lists("veri.txt", [root]) == [str(root / "veri.txt")]
    True
    """
    if trial_lists is None:
        found = find_trial_lists(folders)
        if ignored is not None:
            start = os.path.realpath(ignored)
            found = [
                p for p in found if not os.path.realpath(p).startswith(start)
            ]
        return found
    names = split_names(trial_lists)
    found = [find_file(name, folders, "The trial list") for name in names]
    return list(dict.fromkeys(found))


def make_trials(manifest, count, seed):
    """Draw trials from a manifest: half target, half nontarget.

    No pair is drawn twice in either order. Target pairs take the speakers in
    turn, so that one with many utterances does not outweigh the others, and
    join two sessions wherever the speaker has more than one. Nontarget pairs
    join two utterances of different speakers, all pairs being equally likely.
    Where there are fewer pairs of a kind than asked, all of them are drawn.

    Arguments
    ---------
    manifest : pandas.DataFrame
        The utterances; the order of its rows changes nothing.
    count : int
        Trials wanted, at least 2.
    seed : int
        Another seed draws other trials.

    Returns
    -------
    pandas.DataFrame
        enrol, test and target (bool), shuffled.

    Raises
    ------
    ValueError
        If fewer than 2 trials are wanted, an ID has white space, or there is
        no target pair (no speaker has two utterances) or no nontarget pair
        (one speaker).

    Example
    -------
    >>> ids = ["a/s1/1", "a/s2/1", "b/s1/1", "b/s2/1"]
    >>> manifest = pd.DataFrame({"ID": ids, "spk_id": ["a", "a", "b", "b"]})
    >>> make_trials(manifest, 100, seed=0).target.tolist().count(True)
    2
    """
    if count < 2:
        raise ValueError(
            f"`count` must be at least 2 trials, one of each kind, got "
            f"{count}; ask for more."
        )
    _check_white_space(manifest.ID.to_numpy())
    manifest = manifest.sort_values("ID")
    ids = manifest.ID.to_numpy(dtype=object)
    speakers = pd.factorize(manifest.spk_id, sort=True)[0]
    sessions = pd.factorize(manifest.ID.str.rpartition("/")[0])[0]
    generator = np.random.default_rng(seed)
    targets = _target_pairs(speakers, sessions, count // 2, generator)
    nontargets = _nontarget_pairs(speakers, count - count // 2, generator)
    if not len(targets) or not len(nontargets):
        missing = "nontarget" if len(targets) else "target"
        raise ValueError(
            f"No {missing} pair among {len(ids)} utterances of "
            f"{len(set(speakers))} speakers; trials need two speakers, and "
            "one with two utterances."
        )
    pairs = np.concatenate([targets, nontargets])
    order = generator.permutation(len(pairs))
    trials = pd.DataFrame(ids[pairs[order]], columns=["enrol", "test"])
    return trials.assign(target=order < len(targets))


def write_trials(trials, path):
    """Write a trial list in VoxCeleb's form; it is whole or not there.

    Arguments
    ---------
    trials : pandas.DataFrame
        enrol, test and target (bool).
    path : str
        Where to; a file that is there is replaced.

    Raises
    ------
    ValueError
        If an ID has white space in it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> trial = {"enrol": ["a/s1/1"], "test": ["b/s1/1"], "target": [False]}
    >>> write_trials(pd.DataFrame(trial), path)
    >>> path.read_text()
    '0 a/s1/1 b/s1/1\\n'
    """
    _check_white_space(set(trials[["enrol", "test"]].to_numpy().flat))
    with atomic_write(path) as stream:
        columns = ["target", "enrol", "test"]
        for target, enrol, test in trials[columns].to_numpy(dtype=object):
            stream.write(f"{int(target)} {enrol} {test}\n")


def _check_white_space(ids):
    """Raise at an ID that a line of a trial list cannot hold."""
    for name in ids:
        if len(name.split()) != 1:
            raise ValueError(
                f"The ID `{shorten(name)}` has white space, which a trial list "
                "cannot hold; rename the file or its folders."
            )


def _utterance_ids(names):
    """``utterance_id`` of every name, computed once for each different one."""
    ids = {name: utterance_id(name) for name in set(names)}
    return [ids[name] for name in names]


def _check_both_kinds(targets, path):
    """Raise unless there are target and nontarget trials."""
    if all(targets) or not any(targets):
        kind = "target" if targets[0] else "nontarget"
        raise ValueError(
            f"The trial list {path} has only {kind} trials ({len(targets)}); "
            "error rates need both kinds: add the other."
        )


def _target_pairs(speakers, sessions, wanted, generator):
    """Index pairs within a speaker; speakers in turn. [trials, 2]"""
    pairs, turns = [np.empty((0, 2), dtype=int)], [np.empty(0)]
    for speaker in np.unique(speakers):
        rows = np.flatnonzero(speakers == speaker)
        first, second = np.triu_indices(len(rows), k=1)
        across = sessions[rows[first]] != sessions[rows[second]]
        if across.any():
            first, second = first[across], second[across]
        order = generator.permutation(len(first))[:wanted]
        pairs.append(np.stack([rows[first[order]], rows[second[order]]], 1))
        # The fraction decides at random who comes first within a turn.
        turns.append(np.arange(len(order)) + generator.random())
    order = np.argsort(np.concatenate(turns), kind="stable")[:wanted]
    return np.concatenate(pairs)[order]


def _nontarget_pairs(speakers, wanted, generator):
    """Index pairs between speakers, none twice. [trials, 2]"""
    total = len(speakers)
    sizes = np.bincount(speakers)
    possible = (total**2 - int((sizes**2).sum())) // 2
    wanted = min(wanted, possible)
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < wanted:
        pairs = generator.integers(total, size=(2 * wanted + 16, 2))
        pairs = pairs[speakers[pairs[:, 0]] != speakers[pairs[:, 1]]]
        codes = pairs.min(axis=1) * total + pairs.max(axis=1)
        drawn = np.concatenate([drawn, codes])
        # Keeping the first of equal ones leaves the order of drawing.
        drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    return np.stack([drawn[:wanted] // total, drawn[:wanted] % total], axis=1)
