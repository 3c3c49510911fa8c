"""Embeddings of whole utterances, computed in length-sorted batches."""

import math

import numpy as np
import torch
from tqdm import tqdm

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.dataio.crops import wrap
from speechbrain_ext.dataio.dataloader import (
    TIMEOUT,
    ReadableBatches,
    shared_batch,
)
from speechbrain_ext.inference.speech import (
    LEAST_SECONDS,
    NoSpeechError,
    no_speech_reasons,
)


class UtteranceDataset(torch.utils.data.Dataset):
    """Whole utterances of a manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, wav, start and stop.
    sample_rate : int
        Sample rate of the signals, Hz. Utterances shorter than 0.1 s are
        repeated up to that length.
    """

    def __init__(self, manifest, sample_rate=16000):
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_samples = math.ceil(LEAST_SECONDS * sample_rate)

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
            ``id``, ``sig`` [time], ``row``, and ``no_speech``: the reason why
            the utterance has no speech, or ``""``.
        """
        entry = self.manifest.iloc[row]
        signal = read_audio(
            entry["wav"],
            int(entry["start"]),
            int(entry["stop"]),
            sample_rate=self.sample_rate,
        )
        (reason,) = no_speech_reasons(signal[None], self.sample_rate)
        if len(signal) < self.min_samples:
            signal = wrap(signal, self.min_samples)
        return {
            "id": entry["ID"],
            "sig": signal,
            "row": row,
            "no_speech": reason,
        }


def length_sorted_batches(durations, batch_seconds):
    """Groups utterances of similar length, longest first.

    Arguments
    ---------
    durations : list of float
        Seconds of each utterance.
    batch_seconds : float
        Largest duration of a batch with its padding. A longer utterance gets
        a batch of its own.

    Returns
    -------
    list of list of int
        Row numbers of each batch; each row is in exactly one batch.

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
    manifest,
    batch_seconds=120.0,
    num_workers=0,
    rank=0,
    world_size=1,
    sample_rate=16000,
):
    """Makes a DataLoader of whole utterances in length-sorted padded batches.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Largest duration of a batch with its padding.
    num_workers : int
        Number of processes that read audio; 0 for this process.
    rank : int
        Rank of this process.
    world_size : int
        Number of processes; each gets a part of the batches.
    sample_rate : int
        Sample rate that the model was trained with, Hz.

    Returns
    -------
    torch.utils.data.DataLoader
        Yields PaddedBatch with ``id``, ``sig``, ``row`` and ``no_speech``.
    """
    return torch.utils.data.DataLoader(
        UtteranceDataset(manifest, sample_rate),
        batch_sampler=length_sorted_batches(
            manifest["duration"].tolist(), batch_seconds
        )[rank::world_size],
        num_workers=num_workers,
        collate_fn=shared_batch,
        timeout=TIMEOUT if num_workers else 0,
    )


def encoder_rate(encoder):
    """The sample rate that an encoder was trained with.

    Arguments
    ---------
    encoder : speechbrain.inference.interfaces.Pretrained
        The encoder; its ``audio_normalizer`` has the rate.

    Returns
    -------
    int
        Sample rate, Hz; defaults to 16000 without ``audio_normalizer``.

    Example
    -------
    >>> encoder_rate(object())
    16000
    """
    normalizer = getattr(encoder, "audio_normalizer", None)
    return getattr(normalizer, "sample_rate", 16000)


def embed_batches(
    encoder, manifest, batch_seconds=120.0, num_workers=0, share=(0, 1)
):
    """Computes embeddings of whole utterances, batch by batch.

    The audio is resampled to the encoder's sample rate. Utterances without
    speech are skipped and reported after the last batch.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, whose ``encode_batch`` is called.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Largest duration of a batch with its padding.
    num_workers : int
        Number of processes that read audio; 0 for this process.
    share : tuple of int
        ``(rank, world_size)``, see ``utterance_loader``.

    Yields
    ------
    rows : list of int
        Rows of the manifest.
    embeddings : torch.Tensor
        float32, on the CPU, [rows, embedding].

    Raises
    ------
    AudioError
        If a file cannot be read.
    NoSpeechError
        After the last batch, if utterances have no speech.
    OSError
        If a DataLoader worker has ended or is stuck.
    """
    rate = encoder_rate(encoder)
    loader = utterance_loader(
        manifest, batch_seconds, num_workers, *share, sample_rate=rate
    )
    silent = {}
    for batch in ReadableBatches(loader):
        reasons = dict(zip(batch.id, batch.no_speech, strict=True))
        silent.update((name, why) for name, why in reasons.items() if why)
        spoken = torch.tensor([not why for why in batch.no_speech])
        if not spoken.any():
            continue
        wavs, lengths = batch.sig
        with torch.inference_mode():
            found = encoder.encode_batch(wavs[spoken], lengths[spoken])
            found = found.squeeze(1).float().cpu()
        yield torch.as_tensor(batch.row)[spoken].tolist(), found
    if silent:
        raise NoSpeechError(silent)


def embed_utterances(
    encoder, manifest, batch_seconds=120.0, num_workers=0, progressbar=False
):
    """Computes the embedding of every whole utterance.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, whose ``encode_batch`` is called.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Largest duration of a batch with its padding.
    num_workers : int
        Number of processes that read audio; 0 for this process.
    progressbar : bool
        Whether to show a progress bar.

    Returns
    -------
    torch.Tensor
        Embeddings of shape [utterances, embedding], float32, on the CPU, in
        the manifest's order.

    Raises
    ------
    AudioError
        If a file cannot be read.
    NoSpeechError
        If utterances have no speech.
    ValueError
        If an embedding is not finite. The message lists the utterances.
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
            f"{len(names)} embeddings are not finite, for example "
            f"{', '.join(names[:5])}; check the audio and the model."
        )
    return embeddings
