"""Masks in time and frequency, drawn for each utterance by its own seed."""

import numpy as np
import torch

from speechbrain_ext.nnet.lengths import keep_framing
from speechbrain_ext.utils.seed import stable_seed


class SpecAugment(torch.nn.Module):
    """Sets some frames and some channels of each utterance to zero.

    Park et al., "SpecAugment", Interspeech 2019,
    https://arxiv.org/abs/1904.08779, without time warping, as WeSpeaker sets
    it up. Zero is the mean where the mean was subtracted before. Reference
    code: wespeaker@dfa7419 wespeaker/dataset/dataset_utils.py, spec_aug.
    Difference: there one mask is drawn for the whole batch from a global
    state (as SpeechBrain's and torchaudio's are), here for each utterance
    from its seed. The masks are put on in one product on the device of the
    features.

    Arguments
    ---------
    probability : float
        How often an utterance is masked, in [0, 1].
    time_masks : int
        Masks of frames.
    time_width : int
        Frames of the widest mask; each is 1 to that many wide.
    frequency_masks : int
        Masks of channels.
    frequency_width : int
        Channels of the widest mask.

    Raises
    ------
    ValueError
        If the probability is outside its range, a number of masks negative,
        or a width not positive.

    Example
    -------
    >>> augment = SpecAugment(probability=1.0)
    >>> masked = augment(torch.ones(2, 200, 80), seeds=[1, 2])
    >>> torch.equal(masked[0], masked[1])
    False
    """

    def __init__(
        self,
        probability=0.6,
        time_masks=1,
        time_width=10,
        frequency_masks=1,
        frequency_width=8,
    ):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(
                f"`probability` must be in [0, 1], got {probability}."
            )
        for name, value, least in (
            ("time_masks", time_masks, 0),
            ("time_width", time_width, 1),
            ("frequency_masks", frequency_masks, 0),
            ("frequency_width", frequency_width, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be {least} or more: {value}.")
        self.probability = probability
        self.time_masks = time_masks
        self.time_width = time_width
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width

    def forward(self, features, seeds):
        """Masks a batch.

        Arguments
        ---------
        features : torch.Tensor
            Shape [batch, time, channel].
        seeds : list of int
            Seed of each utterance, the same as for its other draws: the name
            of what is drawn goes into it.

        Returns
        -------
        torch.Tensor
            Shape [batch, time, channel].

        Raises
        ------
        ValueError
            If there is not one seed for each utterance.
        """
        batch, time, channel = features.shape
        if len(seeds) != batch:
            raise ValueError(
                f"`seeds` must be one for each of the {batch} utterances, "
                f"got {len(seeds)}."
            )
        frames, channels = np.ones((batch, time)), np.ones((batch, channel))
        for row, seed in enumerate(seeds):
            rng = np.random.default_rng(stable_seed(seed, "masks"))
            if rng.random() < self.probability:
                _mask(frames[row], self.time_masks, self.time_width, rng)
                _mask(
                    channels[row],
                    self.frequency_masks,
                    self.frequency_width,
                    rng,
                )
        frames = torch.from_numpy(frames).to(features)[:, :, None]
        channels = torch.from_numpy(channels).to(features)[:, None, :]
        return keep_framing(features * frames * channels, features)


def _mask(kept, masks, width, rng):
    """Draws masks of 1 to ``width`` that begin anywhere."""
    for _ in range(masks):
        start = rng.integers(len(kept))
        kept[start : start + rng.integers(1, width + 1)] = 0
