"""Losses on cosines, for training speaker encoders.

Every loss keeps SpeechBrain's contract ``(outputs [batch, 1, classes],
targets [batch, 1], length=None) -> scalar``, computes in float32 under
autocast, and lets ``margin`` be set at any time.
"""

import math

import torch
from speechbrain.utils.autocast import fwd_default_precision
from torch.nn.functional import cross_entropy, softplus


def _cosines_and_targets(outputs, targets):
    """Checks the shapes of SpeechBrain's contract and drops their middle.

    Arguments
    ---------
    outputs : torch.Tensor
        Cosines of shape [batch, 1, classes].
    targets : torch.Tensor
        Class numbers of shape [batch, 1].

    Returns
    -------
    cosines : torch.Tensor
        Shape [batch, classes].
    targets : torch.Tensor
        Shape [batch, 1], of type int64.

    Raises
    ------
    ValueError
        If a shape does not fit or a target is no class.
    """
    if outputs.dim() != 3 or outputs.shape[1] != 1 or outputs.shape[0] == 0:
        raise ValueError(
            "`outputs` must be of shape [batch, 1, classes] with a batch of "
            f"at least 1, got {list(outputs.shape)}."
        )
    if targets.shape != outputs.shape[:2]:
        raise ValueError(
            "`targets` must be of shape [batch, 1] with the batch of "
            f"`outputs` ({outputs.shape[0]}), got {list(targets.shape)}."
        )
    classes = outputs.shape[2]
    lowest, highest = (int(value) for value in targets.aminmax())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"`targets` must be in [0, {classes}), got {lowest} to {highest}; "
            "the label map and the classifier do not belong together."
        )
    return outputs.squeeze(1), targets.long()


def _sine(cosines):
    """sqrt(1 - cos^2) whose slope stays finite at cosines of 1 and -1."""
    squared = (1 - cosines) * (1 + cosines)
    return squared.clamp(min=torch.finfo(cosines.dtype).eps).sqrt()


def _shifted_up(cosines, margin):
    """cos(theta + margin), going on linearly where theta + margin > pi.

    As WeSpeaker and the SphereFace2 authors continue it, with
    c - (1 + cos(pi - margin)).
    """
    shifted = cosines * math.cos(margin) - _sine(cosines) * math.sin(margin)
    threshold = math.cos(math.pi - margin)
    return torch.where(cosines > threshold, shifted, cosines - (1 + threshold))


def _check_angle(margin):
    if not 0 <= margin < math.pi / 2:
        raise ValueError(
            "`margin` must be an angle in [0, pi/2) radians, "
            f"got {margin}; pass radians, not degrees."
        )


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
            _check_angle(margin)
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
        cosines, targets = _cosines_and_targets(outputs, targets)
        positive = cosines.gather(1, targets)
        if self.margin_type == "C":
            positive = self._similarity(positive) - self.margin
            negative = self._similarity(cosines) + self.margin
        else:
            positive = self._similarity(_shifted_up(positive, self.margin))
            negative = self._similarity(
                cosines * math.cos(self.margin)
                + _sine(cosines) * math.sin(self.margin)
            )
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


class AAMSoftmax(torch.nn.Module):
    """Softmax with an additive angular margin (ArcFace).

    Deng et al., "ArcFace", CVPR 2019, https://arxiv.org/abs/1801.07698.
    Cross-entropy of s cos(theta_y + m) against s cos(theta_i). Beyond
    theta_y + m = pi the positive goes on as c - (1 + cos(pi - m)), as in
    wespeaker@dfa7419 wespeaker/models/projections.py, which this equals but
    for a finite slope at cosines of 1 and -1.

    Arguments
    ---------
    margin : float
        m, radians, in [0, pi/2).
    scale : float
        s, positive.

    Raises
    ------
    ValueError
        If an argument is outside its range or a shape does not fit.

    Example
    -------
    >>> loss = AAMSoftmax(margin=0.2, scale=32.0)
    >>> cosines = torch.tensor([[[0.9, 0.1]], [[-0.2, 0.8]]])
    >>> loss(cosines, torch.tensor([[0], [1]])).shape
    torch.Size([])
    """

    def __init__(self, margin=0.2, scale=32.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"`scale` must be positive, got {scale}.")
        self.margin = margin
        self.scale = scale

    @property
    def margin(self):
        """The margin in force, radians."""
        return self._margin

    @margin.setter
    def margin(self, margin):
        _check_angle(margin)
        self._margin = margin

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss; arguments and result as SphereFace2's.

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
        cosines, targets = _cosines_and_targets(outputs, targets)
        positive = _shifted_up(cosines.gather(1, targets), self.margin)
        logits = self.scale * cosines.scatter(1, targets, positive)
        return cross_entropy(logits, targets.squeeze(1))
