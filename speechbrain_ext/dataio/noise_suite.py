"""The noise suite: a standard set of lists with wrong labels.

Each list has lines ``utterance label``, sorted by utterance. They depend only
on the IDs and speakers of the manifest, so everybody with the same corpus gets
the same files, byte by byte.
"""

import functools
import hashlib
import json
import pathlib

import pandas as pd

from speechbrain_ext.dataio.label_noise import corrupt_labels
from speechbrain_ext.dataio.parallel import ordered_map, removed_on_error
from speechbrain_ext.dataio.text_files import shorten
from speechbrain_ext.utils.files import (
    atomic_write,
    locked_folder,
    remove_own,
)
from speechbrain_ext.utils.journal import is_own

SEEDS = (42, 43, 44)
HASHES = "SHA256SUMS"
COLUMNS = ("ID", "spk_id", "wav", "spk_id_clean")
# Name, rates in percent, and the options of `label_noise`
LISTS = (
    (
        "symmetric",
        (0, 5, 10, 20, 30, 40, 50, 60),
        {"kind": "symmetric", "exact": True},
    ),
    ("nearest", (20, 40), {"kind": "pair", "by": "nearest", "exact": True}),
    ("session", (20, 40), {"kind": "session"}),
    ("open_set", (20,), {"kind": "open_set"}),
    ("split", (20,), {"kind": "split", "by": "session"}),
    ("merge", (20,), {"kind": "merge"}),
)
NEEDED = {
    "nearest": ("embeddings", "no encoder; pass --embeddings_from"),
    "open_set": ("outside", "no outside speakers; pass --outside"),
}


def suite_settings(min_sessions=2):
    """Gives the settings of the suite, as values of a recipe's `label_noise`.

    Arguments
    ---------
    min_sessions : int
        Only speakers with that many sessions are corrupted.

    Returns
    -------
    dict
        Maps the name of each list, such as ``session-20-seed42``, to its
        options. Those of ``nearest`` lack ``embeddings_from``, those of
        ``open_set`` lack ``outside``.

    Example
    -------
    >>> suite_settings()["session-20-seed42"]
    {'kind': 'session', 'rate': 0.2, 'min_sessions': 2, 'seed': 42}
    """
    settings = {}
    for name, rates, options in LISTS:
        for percent in rates:
            own = options | {"rate": percent / 100}
            if name != "open_set":
                own["min_sessions"] = min_sessions
            for seed in SEEDS:
                key = f"{name}-{percent:02}-seed{seed}"
                settings[key] = own | {"seed": seed}
    return settings


def write_suite(
    manifest,
    folder,
    embeddings=None,
    outside=None,
    min_sessions=2,
    workers=None,
):
    """Writes the lists of the suite, their hashes and their figures.

    The folder gets ``NAME.txt`` for each list, ``SHA256SUMS`` (which
    ``sha256sum -c`` reads) and ``suite.json``. A list that this manifest
    cannot have is left out, and ``suite.json`` says why. If an earlier suite in
    the folder had it, its file is deleted.

    Arguments
    ---------
    manifest : pandas.DataFrame
        The clean manifest: columns ID, spk_id and wav.
    folder : str
        The folder to write to.
    embeddings : dict
        A vector for each speaker, see ``noisy_labels.speaker_means``; without
        it the lists ``nearest`` are left out.
    outside : pandas.DataFrame
        Manifest of other speakers; without it the list ``open_set`` is left
        out.
    min_sessions : int
        Only speakers with that many sessions are corrupted.
    workers : int
        Number of processes; None for one per core.

    Returns
    -------
    dict
        Content of ``suite.json``: ``utterances`` and ``speakers`` of the
        manifest; ``lists``, which maps each name to its ``label_noise``,
        ``utterances``, ``corrupted``, ``rate_reached``, ``classes`` and
        ``sha256``; and ``left_out``, which maps names to reasons.

    Raises
    ------
    FileExistsError
        If the folder has a file with one of these names that this project did
        not write.
    OSError
        If the folder cannot be written to.
    ValueError
        If the manifest is noisy already, has too few speakers with
        ``min_sessions``, or has an ID or speaker with white space.

    Example
    -------
    >>> ids = [f"{s}/{n}/1" for s in "abcdefghij" for n in range(5)]
    >>> table = pd.DataFrame({"ID": ids, "spk_id": [i[0] for i in ids]})
    >>> table["wav"] = table["ID"] + ".wav"
    >>> folder = getfixture("tmp_path") / "suite"
    >>> suite = write_suite(table, folder, workers=1)
    >>> len(suite["lists"]), sorted(suite["left_out"])[0]
    (36, 'nearest-20-seed42')
    >>> (folder / "session-20-seed42.txt").read_text().splitlines()[0]
    'a/0/1 a'
    """
    suite = {
        "utterances": len(manifest),
        "speakers": manifest["spk_id"].nunique(),
        "lists": {},
        "left_out": {},
    }
    loaded = {"embeddings": embeddings, "outside": outside}
    manifest = _needed(manifest)
    if outside is not None:
        loaded["outside"] = outside = _needed(outside)
    wanted = {}
    for name, options in suite_settings(min_sessions).items():
        option, reason = NEEDED.get(name.partition("-")[0], (None, None))
        if option is not None and loaded[option] is None:
            suite["left_out"][name] = reason
        else:
            wanted[name] = options
    for table in (manifest, outside):
        if table is not None:
            _refuse_white_space(table)
    make = functools.partial(_list, manifest, loaded)
    made = ordered_map(make, list(wanted.values()), workers)
    with removed_on_error(folder), locked_folder(folder):
        for (name, options), (text, found) in zip(
            wanted.items(), made, strict=True
        ):
            if text is None:
                suite["left_out"][name] = found
                continue
            _write(folder, f"{name}.txt", text)
            digest = hashlib.sha256(text.encode()).hexdigest()
            suite["lists"][name] = {
                "label_noise": options,
                **found,
                "sha256": digest,
            }
        for name in suite["left_out"]:
            old = pathlib.Path(folder, f"{name}.txt")
            if is_own(old):
                remove_own(old)
        lines = [
            f"{one['sha256']}  {name}.txt\n"
            for name, one in suite["lists"].items()
        ]
        _write(folder, HASHES, "".join(lines))
        _write(folder, "suite.json", json.dumps(suite, indent=2) + "\n")
    return suite


def _list(manifest, loaded, options):
    """The text of a list and its figures; None and a reason if impossible."""
    more = {}
    if options["kind"] == "pair":
        more["embeddings"] = loaded["embeddings"]
    elif options["kind"] == "open_set":
        more["outside"] = loaded["outside"]
    try:
        noisy, report = corrupt_labels(manifest, **options, **more)
    except ValueError as error:
        if options["kind"] == "symmetric":  # possible with any clean manifest
            raise
        return None, str(error)
    lines = noisy["ID"] + " " + noisy["spk_id"] + "\n"
    figures = {
        "utterances": report["utterances"],
        "corrupted": report["corrupted"],
        "rate_reached": report["rate_reached"],
        "classes": report["classes_after"],
    }
    return "".join(sorted(lines)), figures


def _needed(manifest):
    """The columns that the lists need; all are copied to each process."""
    return manifest[[name for name in COLUMNS if name in manifest]]


def _write(folder, name, text):
    with atomic_write(pathlib.Path(folder, name)) as stream:
        stream.write(text)


def _refuse_white_space(manifest):
    names = pd.concat([manifest["ID"], manifest["spk_id"]])
    broken = names[names.str.contains(r"\s", regex=True)]
    if len(broken):
        raise ValueError(
            f"The name `{shorten(broken.iloc[0])}` has white space, which a "
            "list of `utterance label` lines cannot hold; rename the file or "
            "its folders."
        )
