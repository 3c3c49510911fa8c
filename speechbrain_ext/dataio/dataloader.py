"""Batches that go on where a run was stopped."""

import itertools

import torch


class ResumableBatches(torch.utils.data.Sampler):
    """A batch sampler that can begin behind some of its batches.

    Nothing of the skipped batches is read.

    Arguments
    ---------
    sampler : torch.utils.data.Sampler
        What yields the batches of an epoch, the same ones each time; it has
        ``set_epoch``.

    Example
    -------
    >>> batches = ResumableBatches([[0, 1], [2, 3], [4, 5]])
    >>> batches.start = 2
    >>> list(batches), len(batches)
    ([[4, 5]], 3)
    """

    def __init__(self, sampler):
        self.sampler = sampler
        self.start = 0

    def set_epoch(self, epoch):
        """Sets the epoch whose batches come next.

        Arguments
        ---------
        epoch : int
            Counted from 1, as SpeechBrain's EpochCounter does.
        """
        self.sampler.set_epoch(epoch)

    def __len__(self):
        """Batches of a whole epoch."""
        return len(self.sampler)

    def __iter__(self):
        """Yields the batches from ``start`` on."""
        yield from itertools.islice(self.sampler, self.start, None)
