"""Embeddings kept on disk: what was computed once is not computed again."""

import collections
import contextlib
import hashlib
import os
import pathlib
import re
import time

import numpy as np
import torch
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.dataio.audio import REMEDY, AudioError
from speechbrain_ext.dataio.input_files import file_fingerprints
from speechbrain_ext.inference.embedding import embed_batches
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.files import atomic_write, lock_output_folder

logger = get_logger(__name__)

# What of a pretrained folder changes no embedding
APART = {
    *("README.md", "label_encoder.ckpt", "classifier.ckpt", "loss.ckpt"),
    *("calibration.json",),
}
PART_SECONDS = 60.0  # what a killed run loses at most, about
DIGITS = 24  # of the names of files


class EmbeddingStore:
    """A folder of embeddings, one subfolder a model.

    Each file of it holds keys, IDs and embeddings of some utterances (NumPy's
    npz) and is written beside and renamed, so that a killed run leaves what
    it had finished. A file that is broken is renamed, and what it held is
    computed again. A key is a digest of an utterance's ID, start and stop
    and of its file's fingerprint (path, size, time and a sample of the
    content): where one changes, the embedding is computed again.

    Arguments
    ---------
    folder : str | pathlib.Path
        Where the embeddings of all models are.
    fingerprint : str
        The model's, see ``model_fingerprint``.

    Example
    -------
    >>> store = EmbeddingStore(getfixture("tmp_path"), "0123abcd")
    >>> store.add(["one"], ["a/s/1"], torch.ones(1, 4))
    >>> store.read()["one"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, folder, fingerprint):
        self.folder = pathlib.Path(folder) / fingerprint[:16]

    def add(self, keys, ids, embeddings):
        """Writes a file of embeddings.

        Arguments
        ---------
        keys : list of str
            Keys of the utterances.
        ids : list of str
            Their IDs, for whoever reads the file by hand.
        embeddings : torch.Tensor
            Shape [utterances, embedding].
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:DIGITS]
        with atomic_write(self.folder / f"{name}.npz", "wb") as file:
            np.savez(
                file,
                keys=np.array(keys),
                ids=np.array(ids),
                embeddings=embeddings.numpy(),
            )

    def lock(self):
        """Keeps other runs from this model's embeddings until this one ends.

        Raises
        ------
        OSError
            If another run writes them, or the folder cannot be written into.
        ValueError
            If it holds a link that leads out of it.
        """
        lock_output_folder(self.folder)

    def read(self):
        """Reads all that is there; what is broken is renamed.

        Returns
        -------
        dict
            Maps keys to embeddings, np.ndarray of shape [embedding].
        """
        parts = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                parts[path] = _read_part(path)
            except Exception as error:  # whatever the file holds
                _set_aside(path, str(error) or type(error).__name__)
        widths = {path: held.shape[1] for path, (_, held) in parts.items()}
        usual = collections.Counter(widths.values()).most_common(1)
        found = {}
        for path, (keys, embeddings) in parts.items():
            if widths[path] == usual[0][0]:
                found.update(zip(keys, embeddings, strict=True))
            else:
                _set_aside(path, f"embeddings of {widths[path]} numbers")
        return found


def _read_part(path):
    """Keys and embeddings of a file, checked."""
    if not path.is_file():
        raise ValueError("it is no plain file")
    # NumPy leaves a file open that it opened itself and that is broken
    with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
        keys, embeddings = part["keys"].tolist(), part["embeddings"]
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        raise ValueError(f"{embeddings.dtype} of shape {embeddings.shape}")
    if len(keys) != len(embeddings) or not all(
        isinstance(k, str) for k in keys
    ):
        raise ValueError(f"{len(keys)} keys for {len(embeddings)} embeddings")
    if not np.isfinite(embeddings).all():
        raise ValueError("not finite")
    return keys, embeddings


def _set_aside(path, flaw):
    """Renames a file of the store that cannot be used."""
    then = "is left out"
    if re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}\.npz", path.name):
        aside = path.with_name(f"{path.name}.broken")
        with contextlib.suppress(FileNotFoundError):  # by another process
            os.replace(path, aside)
        then = f"is now {aside.name}, and its embeddings are computed again"
    logger.warning(f"{path} is broken ({flaw}); it {then}.")


def model_fingerprint(folder):
    """A digest of what makes the embeddings of a pretrained folder.

    Arguments
    ---------
    folder : str | pathlib.Path
        The folder; its head, label map, texts and hidden files do not count.

    Returns
    -------
    str
        SHA-256, hexadecimal.

    Raises
    ------
    FileNotFoundError
        If the folder has no hyperparams.yaml.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("a: 1")
    >>> len(model_fingerprint(folder))
    64
    """
    folder = pathlib.Path(folder)
    if not (folder / "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{folder} has no hyperparams.yaml; name a pretrained folder."
        )
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if path.is_file() and not hidden and path.name not in APART:
            digest.update(f"{path.name}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def utterance_keys(manifest):
    """Computes the keys by which a store knows the utterances of a manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, wav, start and stop.

    Returns
    -------
    list of str
        Hexadecimal digests, [utterances].

    Raises
    ------
    AudioError
        If a file is missing or cannot be read.
    ValueError
        If one is no regular file.
    """
    paths = list(dict.fromkeys(manifest["wav"].tolist()))
    try:
        digests = dict(zip(paths, file_fingerprints(paths), strict=True))
    except OSError as error:
        raise AudioError(
            f"Cannot read {error.filename} ({error.strerror}); {REMEDY}."
        ) from error
    columns = ["ID", "wav", "start", "stop"]
    return [
        hashlib.sha256(
            f"{name} {start} {stop} {digests[wav]}".encode()
        ).hexdigest()[:32]
        for name, wav, start, stop in manifest[columns].itertuples(index=False)
    ]


def stored_embeddings(
    encoder,
    manifest,
    store,
    batch_seconds=120.0,
    num_workers=0,
    progressbar=False,
    share=(0, 1),
    gather=None,
):
    """The embeddings of a manifest, computing what the store lacks.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder whose fingerprint the store has.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    store : EmbeddingStore
        Where embeddings are and come.
    batch_seconds : float
        Same as in ``embed_utterances``.
    num_workers : int
        Same as in ``embed_utterances``.
    progressbar : bool
        Whether to show progress.
    share : tuple of int
        This process's rank and the number of processes, of which each
        computes a part of the batches.
    gather : callable
        Waits for the other processes; None where there are none.

    Returns
    -------
    torch.Tensor
        float32, [utterances, embedding], in the manifest's order.

    Raises
    ------
    AudioError
        If a file cannot be read.
    NoSpeechError
        If utterances have no speech; the embeddings of all others are stored.
    ValueError
        If an embedding is zero or not finite: the utterances are named, and
        their embeddings are not stored.
    """
    keys = utterance_keys(manifest)
    known = store.read()
    missing = np.array([key not in known for key in keys])
    logger.info(f"{missing.sum()} of {len(keys)} embeddings are missing.")
    if gather is not None:
        gather()  # all have read what there was, and have the same shares
    if missing.any():
        rows = np.flatnonzero(missing)
        batches = embed_batches(
            encoder, manifest.iloc[rows], batch_seconds, num_workers, share
        )
        bar = tqdm(
            total=len(rows) // share[1],
            disable=not progressbar,
            dynamic_ncols=True,
        )
        silent = {}
        try:
            with bar:
                _compute(batches, rows, manifest["ID"], keys, store, bar)
        except NoSpeechError as error:
            silent = error.reasons
        if gather is not None:
            gather()
        known = store.read()
        if silent or gather is not None:
            _require_all(manifest["ID"], keys, known, silent)
    return torch.from_numpy(np.stack([known[key] for key in keys]))


def _require_all(ids, keys, known, silent):
    """Names what has no embedding, the same on every process."""
    lacking = {
        name: silent.get(name, "found by another process")
        for name, key in zip(ids, keys, strict=True)
        if key not in known
    }
    if lacking:
        raise NoSpeechError(lacking)


def _compute(batches, rows, ids, keys, store, bar):
    """Computes batches and stores them, a file a minute."""
    waiting, bad, since = [], [], time.monotonic()
    try:
        for batch, found in batches:
            bar.update(len(batch))
            usable = found.isfinite().all(dim=1) & (found != 0).any(dim=1)
            for row, embedding, good in zip(
                rows[batch].tolist(), found, usable.tolist(), strict=True
            ):
                if good:
                    waiting.append((keys[row], ids.iloc[row], embedding))
                else:
                    bad.append(ids.iloc[row])
            if time.monotonic() - since > PART_SECONDS and waiting:
                _flush(waiting, store)
                waiting, since = [], time.monotonic()
    finally:  # a file that cannot be read costs nothing that is done
        if waiting:
            _flush(waiting, store)
    if bad:
        raise ValueError(
            f"{len(bad)} embeddings are zero or not finite, among them "
            f"{', '.join(bad[:20])}; check the audio and the model."
        )


def _flush(waiting, store):
    """Writes one file of the store."""
    keys, ids, embeddings = zip(*waiting, strict=True)
    store.add(list(keys), list(ids), torch.stack(embeddings))
