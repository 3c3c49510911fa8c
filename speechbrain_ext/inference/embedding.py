"""Embeddings of utterances: whole, in length-sorted batches, or in crops."""

import math
from contextlib import nullcontext

import numpy as np
import torch
from speechbrain.utils.autocast import AMPConfig, TorchAutocast
from tqdm import tqdm

from speechbrain_ext.dataio.audio import (
    AudioError,
    explain_reading,
    read_audio,
)
from speechbrain_ext.dataio.crops import evenly_spaced_crops, wrap
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
    """Utterances of a manifest, whole or in crops.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, wav, start and stop.
    sample_rate : int
        Sample rate of the signals, Hz. Utterances shorter than 0.1 s are
        repeated up to that length.
    crops : speechbrain_ext.dataio.crops.Crops
        Which crops of each utterance to take; None for whole utterances.
    skip_unreadable : bool
        Whether an utterance that cannot be read gives the reason as
        ``no_speech`` instead of an error.
    """

    def __init__(
        self, manifest, sample_rate=16000, crops=None, skip_unreadable=False
    ):
        # making a row of a pandas table is slow
        self.columns = {
            name: manifest[name].to_numpy()
            for name in ("ID", "wav", "start", "stop")
        }
        self.skip_unreadable = skip_unreadable
        self.crops = crops
        self.sample_rate = sample_rate
        self.min_samples = math.ceil(LEAST_SECONDS * sample_rate)

    def __len__(self):
        """Number of utterances."""
        return len(self.columns["ID"])

    def __getitem__(self, row):
        """Reads one utterance.

        Arguments
        ---------
        row : int
            Row of the manifest.

        Returns
        -------
        dict
            ``id``, ``sig`` [time] or [crops, time], ``row``, and
            ``no_speech``: the reason why the utterance or a crop of it has no
            speech, or ``""``.
        """
        entry = {name: held[row] for name, held in self.columns.items()}
        unreadable = ""
        try:
            signal = self._read(entry)
        except AudioError as error:
            if not self.skip_unreadable:
                raise
            signal, unreadable = torch.zeros(self.min_samples), str(error)
        if self.crops is None:
            (reason,) = no_speech_reasons(signal[None], self.sample_rate)
            if len(signal) < self.min_samples:
                signal = wrap(signal, self.min_samples)
        else:
            samples = round(self.crops.seconds * self.sample_rate)
            signal = evenly_spaced_crops(signal, self.crops.number, samples)
            reasons = no_speech_reasons(signal, self.sample_rate)
            named = (
                f"crop {i}: {why}" for i, why in enumerate(reasons, 1) if why
            )
            reason = next(named, "")
        return {
            "id": entry["ID"],
            "sig": signal,
            "row": row,
            "no_speech": unreadable or reason,
        }

    def _read(self, entry):
        """The samples of one row of the manifest."""
        with explain_reading() if self.skip_unreadable else nullcontext():
            return read_audio(
                entry["wav"],
                int(entry["start"]),
                int(entry["stop"]),
                sample_rate=self.sample_rate,
            )


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
    batch_seconds=16.0,
    num_workers=0,
    rank=0,
    world_size=1,
    sample_rate=16000,
    crops=None,
    skip_unreadable=False,
):
    """Makes a DataLoader of utterances in length-sorted padded batches.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Largest duration of a batch with its padding. On a processor, more
        than about 16 s are slower for wide networks; a GPU needs more,
        such as 600.
    num_workers : int
        Number of processes that read audio; 0 for this process.
    rank : int
        Rank of this process.
    world_size : int
        Number of processes; each gets a part of the batches.
    sample_rate : int
        Sample rate that the model was trained with, Hz.
    crops : speechbrain_ext.dataio.crops.Crops
        Which crops of each utterance to take; None for whole utterances.
    skip_unreadable : bool
        See ``UtteranceDataset``.

    Returns
    -------
    torch.utils.data.DataLoader
        Yields PaddedBatch with ``id``, ``sig``, ``row`` and ``no_speech``.
    """
    durations = manifest["duration"].tolist()
    if crops is not None:
        durations = [crops.number * crops.seconds] * len(manifest)
    return torch.utils.data.DataLoader(
        UtteranceDataset(manifest, sample_rate, crops, skip_unreadable),
        batch_sampler=length_sorted_batches(durations, batch_seconds)[
            rank::world_size
        ],
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
    encoder,
    manifest,
    batch_seconds=16.0,
    num_workers=0,
    share=(0, 1),
    crops=None,
    failures=None,
    precision="fp32",
):
    """Computes embeddings of utterances, or of their crops, batch by batch.

    The audio is resampled to the encoder's sample rate. Utterances without
    speech are skipped and reported after the last batch.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, whose ``encode_batch`` is called.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Largest duration of a batch with its padding. On a processor, more
        than about 16 s are slower for wide networks; a GPU needs more,
        such as 600.
    num_workers : int
        Number of processes that read audio; 0 for this process.
    share : tuple of int
        ``(rank, world_size)``, see ``utterance_loader``.
    crops : speechbrain_ext.dataio.crops.Crops
        Which crops of each utterance to embed; None for whole utterances.
    failures : dict
        Gets the reason for each utterance, by its ID, that cannot be read or
        has no speech, instead of an error. None for errors.
    precision : str
        Of the encoder's layers: ``fp32``, ``bf16`` or ``fp16``. Front end and
        pooling are always computed in float32.

    Yields
    ------
    rows : list of int
        Rows of the manifest.
    embeddings : torch.Tensor
        float32, on the CPU, [rows, embedding], or [rows, crops, embedding].

    Raises
    ------
    AudioError
        If a file cannot be read.
    NoSpeechError
        After the last batch, if utterances or crops have no speech.
    OSError
        If a DataLoader worker has ended or is stuck.
    ValueError
        If there is no such precision.
    """
    rate = encoder_rate(encoder)
    kind = torch.device(encoder.device).type
    dtype = AMPConfig.from_name(precision).dtype
    loader = utterance_loader(
        manifest,
        batch_seconds,
        num_workers,
        *share,
        rate,
        crops,
        failures is not None,
    )
    silent = {} if failures is None else failures
    for batch in ReadableBatches(loader):
        reasons = dict(zip(batch.id, batch.no_speech, strict=True))
        silent.update((name, why) for name, why in reasons.items() if why)
        spoken = torch.tensor([not why for why in batch.no_speech])
        if not spoken.any():
            continue
        wavs, lengths = batch.sig
        if not spoken.all():
            wavs, lengths = wavs[spoken], lengths[spoken]
        if crops is not None:  # each is a signal of its own
            wavs = wavs.flatten(0, 1)
            lengths = lengths.repeat_interleave(crops.number)
        with torch.inference_mode(), TorchAutocast(kind, dtype=dtype):
            found = encoder.encode_batch(wavs, lengths)
            found = found.squeeze(1).float().cpu()
        if crops is not None:
            found = found.unflatten(0, (-1, crops.number))
        yield torch.as_tensor(batch.row)[spoken].tolist(), found
    if silent and failures is None:
        raise NoSpeechError(silent)


def embed_utterances(
    encoder, manifest, batch_seconds=16.0, num_workers=0, progressbar=False
):
    """Computes the embedding of every whole utterance.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, whose ``encode_batch`` is called.
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop.
    batch_seconds : float
        Largest duration of a batch with its padding. On a processor, more
        than about 16 s are slower for wide networks; a GPU needs more,
        such as 600.
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
