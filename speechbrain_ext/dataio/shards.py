"""Tar shards in webdataset's form; single crops can be read from them."""

import contextlib
import glob
import hashlib
import io
import json
import os
import re
import tarfile

import numpy as np
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.input_files import (
    content_fingerprint,
    file_fingerprints,
    require_regular,
)
from speechbrain_ext.dataio.parallel import ordered_map
from speechbrain_ext.utils.files import (
    atomic_write,
    locked_folder,
    require_own,
)
from speechbrain_ext.utils.seed import stable_seed

logger = get_logger(__name__)
PLACE = re.compile(r"(?s)(.*\.tar)#([0-9]{1,18})\+([0-9]{1,18})")


def write_shards(manifest, folder, utterances=1000, seed=0, workers=None):
    """Writes the files of a manifest into tar shards.

    An utterance has two members in a shard: a copy of its file, ``<ID>.wav``
    or another format (``<ID>.audio`` if its name has no ending), and
    ``<ID>.json`` with its duration and speaker. ``webdataset.WebDataset``
    yields both as one sample. The utterances of a shard are drawn at random by
    the seed, so that shuffling whole shards and a small buffer mixes speakers.

    All cores write. After an interruption the same call writes the shards that
    are missing. The names of the shards hold two fingerprints, one of the
    manifest and one of its files (path, size, time and a sample of the
    content). So a changed manifest or a replaced file gets new shards. If the
    files are gone, the shards that were written from them are used.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, stop and spk_id; a row is a whole file. If
        labels are corrupted, the true ones are written.
    folder : str
        Where the shards go.
    utterances : int
        Utterances in a shard; the last one may have fewer.
    seed : int
        Draws which utterances share a shard.
    workers : int or None
        Processes that write; None for one a core.

    Returns
    -------
    pandas.DataFrame
        The manifest. ``wav`` names places in shards, as ``open_member`` reads
        them, and ``shard`` has the number of the shard.

    Raises
    ------
    ValueError
        If ``utterances`` is not positive, two rows name one file, or the
        index or a shard is broken.
    FileNotFoundError
        If a file of the manifest, or a shard that was written, is gone.
    FileExistsError
        If a file that this project did not write has the name of a shard.
    OSError
        If a file cannot be read, the folder cannot be written into, or the
        disk is full; no shard is left half-written.

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
    folder = os.path.abspath(folder)
    stamp = _stamp(folder, _fingerprint(about, seed, utterances), about.wav)
    index = os.path.join(folder, f"{stamp}.json")
    if not os.path.lexists(index):
        parts = np.array_split(order, range(utterances, len(order), utterances))
        tasks = [
            (os.path.join(folder, _shard(stamp, n)), about.iloc[rows])
            for n, rows in enumerate(parts)
        ]
        with locked_folder(folder):
            # raises unless all shards can be written
            results = list(ordered_map(_write_shard, tasks, workers))
            places = [None] * len(order)
            for number, (rows, (found, _)) in enumerate(
                zip(parts, results, strict=True)
            ):
                for row, place in zip(rows, found, strict=True):
                    places[row] = (number, *place)
            held = {"places": places, "shards": [mark for _, mark in results]}
            with atomic_write(index) as stream:
                json.dump({**held, "digest": _digest(stamp, held)}, stream)
    places = _read_index(index, stamp, len(manifest))
    shards = [number for number, *_ in places]
    wavs = [
        f"{folder}/{_shard(stamp, number)}#{offset}+{size}"
        for number, offset, size in places
    ]
    return manifest.assign(wav=wavs, shard=shards)


def _shard(stamp, number):
    return f"{stamp}-{number:06}.tar"


def _stamp(folder, known, wavs):
    """Start of the names: fingerprints of the manifest and of its files."""
    pattern = os.path.join(glob.escape(folder), f"{known}-{'?' * 12}.json")
    others = sorted(glob.glob(pattern))
    try:
        digests = "\n".join(file_fingerprints(wavs.tolist()))
    except FileNotFoundError as error:
        if len(others) != 1:
            raise FileNotFoundError(
                f"{error.filename} of the manifest does not exist, so that no "
                "shard can be written from it; restore it, or run the "
                "preparation again."
            ) from error
        logger.warning(
            f"{error.filename} is gone; the shards of {others[0]} are used, "
            "which were written from the files of this manifest."
        )
        return os.path.basename(others[0]).removesuffix(".json")
    content = hashlib.sha256(digests.encode()).hexdigest()[:12]
    stamp = f"{known}-{content}"
    stale = [
        path for path in others if os.path.basename(path) != f"{stamp}.json"
    ]
    if stale:
        logger.warning(
            f"Files have changed since the shards of {', '.join(stale)} were "
            f"written; they are not used. New ones are named {stamp}."
        )
    return stamp


def _read_index(index, stamp, count):
    """Places of the utterances, (shard, offset, bytes) each, all checked."""
    require_regular(index)
    try:
        with open(index, encoding="utf-8") as stream:
            held = json.load(stream)
        whole = held.pop("digest") == _digest(stamp, held)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        whole, reason = False, f"it is not what was written: {error}"
    else:
        reason = "its content was changed, or belongs to another manifest"
    if not whole or len(held["places"]) != count:
        raise ValueError(
            f"The shard index {index} is broken ({reason}); delete it, and "
            "the next run writes it again."
        )
    _require_shards(index, stamp, held["shards"])
    return held["places"]


def _digest(stamp, held):
    """A digest that shows a complete index of this manifest."""
    said = json.dumps([stamp, held["places"], held["shards"]])
    return hashlib.sha256(said.encode()).hexdigest()


def _require_shards(index, stamp, marks):
    """Raises where a shard is gone or was changed."""
    folder = os.path.dirname(index)
    there = set(os.listdir(folder))
    gone = [n for n in range(len(marks)) if _shard(stamp, n) not in there]
    if gone:
        raise FileNotFoundError(
            f"{folder} lacks {len(gone)} of {len(marks)} shards, "
            f"{_shard(stamp, gone[0])} among them; delete {stamp}.json there "
            "and they are written again."
        )
    for number, mark in enumerate(marks):
        path = os.path.join(folder, _shard(stamp, number))
        if content_fingerprint(path) != mark:
            raise ValueError(
                f"The shard {path} was changed since it was written; delete "
                f"it and {index}, and both are written again."
            )


def _fingerprint(manifest, seed, utterances):
    """A digest of the manifest, of the seed and of the size of shards."""
    digest = hashlib.sha256(f"{seed}/{utterances}".encode())
    for name in ("ID", "wav", "spk_id", "stop"):
        held = "\n".join(map(str, manifest[name].to_numpy()))
        digest.update(hashlib.sha256(held.encode()).digest())
    return digest.hexdigest()[:12]


def _write_shard(task):
    """Writes a missing shard; returns the places of sounds, and its digest."""
    path, table = task
    samples = table[["ID", "wav", "duration", "spk_id"]]
    samples = list(samples.itertuples(index=False, name=None))
    if not os.path.lexists(path):
        with atomic_write(path, "wb") as stream:
            _fill(stream, samples)
    require_own(path)
    try:
        with tarfile.open(path) as shard:
            found = {
                member.name.rpartition(".")[0]: member
                for member in shard
                if not member.name.endswith(".json")
            }
        members = [found[_key(name)] for name, *_ in samples]
    except (tarfile.TarError, KeyError) as error:
        raise ValueError(
            f"The shard {path} is broken ({error}); delete it, and it is "
            "written again."
        ) from error
    places = [(member.offset_data, member.size) for member in members]
    return places, content_fingerprint(path)


def _fill(stream, samples):
    """Writes two members per sample, without times or owners."""
    with tarfile.open(
        fileobj=stream, mode="w", format=tarfile.PAX_FORMAT
    ) as shard:
        for name, wav, duration, speaker in samples:
            about = {"ID": name, "duration": duration, "spk_id": speaker}
            # for webdataset a member without an ending belongs to no sample
            ending = os.path.splitext(wav)[1].lower() or ".audio"
            require_regular(wav)
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
    """The key of an ID: for webdataset it ends at the first dot of its name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.replace("%", "%25").replace(".", "%2E")


@contextlib.contextmanager
def open_member(place):
    """Opens a sound within a tar file as a seekable file.

    Only the bytes that are asked for are read from the tar file.

    Arguments
    ---------
    place : str
        ``<name>.tar#<offset>+<bytes>``, or the path of a plain file.

    Yields
    ------
    str or io.BufferedReader
        The file object, or the path itself if it is one of a plain file.

    Raises
    ------
    OSError
        If the tar file cannot be opened.
    ValueError
        If the tar file is no regular file, or ends before the sound does.

    Example
    -------
    >>> path = getfixture("tmp_path") / "shard.tar"
    >>> _ = path.write_bytes(b"header sound padding")
    >>> with open_member(f"{path}#7+5") as sound:
    ...     sound.read()
    b'sound'
    """
    found = PLACE.fullmatch(place)
    if not found:
        yield place
        return
    path, offset, size = found.groups()
    require_regular(path)
    with io.BufferedReader(_Member(path, int(offset), int(size))) as sound:
        yield sound


class _Member(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path, offset, size):
        self.stream = open(path, "rb", buffering=0)
        self.offset, self.size, self.place = offset, size, 0
        held = self.stream.seek(0, io.SEEK_END)
        if held < offset + size:
            self.stream.close()
            raise ValueError(
                f"{path} has {held} bytes, fewer than the {offset + size} "
                "that its index says"
            )

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, place, whence=io.SEEK_SET):
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place}
        self.place = max(0, start.get(whence, self.size) + place)
        return self.place

    def tell(self):
        return self.place

    def readinto(self, buffer):
        wanted = max(0, min(len(buffer), self.size - self.place))
        self.stream.seek(self.offset + self.place)
        held = self.stream.read(wanted)
        buffer[: len(held)] = held
        self.place += len(held)
        return len(held)

    def close(self):
        self.stream.close()
        super().close()
