"""Trial lists, and lists of the utterances that enrol a model."""

import glob
import os

import numpy as np
import pandas as pd

from speechbrain_ext.dataio.corpus import split_names
from speechbrain_ext.dataio.text_files import (
    find_file,
    read_lines,
    read_text,
    shorten,
)
from speechbrain_ext.dataio.utterance_ids import (
    require_no_white_space,
    utterance_id,
    utterance_ids,
)
from speechbrain_ext.utils.files import atomic_write

VOXCELEB_LABELS = {"1": True, "0": False}
KALDI_LABELS = {"target": True, "nontarget": False}
LIST_NAMES = ("veri_*.txt", "list_test_*.txt", "*trials*.txt")
SHOWN = 20  # names that an error quotes


def read_trials(path, labelled=True, literal=()):
    """Reads a trial list in VoxCeleb's or in Kaldi's form.

    A line is ``1|0 enrol test`` (VoxCeleb) or ``enrol test target|nontarget``
    (Kaldi), or ``enrol test`` if it needs no label; the first line decides
    which for the whole list. Empty lines are skipped. A trial that occurs more
    than once is kept each time, since published lists have such trials and
    published results count them.

    Arguments
    ---------
    path : str
        The list, UTF-8.
    labelled : bool
        Whether it must have target and nontarget trials, as error rates need.
    literal : collection of str
        IDs that are taken as they are, see ``utterance_ids.literal_ids``.

    Returns
    -------
    pandas.DataFrame
        enrol and test (IDs as a manifest has them, see
        ``utterance_ids.utterance_id``) and, if the list has labels, target
        (bool), in the list's order.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not text, a line has another form, two files would have one
        ID, there are no trials, or all are of one kind although there must
        be both.

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
    first = text.lstrip().partition("\n")[0].split()
    form, at, labels = "1|0 enrol test", 0, VOXCELEB_LABELS
    if len(first) == 2 and not labelled:
        form, at, labels = "enrol test", None, {}
    elif first[-1] in KALDI_LABELS:
        form, at, labels = "enrol test target|nontarget", 2, KALDI_LABELS
    size = len(form.split())
    for number, line in enumerate(text.split("\n"), start=1):
        trial = line.split()
        if trial and (
            len(trial) != size or (labels and trial[at] not in labels)
        ):
            raise ValueError(
                f"Line {number} of the trial list {path} is broken: "
                f"`{shorten(line)}` must be `{form}`, without white space in "
                "a name; correct or remove it."
            )
    columns = [fields[start::size] for start in range(size)]
    targets = [labels[label] for label in columns.pop(at)] if labels else []
    if labelled and len(set(targets)) < 2:
        kind = "target" if targets[0] else "nontarget"
        raise ValueError(
            f"The trial list {path} has only {kind} trials ({len(targets)}); "
            "error rates need both kinds: add the other."
        )
    names = dict.fromkeys([*columns[0], *columns[1]])
    ids = utterance_ids(names, path, literal)
    enrol, test = ([ids[name] for name in names] for names in columns)
    known = {"target": targets} if labels else {}
    return pd.DataFrame({"enrol": enrol, "test": test} | known)


def require_utterances(trials, known, path):
    """Raises unless every utterance of a trial list is known.

    Arguments
    ---------
    trials : pandas.DataFrame
        What ``read_trials`` read.
    known : collection of str
        IDs of all utterances of the corpus.
    path : str
        The list that was read.

    Raises
    ------
    FileNotFoundError
        If utterances are missing; it names some, and the first line.

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
    shown = shorten(", ".join(missing[:SHOWN]), 1000)
    if len(missing) > SHOWN:
        shown += f" and {len(missing) - SHOWN} more"
    raise FileNotFoundError(
        f"The trial list {path} names {len(missing)} files that no data folder "
        f"or list holds, the first in line {number} (`{shorten(line)}`): "
        f"{shown}; add the folder that has them to `data_folder`, list them "
        "with their speakers in `file_list` (the same paths), or name the "
        "lists to use in `trial_lists`. If verification wrote the list for an "
        "`enrolment`, correct the utterances there."
    )


def find_trial_lists(folders):
    """Finds the trial lists that come with a corpus.

    Arguments
    ---------
    folders : list of str
        The folders of the corpus; lists lie there or in ``meta/`` below.

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
            place = glob.escape(os.path.abspath(place))
            named = [glob.glob(os.path.join(place, n)) for n in LIST_NAMES]
            found += sorted(filter(os.path.isfile, sum(named, [])))
    return list(dict.fromkeys(found))


def resolve_trial_lists(trial_lists, folders, ignored=None):
    """Finds the trial lists that a YAML or the command line names.

    Arguments
    ---------
    trial_lists : list of str or str or None
        Absolute, or relative to the working directory or to one of the
        folders, also as one text with commas; None for those that
        ``find_trial_lists`` finds.
    folders : list of str
        The folders of the corpus.
    ignored : str
        Lists whose paths begin with this are not found.

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
    if trial_lists is not None:
        names = split_names(trial_lists)
        found = [find_file(name, folders, "The trial list") for name in names]
        return list(dict.fromkeys(found))
    found = find_trial_lists(folders)
    if ignored is not None:
        start = os.path.realpath(ignored)
        found = [p for p in found if not os.path.realpath(p).startswith(start)]
    return found


def read_enrolment(path):
    """Reads which utterances enrol each model, in Kaldi's spk2utt form.

    Arguments
    ---------
    path : str
        Lines of ``model utterance utterance ...``, UTF-8.

    Returns
    -------
    dict
        Maps each model's name to the IDs of its utterances, in order.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read.
    ValueError
        If it is not text, has no model, two files would have one ID, or a
        model has no utterance, comes twice or has an utterance twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "enrolment.txt"
    >>> _ = path.write_text("model1 id1/a/1.wav id1/b/1.wav\\n")
    >>> read_enrolment(path)
    {'model1': ['id1/a/1', 'id1/b/1']}
    """
    models, lines = {}, list(read_lines(path, "enrolment list"))
    named = dict.fromkeys(
        word for _, line in lines for word in line.split()[1:]
    )
    known = utterance_ids(named, path)
    for number, line in lines:
        name, *ids = line.split()
        name, ids = utterance_id(name), [known[one] for one in ids]
        if not ids or name in models or len(set(ids)) != len(ids):
            raise ValueError(
                f"Line {number} of the enrolment list {path} is broken: "
                f"`{shorten(line)}` must be `model utterance ...`, each model "
                "and each of its utterances once; correct it."
            )
        models[name] = ids
    if not models:
        form = "a line is `model utterance ...`"
        raise ValueError(f"The enrolment list {path} names no model; {form}.")
    return models


def write_expanded_trials(path, models, written):
    """Writes the trials of models as trials of the models' utterances.

    Arguments
    ---------
    path : str
        A trial list whose first names are models.
    models : dict
        Maps each model's name to the IDs of its utterances.
    written : str
        The list to write: a trial for each utterance of the model, once.

    Raises
    ------
    ValueError
        If the list names a model that is not enrolled.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "list").write_text("1 m a/c/1\\n0 m b/a/1\\n")
    >>> models = {"m": ["a/a/1", "a/b/1"]}
    >>> write_expanded_trials(folder / "list", models, folder / "written")
    >>> read_trials(folder / "written").enrol.tolist()
    ['a/a/1', 'a/b/1', 'a/a/1', 'a/b/1']
    """
    trials = read_trials(path, literal=models)
    unknown = sorted(set(trials["enrol"]) - set(models))
    if unknown:
        raise ValueError(
            f"{path} names {len(unknown)} models that are not enrolled: "
            f"{shorten(', '.join(unknown[:SHOWN]), 1000)}; add them to "
            "`enrolment`."
        )
    expanded = trials.assign(enrol=trials["enrol"].map(models)).explode("enrol")
    write_trials(expanded.drop_duplicates(), written)


def make_trials(manifest, count, seed):
    """Draws trials from a manifest: half target, half nontarget.

    No pair is drawn twice, in either order. Target pairs take the speakers in
    turn, so that one with many utterances does not outweigh the others. They
    join two sessions if the speaker has more than one. All nontarget pairs are
    equally likely. If there are fewer pairs of a kind than asked for, all of
    them are drawn.

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
        If fewer than 2 trials are wanted, or there is no target pair (no
        speaker has two utterances) or no nontarget pair (one speaker).

    Example
    -------
    >>> ids = ["a/s1/1", "a/s2/1", "b/s1/1", "b/s2/1"]
    >>> manifest = pd.DataFrame({"ID": ids, "spk_id": ["a", "a", "b", "b"]})
    >>> make_trials(manifest, 100, seed=0).target.tolist().count(True)
    2
    """
    if count < 2:
        raise ValueError(
            f"`count` must be at least 2 trials, one of each, got {count}."
        )
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
    """Writes a trial list in VoxCeleb's form, whole or not at all.

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
    require_no_white_space(set(trials[["enrol", "test"]].to_numpy().flat))
    with atomic_write(path) as stream:
        columns = ["target", "enrol", "test"]
        for target, enrol, test in trials[columns].to_numpy(dtype=object):
            stream.write(f"{int(target)} {enrol} {test}\n")


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
