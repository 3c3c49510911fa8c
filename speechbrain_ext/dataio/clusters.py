"""Labels from a clustering of utterances, and how pure the clusters are."""

import itertools

import numpy as np
import pandas as pd
from scipy.stats import entropy

from speechbrain_ext.dataio.text_files import read_lines, shorten
from speechbrain_ext.dataio.utterance_ids import utterance_id


def read_clusters(path, literal=()):
    """Reads the cluster of each utterance.

    Arguments
    ---------
    path : str
        Lines of ``utterance cluster``, UTF-8. An utterance is an ID or a path,
        see ``utterance_ids.utterance_id``. Any text without white space names a
        cluster.
    literal : collection of str
        IDs that are taken as they are, such as those of a manifest.

    Returns
    -------
    dict
        Maps IDs of utterances to names of clusters.

    Raises
    ------
    OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not text, has no lines, a line has another form, or an
        utterance occurs twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "clusters.txt"
    >>> _ = path.write_text("id1/a/1.wav 17\\nid1/b/1.wav 4\\n")
    >>> read_clusters(path)
    {'id1/a/1': '17', 'id1/b/1': '4'}
    """
    clusters = {}
    for number, line in read_lines(path, "cluster file"):
        words = line.split()
        if len(words) != 2:
            raise ValueError(
                f"Line {number} of the cluster file {path} is broken: "
                f"`{shorten(line)}` must be `utterance cluster`; correct it."
            )
        name = words[0]
        if name not in literal:
            name = utterance_id(name)
        if name in clusters:
            raise ValueError(
                f"The cluster file {path} has the utterance {shorten(name)} "
                f"twice, again in line {number}; remove one of the lines."
            )
        clusters[name] = words[1]
    if not clusters:
        raise ValueError(
            f"The cluster file {path} has no lines; a line is "
            "`utterance cluster`."
        )
    return clusters


def label_names(speakers, clusters):
    """Names clusters after their speakers.

    A cluster belongs to the speaker with the most utterances in it. The
    largest share of a speaker gets the speaker's name. The other clusters of
    this speaker are named ``speaker#cluster``, and ``speaker#cluster#1`` if
    that is the name of another speaker or cluster already. So an utterance has
    a wrong label if its speaker is not the one of its cluster, or if its
    cluster is not the main one of its speaker.

    Arguments
    ---------
    speakers : pandas.Series
        Speaker of each utterance.
    clusters : pandas.Series
        Cluster of each utterance.

    Returns
    -------
    dict
        Maps each cluster to a name; no two have the same.

    Example
    -------
    >>> speakers = pd.Series(list("aaaabb"))
    >>> label_names(speakers, pd.Series(list("112223")))
    {'1': 'a', '2': 'a#2', '3': 'b'}
    """
    table = pd.DataFrame({"speaker": speakers, "cluster": clusters})
    counts = table.value_counts().rename("count").reset_index()
    counts = counts.sort_values(
        ["count", "speaker", "cluster"], ascending=[False, True, True]
    )
    main = counts.drop_duplicates("cluster")  # its speaker with the most
    names, taken = {}, set(speakers)
    again = main["speaker"].duplicated()
    for speaker, cluster, more in zip(
        main["speaker"], main["cluster"], again, strict=True
    ):
        name = f"{speaker}#{cluster}" if more else speaker
        if more and name in taken:
            name = free_labels(name, 1, taken)[0]
        taken.add(name)
        names[cluster] = name
    return dict(sorted(names.items()))


def free_labels(name, count, taken):
    """Makes labels from a speaker's name that nothing else has.

    Arguments
    ---------
    name : str
        The speaker.
    count : int
        How many labels.
    taken : set of str
        Labels and speakers that there are.

    Returns
    -------
    list of str
        The first of ``name#1``, ``name#2``, .. that are free.

    Example
    -------
    >>> free_labels("a", 2, {"a", "a#1"})
    ['a#2', 'a#3']
    """
    labels = (f"{name}#{number}" for number in itertools.count(1))
    free = (label for label in labels if label not in taken)
    return list(itertools.islice(free, count))


def clustering_figures(speakers, clusters):
    """Compares a clustering with the true speakers.

    Arguments
    ---------
    speakers : iterable of str
        Speaker of each utterance.
    clusters : iterable of str
        Cluster of each utterance.

    Returns
    -------
    dict
        ``clusters`` (their number), ``clusters_of_one`` (utterance),
        ``largest_cluster`` (utterances), ``purity`` (share of utterances whose
        speaker has the most utterances in their cluster) and ``NMI``
        (normalized mutual information 2 I / (H1 + H2)).

    Example
    -------
    >>> found = clustering_figures(list("aabb"), list("1123"))
    >>> found["clusters"], found["purity"], round(found["NMI"], 3)
    (3, 1.0, 0.8)
    """
    table = pd.DataFrame({"speaker": speakers, "cluster": clusters})
    both = table.value_counts()
    sizes = table["cluster"].value_counts()
    of_speakers = entropy(table["speaker"].value_counts())
    of_clusters = entropy(sizes)
    shared = of_speakers + of_clusters - entropy(both)
    total = of_speakers + of_clusters
    most = both.groupby(level="cluster").max().sum()
    return {
        "clusters": len(sizes),
        "clusters_of_one": int((sizes == 1).sum()),
        "largest_cluster": int(sizes.max()),
        "purity": float(most / len(table)),
        # one speaker in one cluster: they agree
        "NMI": float(np.clip(2 * shared / total, 0, 1)) if total > 0 else 1.0,
    }
