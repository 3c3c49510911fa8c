"""Embeddings of whole utterances, in length-sorted padded batches."""

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from tqdm import tqdm

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.crops import wrap


class UtteranceDataset(torch.utils.data.Dataset):
    """Whole utterances of a manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, wav, start and stop.
    sample_rate : int
        Samples a second that the signals shall have.
    min_samples : int
        Shorter utterances are repeated up to this length, one frame of
        25 ms.
    """

    def __init__(self, manifest, sample_rate=16000, min_samples=400):
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_samples = min_samples

    def __len__(self):
        """Number of utterances."""
        return len(self.manifest)

    def __getitem__(self, row):
        """Reads one utterance.

        Arguments
        ---------
        row : int
            Row of the manifest.

        Returns
        -------
        dict
            ``id``, ``sig`` [time] and ``row``.
        """
        entry = self.manifest.iloc[row]
        signal = read_audio(
            entry["wav"],
            int(entry["start"]),
            int(entry["stop"]),
            sample_rate=self.sample_rate,
        )
        if len(signal) < self.min_samples:
            signal = wrap(signal, self.min_samples)
        return {"id": entry["ID"], "sig": signal, "row": row}


def length_sorted_batches(durations, batch_seconds):
    """Groups utterances of like length, longest first.

    Arguments
    ---------
    durations : list of float
        Seconds of each utterance.
    batch_seconds : float
        Seconds of a batch with its padding; a longer utterance is a batch of
        its own.

    Returns
    -------
    list of list of int
        Row numbers; each row is in exactly one batch.

    Example
    -------
    >>> length_sorted_batches([1.0, 3.0, 2.0], batch_seconds=6.0)
    [[1, 2], [0]]
    """
    batches, longest = [], 0.0
    for row in np.argsort(-np.asarray(durations), kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * longest <= batch_seconds:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = durations[row]
    return batches


def utterance_loader(
    manifest, batch_seconds=120.0, num_workers=0, rank=0, world_size=1
):
    """A DataLoader of whole utterances in length-sorted padded batches.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Seconds of a batch with its padding.
    num_workers : int
        Processes that read; 0 reads in this one.
    rank : int
        Number of this process.
    world_size : int
        Number of processes, which share the batches; none is cut.

    Returns
    -------
    torch.utils.data.DataLoader
        Yields PaddedBatch with ``id``, ``sig`` and ``row``.
    """
    return torch.utils.data.DataLoader(
        UtteranceDataset(manifest),
        batch_sampler=length_sorted_batches(
            manifest["duration"].tolist(), batch_seconds
        )[rank::world_size],
        num_workers=num_workers,
        collate_fn=PaddedBatch,
    )


def embed_batches(
    encoder, manifest, batch_seconds=120.0, num_workers=0, share=(0, 1)
):
    """Computes embeddings of whole utterances, batch by batch.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, whose ``encode_batch`` is called.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Seconds of a batch with its padding.
    num_workers : int
        Processes that read; 0 reads in this one.
    share : tuple of int
        ``(rank, world_size)`` of ``utterance_loader``.

    Yields
    ------
    rows : list of int
        Rows of the manifest.
    embeddings : torch.Tensor
        float32, on the CPU, [rows, embedding].
    """
    loader = utterance_loader(manifest, batch_seconds, num_workers, *share)
    for batch in loader:
        with torch.inference_mode():
            found = encoder.encode_batch(*batch.sig).squeeze(1).float().cpu()
        yield torch.as_tensor(batch.row).tolist(), found


def embed_utterances(
    encoder, manifest, batch_seconds=120.0, num_workers=0, progressbar=False
):
    """Computes the embedding of every utterance once, whole.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, whose ``encode_batch`` is called.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Seconds of a batch with its padding.
    num_workers : int
        Processes that read; 0 reads in this one.
    progressbar : bool
        Whether to show progress.

    Returns
    -------
    torch.Tensor
        Embeddings of shape [utterances, embedding], float32, on the CPU, in
        the manifest's order.

    Raises
    ------
    ValueError
        If an embedding is not finite: the utterances are named.
    """
    batches = embed_batches(encoder, manifest, batch_seconds, num_workers)
    embeddings = None
    bar = tqdm(total=len(manifest), disable=not progressbar, dynamic_ncols=True)
    with bar:
        for rows, found in batches:
            if embeddings is None:
                embeddings = torch.empty(len(manifest), found.shape[1])
            embeddings[rows] = found
            bar.update(len(rows))
    bad = ~embeddings.isfinite().all(dim=1)
    if bad.any():
        names = manifest["ID"][bad.numpy()].tolist()
        raise ValueError(
            f"{len(names)} embeddings are not finite, among them "
            f"{', '.join(names[:5])}; check the audio and the model."
        )
    return embeddings
