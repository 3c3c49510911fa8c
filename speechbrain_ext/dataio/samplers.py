"""Seeded batch samplers for one or several processes.

A sampler yields a list of ``Draw`` tuples for each batch; ``CropDataset``
derives everything random from them. Its length is known before the epoch and
is the same on every process.
"""

import numpy as np
import torch

from speechbrain_ext.dataio.crops import Draw
from speechbrain_ext.utils.seed import stable_seed


class EpochSampler(torch.utils.data.Sampler):
    """Base of the samplers, with an epoch and a known length.

    A subclass sets ``batches`` in its constructor, and draws only from (seed,
    epoch).

    Arguments
    ---------
    seed : int
        Seed of the run.
    rank : int
        Number of this process.
    world_size : int
        Number of processes.
    """

    def __init__(self, seed, rank=0, world_size=1):
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 1

    def set_epoch(self, epoch):
        """Sets the epoch whose batches come next.

        Arguments
        ---------
        epoch : int
            Counted from 1, as SpeechBrain's EpochCounter does.
        """
        self.epoch = epoch

    def __len__(self):
        """Batches per epoch, the same on every process."""
        return self.batches


class CropSampler(EpochSampler):
    """Random batches; each utterance once per epoch, or more if it is long.

    Draws that do not fill a last batch are left out; they differ between
    epochs.
    For storage with slow random access, an epoch can draw from a few shards at
    a time: the shards come in a random order, and so do their utterances.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column duration, seconds; also shard if ``shards_at_once`` is set.
    batch_size : int
        Utterances of the global batch, over all processes.
    seed : int
        Seed of the run.
    seconds_per_draw : float
        An utterance is drawn once for this many of its seconds; None draws
        each utterance ``min_draws`` times.
    min_draws : int
        The fewest draws of an utterance per epoch.
    shards_at_once : int
        Shards to draw from at a time; None for all.
    rank : int
        Number of this process.
    world_size : int
        Number of processes; the batch must be a multiple of it.

    Raises
    ------
    ValueError
        If the batch is larger than an epoch or cannot be divided, or the
        utterances are not in shards.

    Example
    -------
    >>> import pandas as pd
    >>> manifest = pd.DataFrame({"duration": [2.0, 2.0, 2.0]})
    >>> sampler = CropSampler(manifest, batch_size=2, seed=0)
    >>> len(sampler), len(list(sampler)[0])
    (1, 2)
    """

    def __init__(
        self,
        manifest,
        batch_size,
        seed,
        seconds_per_draw=None,
        min_draws=1,
        shards_at_once=None,
        rank=0,
        world_size=1,
    ):
        super().__init__(seed, rank, world_size)
        self.shard = None
        if shards_at_once is not None:
            if shards_at_once < 1 or "shard" not in manifest:
                raise ValueError(
                    "`shards_at_once` must be 1 or more and needs `shards`, "
                    f"got {shards_at_once}."
                )
            self.shard = manifest["shard"].to_numpy()
        self.shards_at_once = shards_at_once
        if batch_size < 1 or batch_size % world_size != 0:
            raise ValueError(
                "`batch_size` is the global batch and must be a positive "
                f"multiple of the {world_size} processes, got {batch_size}."
            )
        draws = _draws(manifest, seconds_per_draw, min_draws)
        # 32 bits: an epoch of millions of draws is held for the whole run
        self.rows = np.repeat(np.arange(len(draws), dtype=np.int32), draws)
        first = np.repeat(np.cumsum(draws) - draws, draws)
        self.repeats = (np.arange(len(self.rows)) - first).astype(np.int32)
        if len(self.rows) < batch_size:
            raise ValueError(
                f"`batch_size` must be at most the {len(self.rows)} draws of "
                f"an epoch, got {batch_size}; set it lower or `min_draws` "
                "higher."
            )
        self.batch_size = batch_size
        self.batches = len(self.rows) // batch_size

    def __iter__(self):
        """Yields lists of ``Draw``: this process's share of each batch."""
        rng = np.random.default_rng(stable_seed(self.seed, self.epoch, "order"))
        order = rng.permutation(len(self.rows))
        if self.shard is not None:  # a stable sort keeps the order within
            turns = rng.permutation(self.shard.max() + 1)
            turns = turns[self.shard[self.rows[order]]] // self.shards_at_once
            order = order[np.argsort(turns, kind="stable")]
        for batch in range(len(self)):
            chosen = order[batch * self.batch_size :][: self.batch_size]
            yield [
                Draw(int(self.rows[i]), self.epoch, int(self.repeats[i]))
                for i in chosen[self.rank :: self.world_size]
            ]


class BalancedSampler(EpochSampler):
    """Batches of P different speakers with K utterances each.

    For metric losses and, with K = 1, for the others of "In defence of metric
    learning" (Chung et al., 2020, https://arxiv.org/abs/2003.11982).
    The draws of a speaker, counted as in ``CropSampler``, are put into groups
    of K, if possible of different utterances. A batch has at most one group of
    a speaker. Every speaker occurs in every epoch; one with fewer than K draws
    is drawn K times. To fill the batches, groups are added or left out at
    random, but never the only group of a speaker. A speaker has at most as
    many groups as the epoch has batches.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns duration (seconds) and spk_id.
    batch_size : int
        Utterances of the global batch, over all processes: P times K.
    seed : int
        Seed of the run.
    utterances_per_speaker : int
        K; a metric loss needs at least 2.
    seconds_per_draw : float
        An utterance is drawn once for this many of its seconds; None draws
        each utterance ``min_draws`` times.
    min_draws : int
        The fewest draws of an utterance per epoch.
    max_per_speaker : int
        The most draws of a speaker per epoch; others are drawn in each epoch.
        Filling the last batch can add a group. None for no limit; at least K.
    rank : int
        Number of this process.
    world_size : int
        Number of processes; P must be a multiple of it.

    Raises
    ------
    ValueError
        If the batch cannot be divided, there are fewer than P speakers, or
        ``max_per_speaker`` is below K.

    Example
    -------
    >>> import pandas as pd
    >>> manifest = pd.DataFrame(
    ...     {"duration": [2.0] * 6, "spk_id": list("aabbcc")}
    ... )
    >>> sampler = BalancedSampler(manifest, batch_size=4, seed=0)
    >>> len(sampler), [len(batch) for batch in sampler]
    (2, [4, 4])
    """

    def __init__(
        self,
        manifest,
        batch_size,
        seed,
        utterances_per_speaker=2,
        seconds_per_draw=None,
        min_draws=1,
        max_per_speaker=None,
        rank=0,
        world_size=1,
    ):
        super().__init__(seed, rank, world_size)
        if utterances_per_speaker < 1:
            raise ValueError(
                "`utterances_per_speaker` must be at least 1, "
                f"got {utterances_per_speaker}."
            )
        most = np.inf if max_per_speaker is None else max_per_speaker
        if not most >= utterances_per_speaker:
            raise ValueError(
                "`max_per_speaker` must be at least the "
                f"{utterances_per_speaker} utterances that a batch takes of a "
                f"speaker, got {max_per_speaker}."
            )
        whole = world_size * utterances_per_speaker
        if batch_size < 1 or batch_size % whole != 0:
            raise ValueError(
                "`batch_size` is the global batch and must be a positive "
                f"multiple of {whole} ({world_size} processes times "
                f"{utterances_per_speaker} utterances of a speaker), "
                f"got {batch_size}."
            )
        draws = _draws(manifest, seconds_per_draw, min_draws)
        speakers = np.unique(manifest["spk_id"].to_numpy(), return_inverse=True)
        order = np.argsort(speakers[1], kind="stable")
        ends = np.cumsum(np.bincount(speakers[1]))[:-1]
        # of each speaker: rows of the manifest, and the draws of each
        self.speakers = [(r, draws[r]) for r in np.split(order, ends)]
        self.per_batch = batch_size // utterances_per_speaker
        if len(self.speakers) < self.per_batch:
            raise ValueError(
                f"`batch_size` must be at most {utterances_per_speaker} times "
                f"the {len(self.speakers)} speakers, got {batch_size}."
            )
        self.utterances_per_speaker = utterances_per_speaker
        drawn = np.minimum([n.sum() for _, n in self.speakers], most)
        groups = (drawn // utterances_per_speaker).astype(int)
        groups = np.maximum(groups, 1)
        # enough batches for every speaker to come, and as many as can be
        # filled with different speakers
        batches = -(-len(groups) // self.per_batch)
        while np.minimum(groups, batches + 1).sum() >= self.per_batch * (
            batches + 1
        ):
            batches += 1
        self.batches = int(batches)
        self.groups = np.minimum(groups, self.batches)

    def __iter__(self):
        """Yields lists of ``Draw``: this process's speakers of each batch."""
        seed = stable_seed(self.seed, self.epoch, "balanced order")
        rng = np.random.default_rng(seed)
        groups = self._filling(rng)
        batches = [[] for _ in range(self.batches)]
        place = 0
        # a speaker's groups follow each other, one batch after another: they
        # are no more than the batches, so that they never meet
        for speaker in rng.permutation(len(groups)):
            for group in self._grouped(speaker, groups[speaker], rng):
                batches[place % self.batches].append(group)
                place += 1
        for index in rng.permutation(self.batches):
            mine = batches[index][self.rank :: self.world_size]
            yield [draw for group in mine for draw in group]

    def _filling(self, rng):
        """How many groups of each speaker fill the batches of an epoch."""
        groups = self.groups.copy()
        missing = self.batches * self.per_batch - groups.sum()
        while missing:
            if missing > 0:
                some = np.flatnonzero(groups < self.batches)
            else:
                some = np.flatnonzero(groups > 1)
            some = rng.permutation(some)[: abs(missing)]
            groups[some] += np.sign(missing)
            missing = self.batches * self.per_batch - groups.sum()
        return groups

    def _grouped(self, speaker, groups, rng):
        """Groups of a speaker's draws, different utterances in each."""
        rows, draws = self.speakers[speaker]
        wanted = groups * self.utterances_per_speaker
        # more rounds over its utterances where there are too few draws
        draws = draws * -(-wanted // draws.sum())
        shuffled = rng.permutation(len(rows))
        every = [
            Draw(int(rows[i]), self.epoch, repeat)
            for i in shuffled
            for repeat in range(int(draws[i]))
        ]
        chosen = np.sort(rng.permutation(len(every))[:wanted])
        kept = [every[i] for i in chosen]
        # an utterance's draws follow each other and so go to other groups
        return [kept[group::groups] for group in range(groups)]


def _draws(manifest, seconds_per_draw, min_draws):
    """How often an epoch draws each utterance."""
    if min_draws < 1:
        raise ValueError(f"`min_draws` must be at least 1, got {min_draws}.")
    durations = np.asarray(manifest["duration"])
    if seconds_per_draw is None:
        draws = np.ones(len(durations), dtype=np.int64)
    elif seconds_per_draw > 0:
        draws = np.floor(durations / seconds_per_draw + 0.5).astype(np.int64)
    else:
        raise ValueError(
            "`seconds_per_draw` must be positive seconds or None, "
            f"got {seconds_per_draw}."
        )
    return np.maximum(draws, min_draws)
