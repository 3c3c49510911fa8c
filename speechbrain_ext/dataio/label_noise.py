"""Simulated label noise, the same on every machine.

All draws depend only on the seed and the utterance's ID (or the speaker's
name). So the order of the rows, the machine and the number of processes have
no effect.
"""

import collections
import hashlib
import json
import pathlib

import numpy as np
import pandas as pd

from speechbrain_ext.dataio.manifests import write_manifest
from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.seed import stable_seed

NEEDED = ("ID", "spk_id", "wav")


def corrupt_labels(manifest, kind, rate, seed, **options):
    """Corrupts a share of the labels in a manifest.

    =========== ==========================================================
    kind        what happens to the share ``rate``
    =========== ==========================================================
    symmetric   each utterance, with this probability, gets a class drawn
                from all, including the true one: the protocol released with
                SphereFace2 (ydwen/opensphere@f220a2c dataset/
                class_dataset.py)
    pair        each utterance, with this probability, gets the class that
                its own is confused with: the next by name, or the nearest
    open_set    utterances of outside speakers are added with labels drawn
                from the manifest; ``rate`` is their share of the result
    split       this share of the speakers is split into several labels
    merge       this share of the speakers is merged into fewer labels
    =========== ==========================================================

    With ``exact`` (``symmetric`` and ``pair``) exactly this share of every
    class, rounded, is corrupted, and never keeps its true label.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, spk_id and wav; others are kept.
    kind : str
        ``symmetric``, ``pair``, ``open_set``, ``split`` or ``merge``.
    rate : float
        Share in [0, 1].
    seed : int
        Another seed draws other labels.
    **options : dict
        ``exact`` (bool, False); ``embeddings`` (dict from speaker to vector,
        for ``pair`` by ``nearest``, see
        ``speechbrain_ext.inference.embedding.speaker_means``);
        ``outside`` (manifest of other speakers, for ``open_set``); ``parts``
        (int, 2: labels of a split speaker, speakers of a merged label);
        ``by`` (for ``split``: ``random`` or ``session``, the folder of the
        utterance; for ``pair``: ``name``, the next speaker by name, or
        ``nearest``, the speaker with the highest cosine, which is the default
        if ``embeddings`` are given).

    Returns
    -------
    manifest : pandas.DataFrame
        The same rows in the same order (``open_set`` adds rows at the end),
        with the given labels in spk_id and the true ones in spk_id_clean.
    report : dict
        Content of ``label_noise.json``: kind, rates asked for and reached
        (share of utterances with a wrong label), options, counts per class,
        transitions [true, given, utterances], seed, and a fingerprint of the
        labels.

    Raises
    ------
    ValueError
        If an argument is out of range, or an option is not one of the kind.

    Example
    -------
    >>> names = [f"{s}/x/{u}" for s in "abc" for u in range(4)]
    >>> table = pd.DataFrame({"ID": names, "spk_id": [n[0] for n in names]})
    >>> table["wav"] = table["ID"] + ".wav"
    >>> noisy, report = corrupt_labels(table, "pair", 0.5, 1, exact=True)
    >>> report["rate_reached"], report["transitions"]
    (0.5, [['a', 'b', 2], ['b', 'c', 2], ['c', 'a', 2]])
    """
    kinds = {
        "symmetric": (_symmetric, {"exact"}),
        "pair": (_pair, {"exact", "by", "embeddings"}),
        "open_set": (_open_set, {"outside"}),
        "split": (_split, {"parts", "by"}),
        "merge": (_merge, {"parts"}),
    }
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"`kind` must be one of {list(kinds)}, got {kind!r}.")
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if not number or not 0 <= rate <= 1:
        raise ValueError(
            f"`rate` must be a share in [0, 1], got {rate!r}; 30 % is 0.3."
        )
    function, known = kinds[kind]
    for name in options:
        if name not in known:
            raise ValueError(
                f"`{name}` does not go with kind {kind!r}, which takes "
                f"{sorted(known)}."
            )
    if not isinstance(options.get("exact", False), bool):
        raise ValueError(
            f"`exact` must be True or False, got {options['exact']!r}."
        )
    _check(manifest, "manifest")
    manifest = manifest.copy()
    manifest["spk_id_clean"] = manifest["spk_id"]
    manifest = function(manifest, rate, seed, **options)
    return manifest, _report(manifest, kind, rate, seed, options)


def write_corrupted(manifest, report, path):
    """Writes a corrupted manifest, and its report into the same folder.

    Arguments
    ---------
    manifest : pandas.DataFrame
        What ``corrupt_labels`` returned.
    report : dict
        The report of ``corrupt_labels``.
    path : str
        The manifest's file.

    Returns
    -------
    pathlib.Path
        The report's file, ``label_noise.json`` in the same folder.
    """
    write_manifest(manifest, path)
    beside = pathlib.Path(path).with_name("label_noise.json")
    with atomic_write(beside) as file:
        json.dump(report, file, indent=2)
    return beside


def _check(manifest, name):
    for column in NEEDED:
        if column not in manifest:
            raise ValueError(f"`{name}` must have a column {column}.")
    if "spk_id_clean" in manifest:
        raise ValueError(
            f"`{name}` has a column spk_id_clean: it is corrupted already; "
            "start from the clean one."
        )
    twice = manifest["ID"][manifest["ID"].duplicated()]
    if len(twice):
        raise ValueError(f"`{name}` has the ID {twice.iloc[0]} twice.")
    if not len(manifest):
        raise ValueError(f"`{name}` has no rows.")


def _uniform(names, *what):
    """A number in [0, 1) for each name and purpose."""
    # 53 bits, all of which a float holds
    drawn = [(stable_seed(*what, name) >> 10) / 2**53 for name in names]
    return np.array(drawn)


def _chosen(manifest, rate, seed, kind, exact):
    """Which utterances are corrupted: by chance, or a count of each class."""
    drawn = _uniform(manifest["ID"], seed, kind, "whether")
    if not exact:
        return drawn < rate
    order = pd.DataFrame(
        {"class": manifest["spk_id"], "drawn": drawn, "ID": manifest["ID"]}
    )
    order = order.reset_index(drop=True).sort_values(["drawn", "ID"])
    place = order.groupby("class").cumcount()
    count = order["class"].map(order["class"].value_counts())
    chosen = place < np.floor(rate * count + 0.5)
    return chosen.sort_index().to_numpy()


def _symmetric(manifest, rate, seed, exact=False):
    classes = np.array(sorted(set(manifest["spk_id"])))
    if exact and len(classes) < 2:
        raise ValueError("`manifest` must have two speakers, got 1.")
    chosen = _chosen(manifest, rate, seed, "symmetric", exact)
    drawn = _uniform(manifest["ID"], seed, "symmetric", "class")
    true = np.searchsorted(classes, manifest["spk_id"].to_numpy(dtype=str))
    if exact:  # among the others
        given = (drawn * (len(classes) - 1)).astype(int)
        given += given >= true
    else:
        given = (drawn * len(classes)).astype(int)
    labels = np.where(chosen, classes[given], classes[true])
    manifest["spk_id"] = labels.astype(object)
    return manifest


def _pair(manifest, rate, seed, exact=False, by=None, embeddings=None):
    by = by or ("name" if embeddings is None else "nearest")
    if by not in ("name", "nearest"):
        raise ValueError(f"`by` must be 'name' or 'nearest', got {by!r}.")
    if (by == "nearest") != (embeddings is not None):
        raise ValueError(
            "`by: nearest` and the speakers' embeddings go together; give "
            "`embeddings_from`, the pretrained folder of an encoder (on the "
            "command line --embeddings_from), or leave both out."
        )
    classes = sorted(set(manifest["spk_id"]))
    if len(classes) < 2:
        raise ValueError("`manifest` must have two speakers, got 1.")
    if embeddings is None:
        confused = dict(zip(classes, classes[1:] + classes[:1], strict=True))
    else:
        missing = [name for name in classes if name not in embeddings]
        if missing:
            raise ValueError(
                f"`embeddings` lacks {len(missing)} speakers, {missing[:3]}."
            )
        vectors = np.stack([np.asarray(embeddings[c], float) for c in classes])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        odd = [
            c for c, n in zip(classes, norms[:, 0], strict=True) if not n > 0
        ]
        if odd or not np.isfinite(vectors).all():
            raise ValueError(
                f"`embeddings` must be finite and not zero; {odd[:3]} are not."
            )
        vectors /= norms
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        nearest = cosines.argmax(axis=1)
        confused = {
            c: classes[n] for c, n in zip(classes, nearest, strict=True)
        }
    chosen = _chosen(manifest, rate, seed, "pair", exact)
    given = manifest["spk_id"].map(confused)
    manifest["spk_id"] = manifest["spk_id"].where(~chosen, given)
    return manifest


def _open_set(manifest, rate, seed, outside=None):
    if outside is None:
        raise ValueError("`outside` must be a manifest of other speakers.")
    _check(outside, "outside")
    if rate == 1:
        raise ValueError("`rate` must be below 1 for 'open_set', got 1.")
    inside = set(manifest["spk_id"])
    both = inside & set(outside["spk_id"])
    if both:
        raise ValueError(
            f"`outside` has {len(both)} speakers of the training set, "
            f"{sorted(both)[:3]}."
        )
    shared = set(manifest["ID"]) & set(outside["ID"])
    if shared:
        raise ValueError(
            f"`outside` has {len(shared)} IDs of the training set, "
            f"{sorted(shared)[:3]}."
        )
    wanted = int(np.floor(rate / (1 - rate) * len(manifest) + 0.5))
    if wanted > len(outside):
        raise ValueError(
            f"`outside` must have {wanted} utterances for a rate of {rate}, "
            f"got {len(outside)}."
        )
    classes = np.array(sorted(inside), dtype=object)
    outside = outside.copy()
    outside["spk_id_clean"] = outside["spk_id"]
    outside["drawn"] = _uniform(outside["ID"], seed, "open_set", "whether")
    outside = outside.sort_values(["drawn", "ID"]).head(wanted)
    drawn = _uniform(outside["ID"], seed, "open_set", "class")
    outside["spk_id"] = classes[(drawn * len(classes)).astype(int)]
    outside = outside.drop(columns="drawn")
    return pd.concat([manifest, outside], ignore_index=True)


def _speakers(names, rate, seed, kind):
    """Draws a share of some speakers."""
    names = np.array(sorted(names), dtype=object)
    order = np.lexsort((names, _uniform(names, seed, kind, "whether")))
    return list(names[order[: int(np.floor(rate * len(names) + 0.5))]])


def _check_parts(parts):
    if not isinstance(parts, int) or parts < 2:
        raise ValueError(f"`parts` must be 2 or more, got {parts!r}.")


def _split(manifest, rate, seed, parts=2, by="random"):
    _check_parts(parts)
    if by not in ("random", "session"):
        raise ValueError(f"`by` must be 'random' or 'session', got {by!r}.")
    if by == "session":
        units = manifest["ID"].str.rpartition("/")[0]
    else:
        units = manifest["ID"]
    enough = units.groupby(manifest["spk_id"]).nunique() >= parts
    speakers = set(manifest["spk_id"])
    chosen = set(_speakers(speakers, rate, seed, "split"))
    small = sorted(name for name in chosen if not enough[name])
    if small:
        raise ValueError(
            f"`parts` must be at most the {by} units of a speaker, got "
            f"{parts}; {len(small)} of the speakers to split have fewer, "
            f"{small[:3]}."
        )
    labels = manifest["spk_id"].copy()
    for name in sorted(chosen):
        own = manifest["spk_id"] == name
        mine = sorted(set(units[own]))
        drawn = _uniform(mine, seed, "split", "part")
        # by rank, so that no part is left empty
        rank = np.empty(len(mine), dtype=int)
        rank[np.argsort(drawn, kind="stable")] = np.arange(len(mine))
        part = dict(zip(mine, rank % parts, strict=True))
        given = [
            name if part[unit] == 0 else f"{name}#{part[unit]}"
            for unit in units[own]
        ]
        labels[own] = given
    manifest["spk_id"] = labels
    return manifest


def _merge(manifest, rate, seed, parts=2):
    _check_parts(parts)
    speakers = set(manifest["spk_id"])
    if parts > len(speakers):
        raise ValueError(
            f"`parts` must be at most the {len(speakers)} speakers, "
            f"got {parts}."
        )
    chosen = _speakers(speakers, rate, seed, "merge")
    given = {}
    for start in range(0, len(chosen) - parts + 1, parts):
        group = chosen[start : start + parts]
        given |= dict.fromkeys(group, min(group))
    manifest["spk_id"] = manifest["spk_id"].map(
        lambda name: given.get(name, name)
    )
    return manifest


def _report(manifest, kind, rate, seed, options):
    true, given = manifest["spk_id_clean"], manifest["spk_id"]
    wrong = (true != given).to_numpy()
    moved = collections.Counter(zip(true[wrong], given[wrong], strict=True))
    counts = pd.DataFrame({"class": true, "wrong": wrong}).groupby("class")
    lines = sorted(
        f"{i}\t{g}\n" for i, g in zip(manifest["ID"], given, strict=True)
    )
    told = {
        name: value
        for name, value in options.items()
        if isinstance(value, (bool, int, float, str))
    }
    return {
        "kind": kind,
        "rate_asked": float(rate),
        "rate_reached": float(wrong.mean()),
        "seed": seed,
        "options": told,
        "utterances": len(manifest),
        "corrupted": int(wrong.sum()),
        "classes_before": int(true.nunique()),
        "classes_after": int(given.nunique()),
        "corrupted_by_class": {
            name: [int(group["wrong"].sum()), len(group)]
            for name, group in counts
        },
        "transitions": [
            [one, other, count] for (one, other), count in sorted(moved.items())
        ],
        "fingerprint": hashlib.blake2b(
            "".join(lines).encode(), digest_size=16
        ).hexdigest(),
    }
