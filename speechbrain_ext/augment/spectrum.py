"""SpecAugment: masks in time and frequency, from a seed per utterance."""

import numpy as np
import torch

from speechbrain_ext.nnet.lengths import frame_counts, keep_framing
from speechbrain_ext.utils.seed import stable_seed


class SpecAugment(torch.nn.Module):
    """Sets some frames and some channels of each utterance to zero.

    Park et al., "SpecAugment", Interspeech 2019,
    https://arxiv.org/abs/1904.08779, without time warping and with WeSpeaker's
    settings. Zero is the mean if the mean was subtracted before. Reference
    code: wespeaker@dfa7419 wespeaker/dataset/dataset_utils.py, spec_aug.
    Difference: the reference (like SpeechBrain and torchaudio) draws one mask
    for the whole batch from the global state; here each utterance has masks
    from its own seed.

    Arguments
    ---------
    probability : float
        Probability that an utterance is masked, in [0, 1].
    time_masks : int
        Number of masks over frames.
    time_width : int
        Largest width of a mask, frames; the smallest is 1.
    frequency_masks : int
        Number of masks over channels.
    frequency_width : int
        Largest width of a mask, channels; the smallest is 1.

    Raises
    ------
    ValueError
        If the probability is outside its range, a number of masks is
        negative, or a width is not positive.

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
                raise ValueError(
                    f"`{name}` must be at least {least}, got {value}."
                )
        self.probability = probability
        self.time_masks = time_masks
        self.time_width = time_width
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width

    def forward(self, features, seeds, lengths=None):
        """Masks a batch.

        Arguments
        ---------
        features : torch.Tensor
            Shape [batch, time, channel].
        seeds : list of int
            Seed of each utterance. It may be the seed of other draws too,
            because a name is added to it here.
        lengths : torch.Tensor
            Relative lengths, shape [batch], so that masks over frames do not
            depend on the padding; None if nothing is padded. They are read
            here: give those of the CPU, or a GPU waits.

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
                f"`seeds` must have one seed for each of the {batch} "
                f"utterances, got {len(seeds)}."
            )
        counts = [time] * batch
        if lengths is not None:
            counts = frame_counts(features, lengths).tolist()
        frames, channels = np.ones((batch, time)), np.ones((batch, channel))
        for row, seed in enumerate(seeds):
            rng = np.random.default_rng(stable_seed(seed, "masks"))
            if rng.random() < self.probability:
                true = frames[row, : counts[row]]
                _mask(true, self.time_masks, self.time_width, rng)
                _mask(
                    channels[row],
                    self.frequency_masks,
                    self.frequency_width,
                    rng,
                )
        frames, channels = (
            torch.from_numpy(kept).to(features, non_blocking=True)
            for kept in (frames[:, :, None], channels[:, None, :])
        )
        return keep_framing(features * frames * channels, features)


def _mask(kept, masks, width, rng):
    """Draws masks with random starts and widths of 1 to ``width``."""
    for _ in range(masks):
        start = rng.integers(len(kept))
        kept[start : start + rng.integers(1, width + 1)] = 0
