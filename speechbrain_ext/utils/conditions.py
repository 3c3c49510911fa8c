"""Error rates by condition: where a system's errors are."""

import csv

import numpy as np
import pandas as pd

from speechbrain_ext.utils.metrics import EER

MOST_VALUES = 10  # of an attribute that is a condition
NOT_ATTRIBUTES = ("duration", "wav", "start", "stop", "official_test")


def utterance_conditions(manifest, path=None):
    """Attributes of the utterances by which errors can be broken down.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id; of the others those that describe the speech.
    path : str
        A table (CSV, TSV) of further attributes by ``ID`` (``utterance``) or
        ``spk_id`` (``speaker``); None for none.

    Returns
    -------
    pandas.DataFrame
        By ID, the attributes of two to ten values, as text; ``unknown`` where
        the table says nothing.

    Raises
    ------
    ValueError
        If the table is broken, has no column to find utterances by, names
        none of them, or says two things of one.
    OSError
        If it cannot be read.

    Example
    -------
    >>> manifest = pd.DataFrame({"ID": ["a/1", "b/1"], "spk_id": ["a", "b"]})
    >>> path = getfixture("tmp_path") / "genders.csv"
    >>> _ = path.write_text("speaker,gender\\na,f\\n")
    >>> utterance_conditions(manifest, path)["gender"].to_dict()
    {'a/1': 'f', 'b/1': 'unknown'}
    """
    table = manifest.drop(columns=manifest.columns.intersection(NOT_ATTRIBUTES))
    if path is not None:
        key, more = _read_conditions(path)
        if not more[key].isin(table[key]).any():
            raise ValueError(
                f"`conditions` must name utterances or speakers of the lists, "
                f"but none of the {len(more)} in the column {key} of {path} "
                f"is one, {more[key].iloc[0]} among them; write them as the "
                f"lists do, for example {table[key].iloc[0]}."
            )
        other = more.columns.difference(table.columns).union([key])
        table = table.merge(more[other], on=key, how="left")
    table = table.set_index("ID").drop(columns="spk_id").fillna("unknown")
    few = [c for c in table if 1 < table[c].nunique() <= MOST_VALUES]
    return table[few].astype(str)


def _read_conditions(path):
    """The table of the user, and the name of the column that it goes by."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            sign = next((s for s in "\t,; " if s in header), ",")
            rows = [row for row in csv.reader(stream, delimiter=sign) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"`conditions` must be a table of text (CSV, TSV), but {path} "
            f"cannot be read as one: {error}."
        ) from error
    known = {"utterance": "ID", "speaker": "spk_id"}
    names = [name.strip() for name in rows[0]] if rows else []
    names = [known.get(name, name) for name in names]
    key = next((name for name in ("ID", "spk_id") if name in names), None)
    if key is None:
        raise ValueError(
            f"`conditions` must have a column ID or spk_id, but {path} has "
            f"{', '.join(names) or 'none'}."
        )
    if len(set(names)) < len(names) or len(rows) < 2:
        raise ValueError(
            f"`conditions` must have rows, and columns of different names, "
            f"but {path} has {len(rows) - 1} rows and the columns "
            f"{', '.join(names)}."
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ValueError(
                f"`conditions` must have as many values in each row as it has "
                f"columns ({len(names)}), but row {number} of {path} has "
                f"{len(row)}: {sign.join(row)[:80]}."
            )
    table = pd.DataFrame(rows[1:], columns=names, dtype=object)
    table = table.replace("", np.nan).dropna(subset=key).drop_duplicates()
    twice = table[key][table[key].duplicated()]
    if len(twice):
        raise ValueError(
            f"`conditions` must say one thing of each {key}, but {path} has "
            f"different rows for {len(twice)}, among them {twice.iloc[0]}."
        )
    return key, table


def pair_labels(enrol_values, test_values):
    """Names each trial's pair of values, the same in either order.

    Arguments
    ---------
    enrol_values : sequence of str
        Value of each trial's enrolment utterance (a gender, a corpus),
        [trials].
    test_values : sequence of str
        Value of each trial's test utterance, [trials].

    Returns
    -------
    np.ndarray
        ``f`` where both have it, ``f / m`` where they differ, [trials].

    Example
    -------
    >>> pair_labels(["f", "m"], ["f", "f"]).tolist()
    ['f', 'f / m']
    """
    values, codes = np.unique(
        np.concatenate([enrol_values, test_values]).astype(str),
        return_inverse=True,
    )
    half = len(codes) // 2
    low = np.minimum(codes[:half], codes[half:])
    high = np.maximum(codes[:half], codes[half:])
    names = np.array(
        [[a if a == b else f"{a} / {b}" for b in values] for a in values]
    )
    return names[low, high]


def session_labels(enrol_ids, test_ids):
    """Whether both utterances of a trial are of one recording session.

    Arguments
    ---------
    enrol_ids : sequence of str
        IDs ``speaker/session/utterance``, [trials].
    test_ids : sequence of str
        IDs of the test utterances, [trials].

    Returns
    -------
    np.ndarray
        ``same session`` or ``other session``, [trials].

    Example
    -------
    >>> session_labels(["a/s1/1", "a/s1/1"], ["a/s1/2", "a/s2/1"]).tolist()
    ['same session', 'other session']
    """
    one, other = (
        pd.Series(ids, dtype=object).str.rpartition("/")[0].to_numpy()
        for ids in (enrol_ids, test_ids)
    )
    return np.where(one == other, "same session", "other session")


def condition_table(scores, targets, labels):
    """Error rates of each condition, and at the whole list's threshold.

    Arguments
    ---------
    scores : np.ndarray
        Scores, [trials].
    targets : np.ndarray
        True for target trials, [trials].
    labels : np.ndarray
        Condition of each trial, [trials].

    Returns
    -------
    pandas.DataFrame
        One row a condition, in the order of their names: ``targets``,
        ``nontargets``, ``EER %`` among its own trials, and ``FRR %`` and
        ``FAR %`` at the threshold that is the whole list's equal error
        rate's; None where it has no trial of a kind.

    Raises
    ------
    ValueError
        Same as ``metrics.EER``, of the whole list.

    Example
    -------
    >>> scores, targets = np.array([3.0, 1.0, 0.0, 2.0]), np.arange(4) < 2
    >>> labels = np.array(["f", "f", "f", "m"])
    >>> table = condition_table(scores, targets, labels)
    >>> table["targets"].tolist(), table["FAR %"].tolist()
    ([2, 0], [0.0, 100.0])
    """
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    _, threshold = EER(scores[targets], scores[~targets])
    rows = []
    for label in sorted(set(labels.tolist())):
        own = labels == label
        positive, negative = scores[own & targets], scores[own & ~targets]
        row = {
            "condition": label,
            "targets": len(positive),
            "nontargets": len(negative),
            "EER %": None,
            "FRR %": None,
            "FAR %": None,
        }
        if len(positive):
            row["FRR %"] = float(100 * np.mean(positive <= threshold))
        if len(negative):
            row["FAR %"] = float(100 * np.mean(negative > threshold))
        if len(positive) and len(negative):
            row["EER %"] = 100 * EER(positive, negative)[0]
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def condition_tables(trials, conditions, words, scores):
    """A table of the errors for each condition, under a sentence of its own.

    Arguments
    ---------
    trials : pandas.DataFrame
        enrol and test (IDs) and target (bool), as ``read_trials`` gives them.
    conditions : pandas.DataFrame
        What ``utterance_conditions`` gives; None for no table, as where
        enrolment is by models.
    words : str
        Name of the scoring.
    scores : np.ndarray
        Scores, [trials].

    Returns
    -------
    list
        Sentences and tables by turns, of the sessions first.

    Raises
    ------
    ValueError
        Same as ``condition_table``.

    Example
    -------
    >>> trials = {"enrol": ["a/s/1"] * 2, "test": ["a/t/1", "b/s/1"]}
    >>> trials = pd.DataFrame({**trials, "target": [True, False]})
    >>> conditions = pd.DataFrame(index=["a/s/1", "a/t/1", "b/s/1"])
    >>> said, table = condition_tables(trials, conditions, "cosine", [0.9, 0.1])
    >>> table["condition"].tolist()
    ['other session']
    """
    if conditions is None:
        return []
    labels = {"session": session_labels(trials["enrol"], trials["test"])}
    for name, values in conditions.items():
        labels[name] = pair_labels(
            *(values[trials[side]].to_numpy() for side in ("enrol", "test"))
        )
    parts = []
    for name, found in labels.items():
        parts.append(
            f"{words} by {name}; FRR and FAR are at the whole list's threshold."
        )
        parts.append(condition_table(scores, trials["target"], found))
    return parts
