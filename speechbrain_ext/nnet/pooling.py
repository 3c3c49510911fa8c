"""Pooling of frames into one vector, exact for padded batches."""

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.lengths import frame_counts, mask_frames


class TemporalStatisticsPooling(torch.nn.Module):
    """Mean and standard deviation over time (TSTP).

    The deviation is sqrt(variance + 1e-7) with the unbiased variance, as in
    wespeaker@dfa7419 wespeaker/models/pooling_layers.py, TSTP. Unlike
    SpeechBrain's StatisticsPooling it adds no noise, and one frame alone
    gives a variance of 0 and not NaN.

    Example
    -------
    >>> pooling = TemporalStatisticsPooling()
    >>> pooling(torch.tensor([[[1.0], [3.0]]])).squeeze()
    tensor([2.0000, 1.4142])
    """

    @fwd_default_precision
    def forward(self, x, lengths=None):
        """Pools over time.

        Arguments
        ---------
        x : torch.Tensor
            Frames of shape [batch, time, channel].
        lengths : torch.Tensor
            Relative lengths of shape [batch], or None.

        Returns
        -------
        torch.Tensor
            Means, then deviations, of shape [batch, 1, 2 * channel].
        """
        frames = frame_counts(x, lengths)
        x = x.transpose(1, 2)  # [batch, channel, time]
        if frames is None:
            count = torch.tensor(x.shape[2], device=x.device)
        else:
            count = frames[:, None]  # [batch, 1]
        mean = mask_frames(x, frames).sum(dim=2) / count
        deviations = mask_frames(x - mean.unsqueeze(2), frames)
        variance = deviations.square().sum(dim=2) / (count - 1).clamp(min=1)
        pooled = torch.cat([mean, (variance + 1e-7).sqrt()], dim=1)
        return pooled.unsqueeze(1)
