"""Chooses the speakers for training and for development."""

import hashlib

from speechbrain_ext.dataio.text_files import shorten


def hold_out_speakers(manifest, test_speakers, dev_speakers, seed):
    """Splits a manifest by speaker into training and development.

    Neither has a test speaker.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Utterances with their spk_id.
    test_speakers : set of str
        Speakers that occur in a trial list or an official test split.
    dev_speakers : int
        Speakers to hold out, see ``choose_speakers``.
    seed : int
        Another seed holds out other speakers.

    Returns
    -------
    train : pandas.DataFrame
        Rows of the manifest, in its order.
    dev : pandas.DataFrame
        Rows of the manifest, in its order; none if ``dev_speakers`` is 0.

    Raises
    ------
    ValueError
        If too few speakers have two utterances, or no speaker is left for
        training.

    Example
    -------
    >>> import pandas
    >>> manifest = pandas.DataFrame({"spk_id": ["a", "b", "c", "c"]})
    >>> train, dev = hold_out_speakers(manifest, {"b"}, 1, seed=0)
    >>> train.spk_id.tolist(), dev.spk_id.tolist()
    (['a'], ['c', 'c'])
    """
    free = manifest[~manifest.spk_id.isin(test_speakers)]
    chosen = choose_speakers(free, dev_speakers, seed)
    is_dev = free.spk_id.isin(chosen)
    if is_dev.all():
        raise ValueError(
            "No speaker is left for training: of "
            f"{manifest.spk_id.nunique()} speakers {len(test_speakers)} are "
            f"in trial lists or test folders and {len(chosen)} are held out "
            "for development; name only the lists to be tested in "
            "`trial_lists`, choose fewer `dev_speakers`, or add a training "
            "corpus to `data_folder`."
        )
    return free[~is_dev], free[is_dev]


def require_speakers(train, sources):
    """Raises if there are too few speakers to train on.

    Arguments
    ---------
    train : pandas.DataFrame
        wav and spk_id of each training utterance.
    sources : list of str
        The folders or lists of the utterances, for the message.

    Raises
    ------
    ValueError
        If there are fewer than two speakers.

    Example
    -------
    >>> import pandas
    >>> train = pandas.DataFrame({"spk_id": ["a", "b"], "wav": ["1", "2"]})
    >>> require_speakers(train, ["/data"])
    """
    if train.spk_id.nunique() < 2:
        first = train.iloc[0]
        raise ValueError(
            "Training and a cohort need at least two speakers, but "
            f"{shorten(', '.join(sources))} leaves one, "
            f"`{shorten(first.spk_id)}`, with {len(train)} utterances such as "
            f"{shorten(first.wav)}; add speakers, say how the files lie with "
            "--layout (speaker/session/utterance or speaker/utterance), or "
            "list them with their speakers in --file_list."
        )


def choose_speakers(manifest, count, seed):
    """Chooses speakers with at least two utterances.

    They are ordered by a hash of seed and name. So the choice depends on
    nothing else, and stays mostly the same when a corpus grows.

    Arguments
    ---------
    manifest : pandas.DataFrame
        spk_id of each utterance.
    count : int
        Speakers wanted.
    seed : int
        Another seed chooses others.

    Returns
    -------
    list of str
        Their names.

    Raises
    ------
    ValueError
        If fewer speakers than wanted have two utterances.

    Example
    -------
    >>> import pandas
    >>> manifest = pandas.DataFrame({"spk_id": ["a", "a", "b"]})
    >>> choose_speakers(manifest, 1, seed=1986)
    ['a']
    """
    sizes = manifest.spk_id.value_counts()
    names = sizes.index[sizes >= 2]
    if len(names) < count:
        most = min(len(names), len(sizes) - 2)
        fewer = f"at most {most}, or 0" if most >= 2 else "0"
        raise ValueError(
            f"`dev_speakers` is {count}, but only {len(names)} training "
            "speakers have the two utterances that a target trial needs, and "
            f"two speakers must be left for training; choose {fewer} for no "
            "development trials."
        )

    def place(name):
        return hashlib.sha256(f"{seed}/{name}".encode()).digest()

    return sorted(names, key=place)[:count]
