"""Simulated label noise, the same on every machine.

All draws depend only on the seed and the utterance's ID (or the speaker's
name). So the order of the rows, the machine and the number of processes have
no effect.
"""

import inspect
import json
import numbers
import pathlib

import pandas as pd

from speechbrain_ext.dataio import label_noise_kinds, label_noise_speakers
from speechbrain_ext.dataio.label_noise_report import noise_report
from speechbrain_ext.dataio.manifests import write_manifest
from speechbrain_ext.utils.files import atomic_write
from speechbrain_ext.utils.seed import stable_seed

NEEDED = ("ID", "spk_id", "wav")
# The functions of the kinds. Their own arguments are the options of a kind.
FUNCTIONS = {
    "symmetric": label_noise_kinds.symmetric,
    "pair": label_noise_kinds.pair,
    "session": label_noise_kinds.session,
    "open_set": label_noise_kinds.open_set,
    "split": label_noise_speakers.split,
    "merge": label_noise_speakers.merge,
    "clusters": label_noise_speakers.from_clusters,
}
KINDS = (*FUNCTIONS, "mixture")
RATELESS = ("clusters", "mixture")  # their rate follows from other options
# Kinds that can be confined to speakers with several sessions
CONFINED = ("symmetric", "pair", "session", "split", "merge")
REQUIRED = {
    "open_set": ("outside", "a manifest of other speakers"),
    "clusters": ("clusters", "the cluster of each utterance"),
    "mixture": ("kinds", "a list of kinds with their options"),
}


def corrupt_labels(manifest, kind, rate=None, seed=0, **options):
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
    session     of the sessions of each speaker, exactly this share (rounded)
                gets one wrong speaker each
    open_set    utterances of outside speakers are added with labels drawn
                from the manifest; ``rate`` is their share of the result
    split       this share of the speakers is split into several labels
    merge       this share of the speakers is merged into fewer labels
    clusters    labels are those of a clustering; there is no rate
    mixture     several kinds one after another. Each acts on the utterances
                that the kinds before it have left unchanged, and its rate is
                a share of these. So each utterance is changed at most once.
    =========== ==========================================================

    With ``exact`` (``symmetric`` and ``pair``) exactly this share of every
    class, rounded, is corrupted, and never keeps its true label.

    With ``min_sessions`` (all kinds but ``open_set``, ``clusters`` and
    ``mixture``), only speakers with that many sessions are corrupted. ``rate``
    is a share of these, and wrong labels are drawn among them. Nothing
    changes in the classes of other speakers. A session is the folder of an
    utterance's ID.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, spk_id and wav; others are kept.
    kind : str
        One of the kinds above.
    rate : float
        Share in [0, 1]; None for ``clusters`` and ``mixture``.
    seed : int
        Another seed draws other labels.
    **options : dict
        ``exact`` (bool, False); ``min_sessions`` (int, 1);
        ``embeddings`` (dict from speaker to vector,
        for ``pair`` by ``nearest``, see
        ``speechbrain_ext.inference.noisy_labels.speaker_means``);
        ``outside`` (manifest of other speakers, for ``open_set``); ``parts``
        (int, 2: labels of a split speaker, speakers of a merged label);
        ``by`` (for ``split``: ``random`` or ``session``, the folder of the
        utterance; for ``pair``: ``name``, the next speaker by name, or
        ``nearest``, the speaker with the highest cosine, which is the default
        if ``embeddings`` are given); ``clusters`` (dict from ID to cluster,
        see ``clusters.read_clusters``); ``kinds`` (for ``mixture``: list of
        dicts with kind, rate and options; each has a seed of its own, derived
        from ``seed`` unless it is given).

    Returns
    -------
    manifest : pandas.DataFrame
        The same rows in the same order (``open_set`` adds rows at the end),
        with the given labels in spk_id and the true ones in spk_id_clean.
    report : dict
        Content of ``label_noise.json``, see
        ``label_noise_report.noise_report``.

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
    return _corrupt(manifest, (), kind, rate, seed, **options)


def _corrupt(manifest, taken, kind, rate=None, seed=0, **options):
    """``corrupt_labels`` where other labels are taken already."""
    check_options(kind, rate, seed, options)
    _check(manifest, "manifest")
    clean = manifest.assign(spk_id_clean=manifest["spk_id"])
    if kind == "mixture":
        return _mixture(clean, seed, options["kinds"])
    if kind == "open_set":
        _check(options["outside"], "outside")
    own, confined = dict(options), slice(None)
    least = own.pop("min_sessions", 1)
    if least > 1:
        confined = label_noise_kinds.several_sessions(clean, least)
        if clean.loc[confined, "spk_id"].nunique() < 2:
            raise ValueError(
                f"`min_sessions` {least} leaves fewer than two speakers; "
                "lower it, or pass a manifest with IDs such as "
                "speaker/session/utterance."
            )
    if kind not in RATELESS:
        own |= {"rate": rate, "seed": seed}
    if kind == "split":
        own["taken"] = {*taken, *clean["spk_id"]}
    noisy = FUNCTIONS[kind](clean.loc[confined].copy(), **own)
    if least > 1:
        # pandas 3.1 ignores to_numpy(copy=True) for unpickled texts
        labels = clean["spk_id"].to_numpy(dtype=object).copy()
        labels[confined] = noisy["spk_id"]
        noisy = clean.assign(spk_id=labels)
    return noisy, noise_report(
        noisy, kind, rate, seed, options, confined if least > 1 else None
    )


def write_corrupted(manifest, report, path, report_name="label_noise.json"):
    """Writes a corrupted manifest, and its report into the same folder.

    Arguments
    ---------
    manifest : pandas.DataFrame
        What ``corrupt_labels`` returned.
    report : dict
        The report of ``corrupt_labels``.
    path : str
        The manifest's file.
    report_name : str
        Name of the report's file.

    Returns
    -------
    pathlib.Path
        The report's file.
    """
    write_manifest(manifest, path)
    beside = pathlib.Path(path).with_name(report_name)
    with atomic_write(beside) as file:
        json.dump(report, file, indent=2)
    return beside


def _mixture(clean, seed, parts):
    """Applies several kinds, each to what those before it left unchanged."""
    mixed, reports = clean, []
    for place, part in enumerate(parts, start=1):
        free = mixed["spk_id"] == mixed["spk_id_clean"]
        part = {"seed": stable_seed(seed, "mixture", place), **part}
        left = mixed[free].drop(columns="spk_id_clean")
        if not len(left):
            raise ValueError(
                f"The kinds before {part['kind']!r} in `kinds` changed every "
                "label, so none is left for it; lower their rates."
            )
        taken = {*mixed["spk_id"], *mixed["spk_id_clean"]}
        noisy, report = _corrupt(left, taken, **part)
        labels = mixed["spk_id"].to_numpy(dtype=object).copy()
        labels[free] = noisy["spk_id"][: len(left)]
        added = noisy[len(left) :]  # by open_set
        mixed = pd.concat(
            [mixed.assign(spk_id=labels), added], ignore_index=True
        )
        _check_unique(mixed, f"{part['kind']} of `kinds`")
        del report["transitions"], report["corrupted_by_class"]
        reports.append(report)
    report = noise_report(mixed, "mixture", None, seed, {})
    return mixed, {**report, "kinds": reports}


def check_options(kind, rate, seed, options):
    """Raises where an option does not go with the kind or is not valid.

    Arguments
    ---------
    kind : str
        See ``corrupt_labels``.
    rate : float
        The share; None for a kind without one.
    seed : int
        Seed of the draws.
    options : dict
        The options of the kind.

    Raises
    ------
    ValueError
        If an argument is unknown, missing or out of range.

    Example
    -------
    >>> check_options("speaker", 0.3, 1, {})
    Traceback (most recent call last):
    ValueError: `kind` must be one of ['symmetric', ...], got 'speaker'.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"`kind` must be one of {list(KINDS)}, got {kind!r}.")
    if kind in RATELESS:
        if rate is not None:
            raise ValueError(
                f"`rate` does not go with kind {kind!r}; leave it out."
            )
    elif not _is_share(rate):
        raise ValueError(
            f"`rate` must be a share in [0, 1], got {rate!r}; 30 % is 0.3."
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise ValueError(f"`seed` must be an integer, got {seed!r}.")
    known = {"kinds"}
    if kind != "mixture":
        known = set(inspect.signature(FUNCTIONS[kind]).parameters)
        known -= {"manifest", "rate", "seed", "taken"}
    if kind in CONFINED:
        known.add("min_sessions")
    for name in options:
        if name not in known:
            raise ValueError(
                f"`{name}` does not go with kind {kind!r}, which takes "
                f"{sorted(known)}."
            )
    name, what = REQUIRED.get(kind, (None, None))
    if name is not None and options.get(name) is None:
        raise ValueError(
            f"`{name}` must be {what}; kind {kind!r} does not work without it."
        )
    if not isinstance(options.get("exact", False), bool):
        raise ValueError(
            f"`exact` must be True or False, got {options['exact']!r}."
        )
    least = options.get("min_sessions", 1)
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise ValueError(
            f"`min_sessions` must be an integer of 1 or more, got {least!r}."
        )
    if kind == "mixture":
        _check_parts_of_mixture(options["kinds"])


def _check_parts_of_mixture(parts):
    if not isinstance(parts, (list, tuple)) or not parts:
        raise ValueError(
            "`kinds` must be a list such as [{kind: session, rate: 0.1}, "
            f"{{kind: symmetric, rate: 0.2}}], got {parts!r}."
        )
    for part in parts:
        if not isinstance(part, dict) or "kind" not in part:
            raise ValueError(
                "`kinds` must hold blocks such as {kind: session, rate: 0.1}, "
                f"got {part!r}."
            )
        if part["kind"] in RATELESS:
            raise ValueError(
                f"`kinds` must not hold kind {part['kind']!r}; the kinds of a "
                "mixture have rates."
            )
        options = {k: v for k, v in part.items() if k not in ("kind", "rate")}
        seed = options.pop("seed", 0)
        check_options(part["kind"], part.get("rate"), seed, options)


def _is_share(rate):
    """Whether a rate is a number in [0, 1]."""
    number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    return number and 0 <= rate <= 1


def _check(manifest, name):
    for column in NEEDED:
        if column not in manifest:
            raise ValueError(f"`{name}` must have a column {column}.")
    if "spk_id_clean" in manifest:
        raise ValueError(
            f"`{name}` has a column spk_id_clean: it is corrupted already; "
            "start from the clean one. To simulate several kinds of noise, "
            "use kind 'mixture'."
        )
    _check_unique(manifest, f"`{name}`")
    if not len(manifest):
        raise ValueError(f"`{name}` has no rows.")


def _check_unique(manifest, what):
    twice = manifest["ID"][manifest["ID"].duplicated()]
    if len(twice):
        raise ValueError(f"{what} has the ID {twice.iloc[0]} twice.")
