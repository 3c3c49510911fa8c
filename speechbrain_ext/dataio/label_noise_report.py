"""What simulated label noise has changed: counts and a fingerprint."""

import collections
import hashlib

import pandas as pd

from speechbrain_ext.dataio.clusters import clustering_figures
from speechbrain_ext.dataio.label_noise_kinds import session_names


def noise_report(manifest, kind, rate, seed, options, confined=None):
    """Counts the labels that are wrong in a corrupted manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, spk_id (the given labels) and spk_id_clean (the true ones).
    kind : str
        Kind of the noise.
    rate : float
        The rate asked for, or None.
    seed : int
        Seed of the draws.
    options : dict
        Options of the kind; numbers and texts become part of the report.
    confined : numpy.ndarray
        Which utterances belong to speakers that may be corrupted; None for
        all.

    Returns
    -------
    dict
        kind, rate_asked, rate_reached (share of utterances with a wrong
        label), seed, options, utterances, corrupted (number of wrong labels),
        classes_before (true speakers, with those from outside),
        classes_after (given labels), corrupted_by_class (for each true
        speaker the wrong labels and all), transitions [true, given,
        utterances] and a fingerprint of the labels. ``session`` adds sessions
        and sessions_corrupted; ``clusters`` adds clustering, see
        ``clusters.clustering_figures``; with ``confined``, confined_to has
        the speakers, utterances and rate of those that may be corrupted.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a/1", "a/2"], "spk_id": ["a", "b"]})
    >>> table["spk_id_clean"] = "a"
    >>> report = noise_report(table, "symmetric", 0.5, 1, {})
    >>> report["corrupted"], report["corrupted_by_class"]
    (1, {'a': [1, 2]})
    """
    true, given = manifest["spk_id_clean"], manifest["spk_id"]
    wrong = (true != given).to_numpy()
    moved = collections.Counter(zip(true[wrong], given[wrong], strict=True))
    counts = pd.Series(wrong).groupby(true.to_numpy()).agg(["sum", "size"])
    told = {
        name: value
        for name, value in options.items()
        if isinstance(value, (bool, int, float, str))
    }
    report = {
        "kind": kind,
        "rate_asked": None if rate is None else float(rate),
        "rate_reached": float(wrong.mean()),
        "seed": int(seed),
        "options": told,
        "utterances": len(manifest),
        "corrupted": int(wrong.sum()),
        "classes_before": int(true.nunique()),
        "classes_after": int(given.nunique()),
        "corrupted_by_class": {
            name: [int(some), int(count)]
            for name, some, count in counts.itertuples()
        },
        "transitions": [
            [one, other, count] for (one, other), count in sorted(moved.items())
        ],
        "fingerprint": labels_fingerprint(manifest["ID"], given),
    }
    if confined is not None:
        report["confined_to"] = {
            "speakers": int(true[confined].nunique()),
            "utterances": int(confined.sum()),
            "rate_reached": float(wrong[confined].mean()),
        }
    if kind == "session":
        sessions = pd.Series(wrong, index=manifest.index).groupby(
            [true, session_names(manifest)]
        )
        report["sessions"] = sessions.ngroups
        report["sessions_corrupted"] = int(sessions.any().sum())
    if kind == "clusters":
        report["clustering"] = clustering_figures(true, given)
    return report


def labels_fingerprint(names, labels):
    """Computes a fingerprint of the labels, in any order.

    Arguments
    ---------
    names : iterable of str
        IDs of the utterances.
    labels : iterable of str
        The label of each.

    Returns
    -------
    str
        32 hexadecimal digits.

    Example
    -------
    >>> labels_fingerprint(["a", "b"], ["1", "2"])[:8]
    '25da10a3'
    >>> labels_fingerprint(["b", "a"], ["2", "1"])[:8]
    '25da10a3'
    """
    lines = sorted(f"{i}\t{g}\n" for i, g in zip(names, labels, strict=True))
    return hashlib.blake2b("".join(lines).encode(), digest_size=16).hexdigest()
