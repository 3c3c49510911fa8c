"""Batches by total duration, seeded and aware of the processes."""

import math

import numpy as np

from speechbrain_ext.dataio.crops import Draw, stable_seed
from speechbrain_ext.dataio.samplers import EpochSampler


class DynamicSampler(EpochSampler):
    """Batches of like durations with as many utterances as seconds allow.

    Utterances come whole, or cut to ``max_seconds``. They are sorted into
    buckets by duration and mixed within their bucket; a batch of a bucket has
    as many as fit into ``batch_seconds`` at the bucket's longest, padding
    included, in a multiple of ``multiple_of``: any number of processes that
    divides it trains on the same batches. What does not fill a batch moves on to the next longer bucket,
    and is left out after the last, others each epoch.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column duration, seconds.
    batch_seconds : float
        Seconds of the global batch, over all processes, with its padding.
    seed : int
        Seed of the run.
    max_seconds : float
        Longest crop, seconds; None leaves utterances whole.
    buckets : int
        Buckets of about as many utterances: more of them pad less and mix
        less.
    min_draws : int
        Draws of an utterance an epoch.
    multiple_of : int
        What divides the number of utterances of every batch.
    rank : int
        Number of this process.
    world_size : int
        Number of processes; each gets as many utterances of a batch.

    Raises
    ------
    ValueError
        If a batch cannot hold enough of the longest utterances, an argument is not positive, or an epoch has no batch.

    Example
    -------
    >>> import pandas as pd
    >>> manifest = pd.DataFrame({"duration": [2.0] * 4 + [4.0] * 2})
    >>> sampler = DynamicSampler(manifest, 8.0, seed=0, buckets=3)
    >>> [[draw.seconds for draw in batch] for batch in sampler]
    [[2.0, 2.0, 2.0, 2.0], [4.0, 4.0]]
    """

    def __init__(
        self,
        manifest,
        batch_seconds,
        seed,
        max_seconds=None,
        buckets=10,
        min_draws=1,
        multiple_of=1,
        rank=0,
        world_size=1,
    ):
        super().__init__(seed, rank, world_size)
        for name, value in (
            ("max_seconds", max_seconds),
            ("buckets", buckets),
            ("multiple_of", multiple_of),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if min_draws < 1:
            raise ValueError(
                f"`min_draws` must be at least 1, got {min_draws}."
            )
        seconds = np.asarray(manifest["duration"], dtype=float)
        if max_seconds is not None:
            seconds = np.minimum(seconds, max_seconds)
        least = math.lcm(multiple_of, world_size)
        if batch_seconds < least * seconds.max():
            raise ValueError(
                f"`batch_seconds` must hold {least} of the longest utterance "
                f"({least * seconds.max():.2f} s), got {batch_seconds}; "
                "set it higher, or `max_seconds` or `multiple_of` lower."
            )
        self.seconds = seconds
        order = np.argsort(seconds, kind="stable")
        self.buckets, rest = [], 0  # (draws, utterances of a batch, batches)
        for rows in np.array_split(order, min(buckets, len(order))):
            fit = int(batch_seconds / seconds[rows[-1]] + 1e-9)
            size = fit // least * least
            drawn = [(int(r), n) for r in rows for n in range(min_draws)]
            batches, rest = divmod(len(drawn) + rest, size)
            self.buckets.append((drawn, size, batches))
        self.batches = sum(batches for *_, batches in self.buckets)
        if not self.batches:
            raise ValueError(
                f"`batch_seconds` must be at most what an epoch has, got "
                f"{batch_seconds}; set it lower or `min_draws` higher."
            )

    def __iter__(self):
        """Yields lists of ``Draw``: this process's share of each batch."""
        rng = np.random.default_rng(
            stable_seed(self.seed, self.epoch, "dynamic order")
        )
        made, pool = [], []
        for drawn, size, batches in self.buckets:
            pool = pool + drawn
            pool = [pool[i] for i in rng.permutation(len(pool))]
            made += [pool[i * size : (i + 1) * size] for i in range(batches)]
            pool = pool[batches * size :]
        for index in rng.permutation(len(made)):
            yield [
                Draw(row, self.epoch, repeat, float(self.seconds[row]))
                for row, repeat in made[index][self.rank :: self.world_size]
            ]
