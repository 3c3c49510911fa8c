"""The kinds of label noise that change single utterances or sessions.

Each function takes a manifest with the true labels in ``spk_id`` and returns
it with the given labels there. ``label_noise.corrupt_labels`` checks the
arguments and keeps the true labels.
"""

import numpy as np
import pandas as pd

from speechbrain_ext.utils.seed import stable_seed


def session_names(manifest):
    """Gives the session of each utterance: the folder of its ID.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column ID, with names such as ``speaker/session/utterance``.

    Returns
    -------
    pandas.Series
        Names of the sessions.

    Example
    -------
    >>> session_names(pd.DataFrame({"ID": ["id1/s1/1", "id1/s2/1"]})).tolist()
    ['id1/s1', 'id1/s2']
    """
    return manifest["ID"].str.rpartition("/")[0]


def several_sessions(manifest, least):
    """Marks the utterances of speakers with enough sessions.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    least : int
        Number of sessions that a speaker must have.

    Returns
    -------
    numpy.ndarray
        One bool per utterance.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a/1/1", "a/2/1", "b/1/1", "b/1/2"]})
    >>> several_sessions(table.assign(spk_id=list("aabb")), 2).tolist()
    [True, True, False, False]
    """
    counts = session_names(manifest).groupby(manifest["spk_id"]).nunique()
    return (manifest["spk_id"].map(counts) >= least).to_numpy()


def symmetric(manifest, rate, seed, exact=False):
    """Draws another class for single utterances.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    rate : float
        Share of the utterances.
    seed : int
        Seed of the draws.
    exact : bool
        Whether exactly this share of each class gets a class that is not its
        own. Otherwise each utterance is chosen with this probability, and the
        class is drawn from all.

    Returns
    -------
    pandas.DataFrame
        The manifest with the given labels.

    Example
    -------
    >>> table = pd.DataFrame({"ID": list("12345678")})
    >>> table["spk_id"] = list("aaaabbbb")
    >>> noisy = symmetric(table, 0.5, seed=1, exact=True)
    >>> sorted(noisy["spk_id"])
    ['a', 'a', 'a', 'a', 'b', 'b', 'b', 'b']
    """
    return _drawn_classes(manifest, rate, seed, "symmetric", exact)


def session(manifest, rate, seed):
    """Gives whole sessions one wrong speaker.

    Exactly this share of each speaker's sessions is chosen, rounded.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    rate : float
        Share of the sessions.
    seed : int
        Seed of the draws.

    Returns
    -------
    pandas.DataFrame
        The manifest with the given labels.

    Raises
    ------
    ValueError
        If no speaker has two sessions, or enough of them for this share.

    Example
    -------
    >>> ids = ["a/1/1", "a/1/2", "a/2/1", "b/1/1", "b/1/2", "b/2/1"]
    >>> table = pd.DataFrame({"ID": ids, "spk_id": list("aaabbb")})
    >>> "".join(session(table, 0.5, seed=1)["spk_id"])
    'bbabba'
    """
    names = manifest["spk_id"] + "\t" + session_names(manifest)
    true = pd.DataFrame({"ID": names, "spk_id": manifest["spk_id"]})
    true = true.drop_duplicates("ID").set_index("ID", drop=False)
    most = int(true["spk_id"].value_counts().max())
    if rate > 0 and most < 2:  # all that a speaker has would be one session
        raise ValueError(
            "Kind 'session' needs speakers with two sessions or more, but "
            "every speaker has one; pass a manifest with IDs such as "
            "speaker/session/utterance, or take another kind."
        )
    given = _drawn_classes(true.copy(), rate, seed, "session", exact=True)
    if rate > 0 and (given["spk_id"] == true["spk_id"]).all():
        raise ValueError(
            f"`rate` {rate} is less than half a session of every speaker (the "
            f"largest number of sessions is {most}); pass a higher rate, or "
            "a manifest with IDs such as speaker/session/utterance."
        )
    manifest["spk_id"] = names.map(given["spk_id"])
    return manifest


def pair(manifest, rate, seed, exact=False, by=None, embeddings=None):
    """Confuses each speaker with one other.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    rate : float
        Share of the utterances.
    seed : int
        Seed of the draws.
    exact : bool
        Whether exactly this share of each class is chosen. Otherwise each
        utterance is chosen with this probability.
    by : str
        ``name`` (the next speaker by name) or ``nearest`` (the speaker with
        the highest cosine), which is the default with ``embeddings``.
    embeddings : dict
        A vector for each speaker.

    Returns
    -------
    pandas.DataFrame
        The manifest with the given labels.

    Raises
    ------
    ValueError
        If the embeddings are missing or not valid, or there is one speaker.

    Example
    -------
    >>> table = pd.DataFrame({"ID": list("12345678")})
    >>> table["spk_id"] = list("aaaabbbb")
    >>> "".join(pair(table, 1.0, seed=1)["spk_id"])
    'bbbbaaaa'
    """
    by = by or ("name" if embeddings is None else "nearest")
    if by not in ("name", "nearest"):
        raise ValueError(f"`by` must be 'name' or 'nearest', got {by!r}.")
    if (by == "nearest") != (embeddings is not None):
        raise ValueError(
            "`by: nearest` and the speakers' embeddings go together; give "
            "`embeddings_from`, the pretrained folder of an encoder (on the "
            "command line --embeddings_from), or leave both out."
        )
    classes = _classes(manifest)
    if embeddings is None:
        others = np.roll(classes, -1)
    else:
        others = classes[_nearest(classes, embeddings)]
    confused = dict(zip(classes, others, strict=True))
    chosen = _chosen(manifest, rate, seed, "pair", exact)
    given = manifest["spk_id"].map(confused)
    manifest["spk_id"] = manifest["spk_id"].where(~chosen, given)
    return manifest


def open_set(manifest, rate, seed, outside):
    """Adds utterances of other speakers under the labels of the manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID and spk_id.
    rate : float
        Share of the added utterances in the result, below 1.
    seed : int
        Seed of the draws.
    outside : pandas.DataFrame
        Manifest of other speakers.

    Returns
    -------
    pandas.DataFrame
        The manifest, and below it the added rows with their true speakers in
        spk_id_clean.

    Raises
    ------
    ValueError
        If the rate is 1, or ``outside`` shares a speaker or an ID with the
        manifest or is too small.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["1", "2"], "spk_id": ["a", "a"]})
    >>> other = pd.DataFrame({"ID": ["3"], "spk_id": ["x"]})
    >>> open_set(table, 0.3, 1, other)["spk_id"].tolist()
    ['a', 'a', 'a']
    """
    if rate == 1:
        raise ValueError("`rate` must be below 1 for 'open_set', got 1.")
    refuse_shared(outside, manifest, "the training set")
    wanted = int(exact_count(rate / (1 - rate), len(manifest)))
    if wanted > len(outside):
        raise ValueError(
            f"`outside` must have {wanted} utterances for a rate of {rate}, "
            f"got {len(outside)}; lower the rate, or pass a larger manifest."
        )
    classes = np.array(sorted(set(manifest["spk_id"])), dtype=object)
    outside = outside.assign(spk_id_clean=outside["spk_id"])
    outside["drawn"] = uniform(outside["ID"], seed, "open_set", "whether")
    outside = outside.sort_values(["drawn", "ID"]).head(wanted)
    drawn = uniform(outside["ID"], seed, "open_set", "class")
    outside["spk_id"] = classes[(drawn * len(classes)).astype(int)]
    outside = outside.drop(columns="drawn")
    return pd.concat([manifest, outside], ignore_index=True)


def refuse_shared(outside, manifest, what):
    """Raises where outside speakers are not outside.

    Arguments
    ---------
    outside : pandas.DataFrame
        Columns ID and spk_id: utterances to be added.
    manifest : pandas.DataFrame
        Columns ID and spk_id: utterances that must not be among them.
    what : str
        What a message calls the manifest.

    Raises
    ------
    ValueError
        If they share a speaker or an ID.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a/1"], "spk_id": ["a"]})
    >>> refuse_shared(table, table, "the test set")
    Traceback (most recent call last):
    ValueError: `outside` has 1 speakers of the test set, ['a']; leave them out.
    """
    for column, name in (("spk_id", "speakers"), ("ID", "IDs")):
        both = set(manifest[column]) & set(outside[column])
        if both:
            raise ValueError(
                f"`outside` has {len(both)} {name} of {what}, "
                f"{sorted(both)[:3]}; leave them out."
            )


def uniform(names, *what):
    """Draws a number for each name, the same on every machine.

    Arguments
    ---------
    names : iterable of str
        The names.
    *what : tuple
        Seed and purpose of the draw.

    Returns
    -------
    numpy.ndarray
        In [0, 1), shape [names].

    Example
    -------
    >>> uniform(["a", "b"], 1986, "whether").round(3).tolist()
    [0.254, 0.134]
    """
    # 53 bits, all of which a float holds
    drawn = [(stable_seed(*what, name) >> 10) / 2**53 for name in names]
    return np.array(drawn)


def exact_count(rate, count):
    """Gives the share of a count, rounded half up as in decimal numbers.

    Arguments
    ---------
    rate : float
        The share.
    count : int | pandas.Series
        The count, or one for each of several.

    Returns
    -------
    float | pandas.Series
        A whole number, or several.

    Example
    -------
    >>> 0.29 * 50, float(exact_count(0.29, 50))
    (14.499999999999998, 15.0)
    """
    return np.floor(np.round(rate * count, 9) + 0.5)


def _classes(manifest, least=2):
    """The sorted speakers."""
    classes = np.array(sorted(set(manifest["spk_id"])), dtype=object)
    if len(classes) < least:
        raise ValueError(
            f"`manifest` must have two speakers that can be confused, got "
            f"{len(classes)}."
        )
    return classes


def _chosen(manifest, rate, seed, kind, exact):
    """Which utterances are corrupted: by chance, or a count of each class."""
    drawn = uniform(manifest["ID"], seed, kind, "whether")
    if not exact:
        return drawn < rate
    order = pd.DataFrame(
        {
            "class": manifest["spk_id"].to_numpy(),
            "drawn": drawn,
            "ID": manifest["ID"].to_numpy(),
        }
    ).sort_values(["drawn", "ID"])
    place = order.groupby("class").cumcount()
    count = order["class"].map(order["class"].value_counts())
    chosen = place < exact_count(rate, count)
    return chosen.sort_index().to_numpy()


def _drawn_classes(manifest, rate, seed, kind, exact):
    """Draws a class for each chosen row."""
    classes = _classes(manifest, least=2 if exact else 1)
    chosen = _chosen(manifest, rate, seed, kind, exact)
    drawn = uniform(manifest["ID"], seed, kind, "class")
    true = pd.Categorical(manifest["spk_id"], categories=classes).codes
    if exact:  # among the others
        given = (drawn * (len(classes) - 1)).astype(int)
        given += given >= true
    else:
        given = (drawn * len(classes)).astype(int)
    manifest["spk_id"] = np.where(chosen, classes[given], classes[true])
    return manifest


def _nearest(classes, embeddings):
    """The number of the class with the highest cosine, for each class."""
    missing = [name for name in classes if name not in embeddings]
    if missing:
        raise ValueError(
            f"`embeddings` lacks {len(missing)} speakers, {missing[:3]}."
        )
    vectors = np.stack([np.asarray(embeddings[c], float) for c in classes])
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(vectors).all() or not (norms > 0).all():
        odd = [str(c) for c in classes[~(np.isfinite(norms) & (norms > 0))][:3]]
        raise ValueError(
            f"`embeddings` must be finite and not zero; {odd} are not."
        )
    vectors /= norms[:, None]
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1)
