"""SphereFace2: binary classification of every class."""

import math

import torch
from speechbrain.utils.autocast import fwd_default_precision
from torch.nn.functional import softplus

from speechbrain_ext.nnet.losses.angles import (
    check_angle,
    shifted_down,
    shifted_up,
)
from speechbrain_ext.nnet.losses.contract import cosines_and_targets


class SphereFace2(torch.nn.Module):
    """Binary classification of every class, with a margin on both sides.

    Han, Chen, Qian, "Exploring Binary Classification Loss for Speaker
    Verification", ICASSP 2023, https://arxiv.org/abs/2307.08205. With the
    cosine c_i to class i, the true class y and
    g(z) = 2 ((z + 1) / 2) ** t - 1, the mean over the batch of

        lambda * softplus(-z_y) + (1 - lambda) * sum_{i != y} softplus(z_i)

        C: z_y = s (g(c_y) - m) + b            z_i = s (g(c_i) + m) + b
        A: z_y = s g(cos(theta_y + m)) + b     z_i = s g(cos(theta_i - m)) + b

    The gradient flows through g and the margin, and the bias b is one
    learnable number that starts at 0, as in the authors' code
    (Hunterhuan/sphereface2_speaker_verification@b9edada projections.py),
    which this equals. Differences: softplus in the place of log(1 + exp), so
    that nothing overflows; a finite slope at cosines of 1 and -1.

    Arguments
    ---------
    margin_type : str
        "C" (margin on the cosine) or "A" (margin on the angle).
    margin : float
        m: a difference of similarities in [0, 2) for C, an angle in
        [0, pi/2) radians for A. Published: 0.2 (C) and 0.15 (A).
    scale : float
        s, positive.
    positive_weight : float
        lambda in (0, 1), the weight of the true class.
    exponent : float
        t, at least 1: how far g pulls similarities apart.

    Raises
    ------
    ValueError
        If an argument is outside its range or a shape does not fit.

    Example
    -------
    >>> loss = SphereFace2(margin_type="C", margin=0.2)
    >>> cosines = torch.tensor([[[0.9, 0.1]], [[-0.2, 0.8]]])
    >>> loss(cosines, torch.tensor([[0], [1]])).shape
    torch.Size([])
    """

    def __init__(
        self,
        margin_type="C",
        margin=0.2,
        scale=32.0,
        positive_weight=0.7,
        exponent=3,
    ):
        super().__init__()
        if margin_type not in ("C", "A"):
            raise ValueError(
                f"`margin_type` must be 'C' or 'A', got {margin_type!r}."
            )
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, got {scale}.")
        if not 0 < positive_weight < 1:
            raise ValueError(
                f"`positive_weight` must be in (0, 1), got {positive_weight}."
            )
        if not exponent >= 1:
            raise ValueError(f"`exponent` must be at least 1, got {exponent}.")
        self.margin_type = margin_type
        self.scale = scale
        self.positive_weight = positive_weight
        self.exponent = exponent
        self.margin = margin
        self.bias = torch.nn.Parameter(torch.zeros(1))

    @property
    def margin(self):
        """The margin in force, of the unit of ``margin_type``."""
        return self._margin

    @margin.setter
    def margin(self, margin):
        if self.margin_type == "A":
            check_angle(margin)
        elif not 0 <= margin < 2:
            raise ValueError(
                "`margin` must be a difference of similarities in [0, 2), "
                f"got {margin}."
            )
        self._margin = margin

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Cosines of shape [batch, 1, classes].
        targets : torch.Tensor
            Class numbers of shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The mean loss over the batch, a scalar.
        """
        cosines, targets = cosines_and_targets(outputs, targets)
        positive = cosines.gather(1, targets)
        if self.margin_type == "C":
            positive = self._similarity(positive) - self.margin
            negative = self._similarity(cosines) + self.margin
        else:
            positive = self._similarity(shifted_up(positive, self.margin))
            negative = self._similarity(shifted_down(cosines, self.margin))
        # the true class is no negative: softplus(-inf) is 0, with slope 0
        negative = (self.scale * negative + self.bias).scatter(
            1, targets, -math.inf
        )
        positive = softplus(-(self.scale * positive + self.bias)).mean()
        negative = softplus(negative).sum(dim=1).mean()
        return (
            self.positive_weight * positive
            + (1 - self.positive_weight) * negative
        )

    def _similarity(self, cosines):
        """The similarity adjustment g of the paper."""
        half = (cosines + 1) / 2
        if self.exponent != int(self.exponent):
            half = half.clamp(min=0)  # rounding may leave it below 0
        return 2 * half**self.exponent - 1
