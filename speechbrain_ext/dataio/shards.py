"""Tar shards in webdataset's form, of which single crops can be read."""

import hashlib
import io
import json
import os
import tarfile

import numpy as np

from speechbrain_ext.dataio.crops import stable_seed
from speechbrain_ext.dataio.parallel import ordered_map
from speechbrain_ext.utils.files import atomic_write, locked_folder

BLOCK = 512  # bytes; a tar file is a row of these


def write_shards(manifest, folder, utterances=1000, seed=0, workers=None):
    """Writes the files of a manifest as tar shards, and tells what lies where.

    An utterance is two members of a shard, ``<ID>.wav`` (or whatever the file
    is), byte for byte, and ``<ID>.json`` with its duration and speaker: what
    ``webdataset.WebDataset`` yields as one sample. Which utterances share a
    shard is drawn from the seed, so that a reader who shuffles whole shards
    and a little buffer mixes speakers. Shards are written beside and renamed,
    by all cores; a run that was killed goes on with the shards that are
    missing. The same manifest gives the same bytes, and its fingerprint is in
    the names: another one never uses them.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, stop and spk_id, a row a whole file. Of
        corrupted labels the true ones are written.
    folder : str
        Where the shards go.
    utterances : int
        Utterances of a shard; the last one may have fewer.
    seed : int
        Draws which utterances share a shard.
    workers : int or None
        Processes that write; None for one a core.

    Returns
    -------
    pandas.DataFrame
        The manifest with ``wav`` naming places in shards, as ``open_member``
        reads them, and ``shard``, the number of each row's.

    Raises
    ------
    ValueError
        If ``utterances`` is not positive, or two rows name one file.
    FileNotFoundError
        If a file of the manifest, or a shard that was written, is gone.
    OSError
        If a file cannot be read, the folder not be written, or the disk is
        full: no shard is left half-written.

    Example
    -------
    >>> import pandas as pd
    >>> root = getfixture("tmp_path")
    >>> _ = (root / "1.wav").write_bytes(b"sound")
    >>> row = ("id1/s/1", 1.0, str(root / "1.wav"), 0, 5, "id1")
    >>> columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    >>> table = pd.DataFrame([row], columns=columns)
    >>> sharded = write_shards(table, root / "shards")
    >>> sharded.wav[0].rpartition(".tar")[2], sharded["shard"].tolist()
    ('#512+5', [0])
    """
    if utterances < 1:
        raise ValueError(f"`utterances` must be 1 or more, got {utterances}.")
    again = manifest.wav[manifest.wav.duplicated()]
    if len(again):
        raise ValueError(
            f"Shards hold whole files, but {again.iloc[0]} has several rows; "
            "cut it into one file an utterance."
        )
    names = manifest.ID.to_numpy()
    drawn = [stable_seed(seed, "shard", name) for name in names]
    order = np.lexsort((names.astype(str), drawn))
    true = manifest.get("spk_id_clean", manifest["spk_id"])
    about = manifest[["ID", "wav", "duration", "stop"]].assign(spk_id=true)
    stamp = _fingerprint(about, seed, utterances)
    folder = os.path.abspath(folder)
    index = os.path.join(folder, f"{stamp}.json")
    if not os.path.exists(index):
        parts = np.array_split(order, range(utterances, len(order), utterances))
        tasks = [
            (os.path.join(folder, _shard(stamp, n)), about.iloc[rows])
            for n, rows in enumerate(parts)
        ]
        with locked_folder(folder):
            # all the shards are there, or it raises
            results = list(ordered_map(_write_shard, tasks, workers))
            places = [None] * len(order)
            for number, (rows, found) in enumerate(
                zip(parts, results, strict=True)
            ):
                for row, place in zip(rows, found, strict=True):
                    places[row] = (number, *place)
            with atomic_write(index) as stream:
                json.dump(places, stream)
    with open(index, encoding="utf-8") as stream:
        places = json.load(stream)
    shards = [number for number, *_ in places]
    _require(folder, stamp, max(shards) + 1)
    wavs = [
        f"{folder}/{_shard(stamp, number)}#{offset}+{size}"
        for number, offset, size in places
    ]
    return manifest.assign(wav=wavs, shard=shards)


def _shard(stamp, number):
    return f"{stamp}-{number:06}.tar"


def _require(folder, stamp, count):
    """Raises where a shard has gone since the index was written."""
    there = set(os.listdir(folder))
    gone = [n for n in range(count) if _shard(stamp, n) not in there]
    if gone:
        raise FileNotFoundError(
            f"{folder} lacks {len(gone)} of {count} shards, "
            f"{_shard(stamp, gone[0])} among them; delete {stamp}.json there "
            "and they are written again."
        )


def _fingerprint(manifest, seed, utterances):
    """What the shards of this manifest begin their names with."""
    digest = hashlib.sha256(f"{seed}/{utterances}".encode())
    for name in ("ID", "wav", "spk_id", "stop"):
        held = "\n".join(map(str, manifest[name].to_numpy()))
        digest.update(hashlib.sha256(held.encode()).digest())
    return digest.hexdigest()[:12]


def _write_shard(task):
    """Writes a shard that is not there; where each sound lies in it."""
    path, table = task
    samples = table[["ID", "wav", "duration", "spk_id"]]
    samples = list(samples.itertuples(index=False, name=None))
    if not os.path.exists(path):
        with atomic_write(path, "wb") as stream:
            _fill(stream, samples)
    with tarfile.open(path) as shard:
        found = {
            member.name.rpartition(".")[0]: member
            for member in shard
            if not member.name.endswith(".json")
        }
    members = [found[_key(name)] for name, *_ in samples]
    return [(member.offset_data, member.size) for member in members]


def _fill(stream, samples):
    """Two members a sample, the same bytes whoever writes them when."""
    with tarfile.open(
        fileobj=stream, mode="w", format=tarfile.PAX_FORMAT
    ) as shard:
        for name, wav, duration, speaker in samples:
            about = {"ID": name, "duration": duration, "spk_id": speaker}
            ending = os.path.splitext(wav)[1].lower()
            with open(wav, "rb") as sound:
                held = sound.read()
            for suffix, content in (
                (ending, held),
                (".json", json.dumps(about).encode()),
            ):
                member = tarfile.TarInfo(_key(name) + suffix)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def _key(name):
    """An ID as a key: webdataset ends it at the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.replace(".", "%2E")
