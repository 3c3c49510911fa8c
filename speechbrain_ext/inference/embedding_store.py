"""A cache of embeddings on disk."""

import collections
import contextlib
import hashlib
import os
import pathlib
import re
import time

import numpy as np
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.dataio.audio import REMEDY, AudioError
from speechbrain_ext.dataio.input_files import file_fingerprints
from speechbrain_ext.inference.embedding import embed_batches
from speechbrain_ext.inference.speech import NoSpeechError
from speechbrain_ext.utils.devices import log_slow_bf16
from speechbrain_ext.utils.files import atomic_write, lock_output_folder
from speechbrain_ext.utils.seals import SUMS, seal_flaw, sealed_names

logger = get_logger(__name__)

# What can determine embeddings: weights, YAMLs and classes of an author
SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin", ".py")
SUFFIXES += (".yaml", ".yml")
# Of these, what does not affect them
APART = {
    "recipe.yaml",
    "label_encoder.ckpt",
    "classifier.ckpt",
    "classifier.safetensors",
    "loss.ckpt",
    "loss.safetensors",
}
PART_SECONDS = 60.0  # a killed run loses about this much work at most
DIGITS = 24  # of a file name


class EmbeddingStore:
    """A folder of embeddings with one subfolder per model and kind of crops.

    Each file (NumPy's npz) has the keys, IDs and embeddings of some
    utterances. Files are written atomically, so a killed run keeps what it
    has finished. Broken files are renamed, and their embeddings are computed
    again. A key is a digest of the utterance's ID, start and stop and of the
    fingerprint of its file (path, size, time and a sample of the content). If
    any of these changes, the embedding is computed again.

    Arguments
    ---------
    folder : str | pathlib.Path
        Folder of the embeddings of all models.
    fingerprint : str
        Fingerprint of the model, see ``model_fingerprint``.
    crops : speechbrain_ext.dataio.crops.Crops
        Which crops of each utterance the embeddings are of; None for whole
        utterances. Each number and length of crops has a subfolder of its own.
    precision : str
        Of the encoder, see ``embed_batches``. Each has a subfolder of its own.

    Example
    -------
    >>> store = EmbeddingStore(getfixture("tmp_path"), "0123abcd")
    >>> store.add(["one"], ["a/s/1"], torch.ones(1, 4))
    >>> store.read()["one"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, folder, fingerprint, crops=None, precision="fp32"):
        name = fingerprint[:16]
        if crops is not None:
            name += f"_{crops.number}x{float(crops.seconds)}s"
        if precision != "fp32":
            name += f"_{precision}"
        self.folder = pathlib.Path(folder) / name
        self.crops = crops
        self.precision = precision

    def add(self, keys, ids, embeddings):
        """Writes a file of embeddings.

        Arguments
        ---------
        keys : list of str
            Keys of the utterances.
        ids : list of str
            IDs of the utterances, for human readers of the file.
        embeddings : torch.Tensor
            Shape [utterances, embedding], or [utterances, crops, embedding].
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
        """Locks the embeddings of this model until this process ends.

        Only the main process locks, so that the other processes of its run can
        write.

        Raises
        ------
        OSError
            If another run has locked them, or the folder is not writable.
        ValueError
            If the folder has a link to a place outside of it.
        """
        if if_main_process():
            lock_output_folder(self.folder)

    def read(self):
        """Reads all files and renames broken ones.

        Returns
        -------
        dict
            Maps keys to embeddings, np.ndarray of shape [embedding] or
            [crops, embedding].
        """
        parts, sizes = {}, () if self.crops is None else (self.crops.number,)
        for path in sorted(self.folder.glob("*.npz")):
            try:
                parts[path] = _read_part(path, sizes)
            except Exception as error:  # a broken file can raise anything
                _set_aside(path, str(error) or type(error).__name__)
        widths = {path: held.shape[-1] for path, (_, held) in parts.items()}
        usual = collections.Counter(widths.values()).most_common(1)
        found = {}
        for path, (keys, embeddings) in parts.items():
            if widths[path] == usual[0][0]:
                found.update(zip(keys, embeddings, strict=True))
            else:
                _set_aside(path, f"embeddings of size {widths[path]}")
        return found


def _read_part(path, sizes):
    """Reads and checks the keys and embeddings of a file.

    Each embedding has the shape [*sizes, embedding].
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    # NumPy does not close a broken file that it has opened itself
    with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
        keys, embeddings = part["keys"].tolist(), part["embeddings"]
    shaped = embeddings.ndim > 1 and embeddings.shape[1:-1] == sizes
    if not shaped or embeddings.dtype != np.float32:
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
    then = "is skipped"
    if re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}\.npz", path.name):
        aside = path.with_name(f"{path.name}.broken")
        with contextlib.suppress(FileNotFoundError):  # already renamed
            os.replace(path, aside)
        then = f"is now {aside.name}, and its embeddings are computed again"
    logger.warning(f"{path} is broken ({flaw}); it {then}.")


def model_fingerprint(folder):
    """A digest of the files that determine the embeddings of an encoder.

    Arguments
    ---------
    folder : str | pathlib.Path
        The pretrained folder. Only weights, YAMLs and Python files count, and
        of these neither the classifier nor the label map nor a ``.ckpt`` beside
        safetensors, if the checksums of the export say that it is unchanged.
        If they say so of hyperparams.yaml, files of your own do not count.

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
            f"{folder} has no hyperparams.yaml; pass a pretrained folder."
        )
    digest, modules = hashlib.sha256(), None
    if seal_flaw(folder, ["hyperparams.yaml"]) is None:
        modules = {name.rpartition(".")[0] for name in sealed_names(folder)}
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES or path.name in APART:
            continue
        if modules and path.stem not in modules:  # no encoder reads it
            continue
        if path.name[0] != "." and path.is_file() and not _is_twin(path):
            digest.update(f"{path.name}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_twin(path):
    """Whether an exported ``.ckpt`` lies unchanged beside its safetensors."""
    if path.suffix != ".ckpt" or not path.with_suffix(".safetensors").is_file():
        return False
    sealed = (path.parent / SUMS).is_file()
    return sealed and seal_flaw(path.parent, [path.name]) is None


def utterance_keys(manifest):
    """Computes the keys of a manifest's utterances in a store.

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
        If a path is not a regular file.
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
    batch_seconds=16.0,
    num_workers=0,
    progressbar=False,
    share=(0, 1),
    gather=None,
):
    """Reads the embeddings of a manifest and computes the missing ones.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder; the store must have its fingerprint.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    store : EmbeddingStore
        The store to read from and to write to.
    batch_seconds : float
        Largest duration of a batch with its padding.
    num_workers : int
        Number of processes that read audio; 0 for this process.
    progressbar : bool
        Whether to show a progress bar.
    share : tuple of int
        Rank of this process and number of processes; each computes a part of
        the batches.
    gather : callable
        A barrier of all processes; None if there is only one.

    Returns
    -------
    torch.Tensor
        float32, [utterances, embedding], in the manifest's order; for a store
        of crops [utterances, crops, embedding].

    Raises
    ------
    AudioError
        If a file cannot be read.
    NoSpeechError
        If utterances or crops have no speech. The embeddings of all other
        utterances are stored.
    ValueError
        If an embedding is zero or not finite. The message lists the
        utterances, and their embeddings are not stored.
    """
    keys = utterance_keys(manifest)
    known = store.read()
    missing = np.array([key not in known for key in keys])
    logger.info(f"{missing.sum()} of {len(keys)} embeddings are missing.")
    if gather is not None:
        gather()  # all processes must read the same files before one writes
    if missing.any():
        log_slow_bf16(torch.device(encoder.device).type, store.precision)
        del known  # it is read again below
        rows = np.flatnonzero(missing)
        batches = embed_batches(
            encoder,
            manifest.iloc[rows],
            batch_seconds,
            num_workers,
            share,
            store.crops,
            precision=store.precision,
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
    """Raises for utterances without embeddings, the same on every process."""
    lacking = {
        name: silent.get(name, "found by another process")
        for name, key in zip(ids, keys, strict=True)
        if key not in known
    }
    if lacking:
        raise NoSpeechError(lacking)


def _compute(batches, rows, ids, keys, store, bar):
    """Computes batches and stores them, one file per minute."""
    waiting, bad, since = [], [], time.monotonic()
    try:
        for batch, found in batches:
            bar.update(len(batch))
            usable = found.isfinite().all(dim=-1) & (found != 0).any(dim=-1)
            usable = usable.reshape(len(found), -1).all(dim=1)  # all crops
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
    finally:  # keep finished embeddings if a file cannot be read
        if waiting:
            _flush(waiting, store)
    if bad:
        raise ValueError(
            f"{len(bad)} embeddings are zero or not finite, for example "
            f"{', '.join(bad[:20])}; check the audio and the model."
        )


def _flush(waiting, store):
    """Writes one file of the store."""
    keys, ids, embeddings = zip(*waiting, strict=True)
    store.add(list(keys), list(ids), torch.stack(embeddings))
