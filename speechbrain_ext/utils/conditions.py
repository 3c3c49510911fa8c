"""Error rates by condition, such as gender, corpus or session."""

import csv

import numpy as np
import pandas as pd
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.metrics import EER

logger = get_logger(__name__)

MOST_VALUES = 10  # an attribute with more values is not a condition
NOT_ATTRIBUTES = ("duration", "wav", "start", "stop", "official_test")


def utterance_conditions(manifest, path=None):
    """Attributes of the utterances, to break errors down by.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id. Other columns that describe the speech are
        attributes too.
    path : str
        Table (CSV, TSV) of more attributes, with a column ``ID`` (or
        ``utterance``) or ``spk_id`` (or ``speaker``). Defaults to none.

    Returns
    -------
    pandas.DataFrame
        The attributes that have two to ten values, as text, indexed by ID.
        Missing values are ``unknown``.

    Raises
    ------
    ValueError
        If the table is broken, has no column of utterances or speakers,
        lists none of those in the manifest, or contradicts itself.
    OSError
        If the table cannot be read.

    Example
    -------
    >>> manifest = pd.DataFrame({"ID": ["a/1", "b/1"], "spk_id": ["a", "b"]})
    >>> path = getfixture("tmp_path") / "genders.csv"
    >>> _ = path.write_text("speaker,gender\\na,f\\n")
    >>> utterance_conditions(manifest, path)["gender"].to_dict()
    {'a/1': 'f', 'b/1': 'unknown'}
    """
    table = manifest.drop(columns=manifest.columns.intersection(NOT_ATTRIBUTES))
    asked = pd.Index([])
    if path is not None:
        key, more = _read_conditions(path)
        if not more[key].isin(table[key]).any():
            raise ValueError(
                f"`conditions` must name utterances or speakers of the lists, "
                f"but all {len(more)} values in the column {key} of {path} "
                f"are unknown, for example {more[key].iloc[0]}; write them as "
                f"in the lists, for example {table[key].iloc[0]}."
            )
        other = more.columns.difference(table.columns).union([key])
        asked = other.drop(key)
        table = table.merge(more[other], on=key, how="left")
    table = table.set_index("ID").drop(columns="spk_id").fillna("unknown")
    few = [c for c in table if 1 < table[c].nunique() <= MOST_VALUES]
    for name in asked.difference(few):
        logger.warning(
            f"The errors are not broken down by the column {name} of {path}, "
            f"which has {table[name].nunique()} values; from 2 to "
            f"{MOST_VALUES} are possible."
        )
    return table[few].astype(str)


def _read_conditions(path):
    """The name of the key column, and the user's table."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            sign = next((s for s in "\t,; " if s in header), ",")
            rows = [row for row in csv.reader(stream, delimiter=sign) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"`conditions` must be a text table (CSV, TSV), but {path} "
            f"cannot be read as one: {error}."
        ) from error
    known = {"utterance": "ID", "speaker": "spk_id"}
    names = [name.strip() for name in rows[0]] if rows else []
    names = [known.get(name, name) for name in names]
    rows = [[value.strip() for value in row] for row in rows]
    key = next((name for name in ("ID", "spk_id") if name in names), None)
    if key is None:
        raise ValueError(
            f"`conditions` must have a column ID or spk_id, but {path} has "
            f"{', '.join(names) or 'none'}."
        )
    if len(set(names)) < len(names) or len(rows) < 2:
        raise ValueError(
            f"`conditions` must have at least one row and unique column "
            f"names, but {path} has {len(rows) - 1} rows and the columns "
            f"{', '.join(names)}."
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise ValueError(
                f"`conditions` must have one value per column ({len(names)}) "
                f"in each row, but row {number} of {path} has "
                f"{len(row)}: {sign.join(row)[:80]}."
            )
    table = pd.DataFrame(rows[1:], columns=names, dtype=object)
    table = table.replace("", np.nan).dropna(subset=key).drop_duplicates()
    twice = table[key][table[key].duplicated()]
    if len(twice):
        raise ValueError(
            f"`conditions` must have one row for each {key}, but {path} has "
            f"different rows for {len(twice)}, for example {twice.iloc[0]}."
        )
    return key, table


def pair_labels(enrol_values, test_values):
    """Labels each trial by its pair of values, independent of their order.

    Arguments
    ---------
    enrol_values : sequence of str
        Value of each trial's enrolment utterance, such as the gender,
        [trials].
    test_values : sequence of str
        Value of each trial's test utterance, [trials].

    Returns
    -------
    np.ndarray
        ``f`` if both values are ``f``, ``f / m`` if they differ, [trials].

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
    """Labels each trial by whether both utterances are from one session.

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
    """Error rates of each condition.

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
        One row per condition, sorted by name: ``targets``, ``nontargets``,
        ``EER %`` of the condition's own trials, and ``FRR %`` and ``FAR %`` at
        the EER threshold of the whole list. A rate is None if the condition
        lacks the trials for it.

    Raises
    ------
    ValueError
        If there are no target or no nontarget trials, or a score is NaN.

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
    """Tables of error rates, one for each attribute, each with a caption.

    Arguments
    ---------
    trials : pandas.DataFrame
        enrol and test (IDs) and target (bool), see ``read_trials``.
    conditions : pandas.DataFrame
        Attributes from ``utterance_conditions``. None for no tables, for
        example if speaker models are enrolled.
    words : str
        Name of the scoring.
    scores : np.ndarray
        Scores, [trials].

    Returns
    -------
    list
        Captions and tables in turn; the first table is by session, if all
        IDs are ``speaker/session/utterance``.

    Raises
    ------
    ValueError
        If there are no target or no nontarget trials, or a score is NaN.

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
    labels = {}
    ids = pd.concat([trials["enrol"], trials["test"]])
    if (ids.str.count("/") >= 2).all():  # others do not name their session
        labels["session"] = session_labels(trials["enrol"], trials["test"])
    for name, values in conditions.items():
        labels[name] = pair_labels(
            values[trials["enrol"]].to_numpy(),
            values[trials["test"]].to_numpy(),
        )
    parts = []
    for name, found in labels.items():
        parts.append(
            f"{words} by {name}; FRR and FAR use the threshold of the whole "
            "list."
        )
        parts.append(condition_table(scores, trials["target"], found))
    return parts
