"""Random crops for training, and evenly spaced crops for tests.

All random draws depend only on (seed, epoch, utterance): a sampler yields
``Draw`` tuples, and the dataset derives everything random from them. They are
the same for any number of workers.
"""

from collections import namedtuple

import numpy as np
import torch

from speechbrain_ext.dataio.audio import read_audio
from speechbrain_ext.utils.seed import stable_seed

# `seconds` and `speed` of the crop; None for the length of the dataset, and for
# a speed that the dataset draws
Draw = namedtuple(
    "Draw", ["row", "epoch", "repeat", "seconds", "speed"], defaults=[None] * 2
)
# How many evenly spaced crops an utterance has, and the length of each
Crops = namedtuple("Crops", ["number", "seconds"])


def drawn_speed(seed, epoch, repeat, utterance, speeds):
    """Draws the speed of a crop.

    Arguments
    ---------
    seed : int
        Seed of the run.
    epoch : int
        The epoch.
    repeat : int
        Number of this draw among those of the utterance in the epoch.
    utterance : str
        ID of the utterance.
    speeds : list of float
        The speeds.

    Returns
    -------
    int
        Index in the list.

    Example
    -------
    >>> drawn_speed(1986, 1, 0, "id10001/x/00001", [1.0, 0.9, 1.1])
    0
    """
    drawn = stable_seed(stable_seed(seed, epoch, repeat, utterance), "speed")
    return drawn % len(speeds)


class CropDataset(torch.utils.data.Dataset):
    """Crops of utterances; only the crop is read from a file.

    All crops have the same length, unless a draw has its own. Utterances that
    are shorter are repeated up to that length. A crop may be silent, as pauses
    are.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Columns ID, duration, wav, start and stop, as
        ``dataio.manifests.read_manifest`` returns them.
    labels : list of int
        Class number of each row, [rows]; for several speeds one per speed,
        [rows, speeds].
    sentence_len : float
        Length of a crop, seconds.
    seed : int
        Seed of the run.
    sample_rate : int
        Samples per second of the crops.
    speeds : list of float
        Speeds; each draw has one of them. A voice at another speed is another
        speaker (WeSpeaker, 3D-Speaker): with 0.9 and 1.1 each speaker has
        three classes.
    augment : callable
        Changes a crop [time] by a seed
        (``speechbrain_ext.augment.noise.NoiseAndReverberation``), or None.
    deferred : bool
        Whether to return the crop and its noise and response separately, so
        that ``augment.apply`` can change a whole batch at once.

    Raises
    ------
    ValueError
        If the labels do not match rows and speeds, or the length or a speed
        is not positive.
    """

    def __init__(
        self,
        manifest,
        labels,
        sentence_len,
        seed,
        sample_rate=16000,
        speeds=(1.0,),
        augment=None,
        deferred=False,
    ):
        if len(labels) != len(manifest):
            raise ValueError(
                f"`labels` must be one per row of the manifest "
                f"({len(manifest)}), got {len(labels)}."
            )
        if not speeds or not all(speed > 0 for speed in speeds):
            raise ValueError(f"`speeds` must be positive, got {speeds}.")
        labels = np.asarray(labels, dtype=np.int64).reshape(len(manifest), -1)
        if labels.shape[1] != len(speeds):
            raise ValueError(
                f"`labels` must be one for each of the {len(speeds)} speeds, "
                f"got {labels.shape[1]}."
            )
        if not sentence_len > 0:
            raise ValueError(
                f"`sentence_len` must be positive seconds, got {sentence_len}."
            )
        self.manifest = {key: manifest[key].to_numpy() for key in manifest}
        self.labels = labels
        self.speeds = list(speeds)
        self.augment = augment
        self.deferred = deferred and augment is not None
        self.sentence_len = sentence_len
        self.seed = seed
        self.sample_rate = sample_rate

    def __len__(self):
        """Number of utterances."""
        return len(self.labels)

    def __getitem__(self, draw):
        """Reads one crop.

        Arguments
        ---------
        draw : Draw
            Row of the manifest, epoch, number of the draw of this utterance in
            this epoch, and length and speed of the crop, or None.

        Returns
        -------
        dict
            ``id``, ``row`` in the manifest, ``sig`` [time], ``spk_id_encoded``
            [1], and ``seed`` for later augmentation. If augmentation is
            deferred, also ``noise`` [time] and ``response`` [taps]; zeros for
            none.

        Raises
        ------
        AudioError
            If the file cannot be read.
        ValueError
            If the draw has a length but no speed, or a speed that the dataset
            does not have.
        """
        utterance = self.manifest["ID"][draw.row]
        seed = stable_seed(self.seed, draw.epoch, draw.repeat, utterance)
        rng = np.random.default_rng(seed)
        start = int(self.manifest["start"][draw.row])
        stop = int(self.manifest["stop"][draw.row])
        file_rate = round((stop - start) / self.manifest["duration"][draw.row])
        which = self._speed(draw, utterance)
        speed = self.speeds[which]
        seconds = draw.seconds or self.sentence_len
        wanted = round(seconds * file_rate * speed)
        if stop - start > wanted:
            start += int(rng.integers(stop - start - wanted + 1))
            stop = start + wanted
        signal = read_audio(
            self.manifest["wav"][draw.row],
            start,
            stop,
            sample_rate=self.sample_rate,
            file_rate=file_rate,
            speed=speed,
        )
        signal = wrap(signal, round(seconds * self.sample_rate))
        deferred = {}
        if self.deferred:
            drawn = self.augment.draw(len(signal), stable_seed(seed, "augment"))
            sizes = (("noise", len(signal)), ("response", 1))
            for (name, size), value in zip(sizes, drawn, strict=True):
                deferred[name] = torch.zeros(size) if value is None else value
        elif self.augment is not None:
            signal = self.augment(signal, stable_seed(seed, "augment"))
        return {
            "id": utterance,
            "row": int(draw.row),
            "sig": signal,
            "spk_id_encoded": torch.from_numpy(
                self.labels[draw.row, which : which + 1]
            ),
            "seed": stable_seed(seed, "signal"),
            **deferred,
        }

    def _speed(self, draw, utterance):
        """Index of the draw's speed in the list of the dataset."""
        if draw.speed is None:
            if draw.seconds is not None and self.speeds != [1.0]:
                raise ValueError(
                    f"The dataset has the `speeds` {self.speeds}, but the "
                    "sampler, which names the length of each crop, does not "
                    "know them; give it `speeds: !ref <speeds>`."
                )
            return drawn_speed(
                self.seed, draw.epoch, draw.repeat, utterance, self.speeds
            )
        if draw.speed not in self.speeds:
            raise ValueError(
                f"The sampler drew the speed {draw.speed}, which is not among "
                f"the dataset's `speeds` {self.speeds}; give both the same."
            )
        return self.speeds.index(draw.speed)


def wrap(signal, samples):
    """Repeats or cuts a signal to a given length.

    Arguments
    ---------
    signal : torch.Tensor
        Shape [time], at least one sample.
    samples : int
        Samples wanted.

    Returns
    -------
    torch.Tensor
        Shape [samples].

    Example
    -------
    >>> wrap(torch.tensor([1.0, 2.0]), 5)
    tensor([1., 2., 1., 2., 1.])
    """
    repeats = -(-samples // len(signal))
    if repeats > 1:
        signal = signal.repeat(repeats)
    return signal[:samples]


def evenly_spaced_crops(signal, number, samples):
    """Cuts crops of equal length from the beginning to the end of a signal.

    They are the crops of Clova's trainer in evaluation (``loadWAV`` of
    voxceleb_trainer@f51bab8). A signal that is not longer than a crop is
    repeated up to one sample more, as there.

    Arguments
    ---------
    signal : torch.Tensor
        Shape [time], at least one sample.
    number : int
        Number of crops, 1 or more. The first is at the beginning of the signal
        and the last at its end.
    samples : int
        Samples of a crop, 1 or more.

    Returns
    -------
    torch.Tensor
        Shape [crops, samples].

    Raises
    ------
    ValueError
        If ``number`` or ``samples`` is less than 1.

    Example
    -------
    >>> evenly_spaced_crops(torch.arange(7), number=3, samples=4).tolist()
    [[0, 1, 2, 3], [1, 2, 3, 4], [3, 4, 5, 6]]
    >>> evenly_spaced_crops(torch.arange(3), number=2, samples=4).tolist()
    [[0, 1, 2, 0], [1, 2, 0, 1]]
    """
    for name, value in (("number", number), ("samples", samples)):
        if value < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {value}.")
    if len(signal) <= samples:
        signal = wrap(signal, samples + 1)
    starts = np.linspace(0, len(signal) - samples, number).astype(int)
    return signal.unfold(0, samples, 1)[starts]
