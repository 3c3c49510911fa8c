"""Seeded batches of a given total duration, for one or several processes."""

import itertools
import math

import numpy as np

from speechbrain_ext.dataio.crops import Draw, drawn_speed
from speechbrain_ext.dataio.samplers import EpochSampler
from speechbrain_ext.utils.seed import stable_seed


class DynamicSampler(EpochSampler):
    """Batches of utterances of similar durations, up to a total duration.

    Utterances are whole, or cut to ``max_seconds``. The duration of a whole
    utterance depends on its speed: 4 s at 0.8 are 5 s. Draws are sorted by
    duration into buckets and shuffled within their bucket. A batch has as many
    draws as fit into ``batch_seconds``, padding included, if each has the
    longest duration of the bucket at the slowest speed. Their number is a
    multiple of ``multiple_of``, so that any number of processes that divides it
    trains on the same batches. Draws that do not fill a batch move to the next
    longer bucket. Those of the last bucket are left out; they are others in
    each epoch.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column duration, seconds; also ID if there are several speeds.
    batch_seconds : float
        Seconds of the global batch, over all processes, padding included.
    seed : int
        Seed of the run.
    max_seconds : float
        Longest crop, seconds; None leaves utterances whole.
    buckets : int
        Number of buckets of about the same size; more buckets mean less
        padding, but also less shuffling.
    min_draws : int
        Draws of an utterance per epoch.
    multiple_of : int
        Divisor of the number of utterances in every batch.
    speeds : list of float
        Speeds of the dataset; each draw has one. None if all have speed 1.
    rank : int
        Number of this process.
    world_size : int
        Number of processes; each gets the same number of utterances.

    Raises
    ------
    ValueError
        If a batch cannot hold enough of the longest utterances, an argument
        is not positive, or an epoch has no batch.

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
        speeds=None,
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
        self.speeds = [1.0] if speeds is None else list(speeds)
        if not self.speeds or not all(speed > 0 for speed in self.speeds):
            raise ValueError(f"`speeds` must be positive, got {speeds}.")
        self.named = speeds is not None
        self.most = np.inf if max_seconds is None else max_seconds
        self.durations = np.asarray(manifest["duration"], dtype=float)
        self.ids = manifest["ID"].to_numpy() if len(self.speeds) > 1 else None
        # the longest duration of each, at the slowest speed
        seconds = np.minimum(self.durations / min(self.speeds), self.most)
        least = math.lcm(multiple_of, world_size)
        if batch_seconds < least * seconds.max():
            raise ValueError(
                f"`batch_seconds` must hold {least} of the longest utterance "
                f"({least * seconds.max():.2f} s), got {batch_seconds}; "
                "set it higher, or `max_seconds` or `multiple_of` lower."
            )
        order = np.argsort(seconds, kind="stable")
        self.draws = [(int(r), n) for r in order for n in range(min_draws)]
        self.buckets, rest = [], 0  # (draws, utterances of a batch, batches)
        for rows in np.array_split(order, min(buckets, len(order))):
            fit = int(batch_seconds / seconds[rows[-1]] + 1e-9)
            size = fit // least * least
            count = len(rows) * min_draws
            batches, rest = divmod(count + rest, size)
            self.buckets.append((count, size, batches))
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
        made, pool, draws = [], [], iter(self._draws())
        for count, size, batches in self.buckets:
            pool = pool + list(itertools.islice(draws, count))
            pool = [pool[i] for i in rng.permutation(len(pool))]
            made += [pool[i * size : (i + 1) * size] for i in range(batches)]
            pool = pool[batches * size :]
        for index in rng.permutation(len(made)):
            yield made[index][self.rank :: self.world_size]

    def _draws(self):
        """The epoch's draws, shortest first.

        The k-th shortest is never longer than the k-th shortest at the slowest
        speed, for which the buckets were made.
        """
        draws = []
        for row, repeat in self.draws:
            speed = self.speeds[0]
            if len(self.speeds) > 1:
                of = self.seed, self.epoch, repeat, self.ids[row]
                speed = self.speeds[drawn_speed(*of, self.speeds)]
            seconds = float(min(self.durations[row] / speed, self.most))
            speed = speed if self.named else None
            draws.append(Draw(row, self.epoch, repeat, seconds, speed))
        return sorted(draws, key=lambda draw: draw.seconds)
