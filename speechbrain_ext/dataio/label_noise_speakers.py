"""The kinds of label noise that change what a label stands for.

Speakers are split or merged, or labels come from a clustering. The functions
are used as those of ``label_noise_kinds``.
"""

import numpy as np

from speechbrain_ext.dataio.clusters import free_labels, label_names
from speechbrain_ext.dataio.label_noise_kinds import (
    exact_count,
    session_names,
    uniform,
)


def split(manifest, rate, seed, parts=2, by="random", taken=()):
    """Splits speakers into several labels, ``a``, ``a#1``, and so on.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    rate : float
        Share of the speakers.
    seed : int
        Seed of the draws.
    parts : int
        Labels of a split speaker.
    by : str
        ``random``, or ``session`` to keep each session together.
    taken : set of str
        Other labels that there are, which no part gets.

    Returns
    -------
    pandas.DataFrame
        The manifest with the given labels.

    Raises
    ------
    ValueError
        If an option is not valid, or a speaker has too few sessions or
        utterances.

    Example
    -------
    >>> import pandas as pd
    >>> ids = ["a/1/1", "a/1/2", "a/2/1", "b/1/1", "b/1/2", "b/2/1"]
    >>> table = pd.DataFrame({"ID": ids, "spk_id": list("aaabbb")})
    >>> split(table, 0.5, seed=1, by="session")["spk_id"].tolist()
    ['a', 'a', 'a', 'b', 'b', 'b#1']
    """
    _check_parts(parts)
    if by not in ("random", "session"):
        raise ValueError(f"`by` must be 'random' or 'session', got {by!r}.")
    units = session_names(manifest) if by == "session" else manifest["ID"]
    enough = units.groupby(manifest["spk_id"]).nunique() >= parts
    chosen = _chosen_speakers(manifest, rate, seed, "split")
    small = sorted(name for name in chosen if not enough[name])
    if small:
        raise ValueError(
            f"`parts` must be at most the {by} units of a speaker, got "
            f"{parts}; {len(small)} of the speakers to split have fewer, "
            f"{small[:3]}. Lower `parts`, or exclude them with `min_sessions`."
        )
    taken = {*taken, *manifest["spk_id"]}
    labels = manifest["spk_id"].to_numpy(dtype=object).copy()
    units = units.to_numpy(dtype=object)
    rows = manifest.groupby("spk_id").indices
    for name in sorted(chosen):
        own = units[rows[name]]
        mine = sorted(set(own))
        drawn = uniform(mine, seed, "split", "part")
        # by rank, so that no part is left empty
        rank = np.empty(len(mine), dtype=int)
        rank[np.argsort(drawn, kind="stable")] = np.arange(len(mine))
        part = dict(zip(mine, rank % parts, strict=True))
        names = [name, *free_labels(name, parts - 1, taken)]
        labels[rows[name]] = [names[part[unit]] for unit in own]
    manifest["spk_id"] = labels
    return manifest


def merge(manifest, rate, seed, parts=2):
    """Merges speakers into one label.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column spk_id.
    rate : float
        Share of the speakers.
    seed : int
        Seed of the draws.
    parts : int
        Speakers of a merged label.

    Returns
    -------
    pandas.DataFrame
        The manifest with the given labels.

    Raises
    ------
    ValueError
        If ``parts`` is not valid.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"ID": list("12345678")})
    >>> table["spk_id"] = list("aaaabbbb")
    >>> "".join(merge(table, 1.0, seed=1)["spk_id"])
    'aaaaaaaa'
    """
    _check_parts(parts)
    speakers = manifest["spk_id"].nunique()
    if parts > speakers:
        raise ValueError(
            f"`parts` must be at most the {speakers} speakers, got {parts}."
        )
    chosen = _chosen_speakers(manifest, rate, seed, "merge")
    given = {}
    for start in range(0, len(chosen) - parts + 1, parts):
        group = chosen[start : start + parts]
        given |= dict.fromkeys(group, min(group))
    manifest["spk_id"] = manifest["spk_id"].map(
        lambda name: given.get(name, name)
    )
    return manifest


def from_clusters(manifest, clusters):
    """Takes the labels from a clustering, see ``clusters.label_names``.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    clusters : dict
        The cluster of each utterance.

    Returns
    -------
    pandas.DataFrame
        The manifest with the given labels.

    Raises
    ------
    ValueError
        If ``clusters`` is not a dict, or an utterance has no cluster.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"ID": list("12345678")})
    >>> table["spk_id"] = list("aaaabbbb")
    >>> clusters = dict(zip("12345678", "77788899", strict=True))
    >>> from_clusters(table, clusters)["spk_id"].tolist()
    ['a', 'a', 'a', 'b', 'b', 'b', 'b#9', 'b#9']
    """
    if not isinstance(clusters, dict):
        raise ValueError(
            "`clusters` must map the ID of each utterance to a cluster, got "
            f"{clusters!r}; clusters.read_clusters reads a file."
        )
    missing = manifest["ID"][~manifest["ID"].isin(clusters)]
    if len(missing):
        raise ValueError(
            f"`clusters` lacks {len(missing)} of {len(manifest)} utterances, "
            f"{sorted(missing)[:3]}; add a line `utterance cluster` for each."
        )
    found = manifest["ID"].map(clusters)
    names = label_names(manifest["spk_id"], found)
    manifest["spk_id"] = found.map(names)
    return manifest


def _chosen_speakers(manifest, rate, seed, kind):
    """Draws a share of the speakers."""
    names = np.array(sorted(set(manifest["spk_id"])), dtype=object)
    order = np.lexsort((names, uniform(names, seed, kind, "whether")))
    return list(names[order[: int(exact_count(rate, len(names)))]])


def _check_parts(parts):
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 2:
        raise ValueError(f"`parts` must be 2 or more, got {parts!r}.")
