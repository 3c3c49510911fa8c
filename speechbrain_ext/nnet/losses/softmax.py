"""Softmax losses: plain, with an additive margin, with an angular one."""

import torch
from torch.nn.functional import cross_entropy, pad

from speechbrain_ext.nnet.losses.angles import (
    check_angle,
    check_continuation,
    cos_minus_margin,
    cos_plus_margin,
)
from speechbrain_ext.nnet.losses.base import ClassificationLoss
from speechbrain_ext.utils.distributed import all_gather, all_reduce_sum, rank


class Softmax(ClassificationLoss):
    """Cross-entropy of a linear layer's logits, without any margin.

    Its classifier is ``speechbrain_ext.nnet.classifiers.LinearClassifier``.
    Reference code: clovaai/voxceleb_trainer@f51bab8 loss/softmax.py.

    Example
    -------
    >>> loss = Softmax()
    >>> loss(torch.zeros(3, 1, 2), torch.tensor([[0], [1], [1]]))
    tensor(0.6931)
    """

    largest_cosine = None  # logits

    def _loss(self, cosines, targets, shares=None):
        return _cross_entropy(cosines, targets, shares)

    def _shard_loss(self, cosines, targets, rows, columns, shares=None):
        return _shard_cross_entropy(cosines, rows, columns, shares)


class AMSoftmax(ClassificationLoss):
    """Softmax with an additive margin on the cosine (CosFace).

    Wang et al., "Additive Margin Softmax for Face Verification", 2018,
    https://arxiv.org/abs/1801.05599. Cross-entropy of s (cos(theta_y) - m)
    against s cos(theta_i). Reference code: wespeaker@dfa7419
    wespeaker/models/projections.py, AddMarginProduct.

    Arguments
    ---------
    margin : float
        m, a difference of cosines in [0, 2).
    scale : float
        s, positive.

    Raises
    ------
    ValueError
        If an argument is outside its range or a shape does not fit.

    Example
    -------
    >>> loss = AMSoftmax(margin=0.2, scale=30.0)
    >>> cosines = torch.tensor([[[0.9, 0.1]], [[-0.2, 0.8]]])
    >>> loss(cosines, torch.tensor([[0], [1]])).shape
    torch.Size([])
    """

    def __init__(self, margin=0.2, scale=30.0):
        super().__init__()
        _check_scale(scale)
        self.margin = margin
        self.scale = scale

    @property
    def margin(self):
        """The current margin, a difference of cosines."""
        return self._margin

    @margin.setter
    def margin(self, margin):
        if not 0 <= margin < 2:
            raise ValueError(
                "`margin` must be a difference of cosines in [0, 2), "
                f"got {margin}."
            )
        self._margin = margin

    def _loss(self, cosines, targets, shares=None):
        positive = cosines.gather(1, targets) - self.margin
        logits = self.scale * cosines.scatter(1, targets, positive)
        return _cross_entropy(logits, targets, shares)

    def _shard_loss(self, cosines, targets, rows, columns, shares=None):
        positive = cosines[rows, columns] - self.margin
        logits = self.scale * cosines.index_put((rows, columns), positive)
        return _shard_cross_entropy(logits, rows, columns, shares)


class AAMSoftmax(ClassificationLoss):
    """Softmax with an additive angular margin (ArcFace).

    Deng et al., "ArcFace", CVPR 2019, https://arxiv.org/abs/1801.07698.
    Cross-entropy of s cos(theta_y + m) against s cos(theta_i). Beyond
    theta_y + m = pi, cos(theta_y + m) would rise again, so the true class
    continues linearly. There are two published forms: c - (1 + cos(pi - m))
    in WeSpeaker, and c - m sin(pi - m) in the code of ArcFace's authors, in
    Clova's trainer and in Open Speaker Verification. Reference code:
    wespeaker@dfa7419 wespeaker/models/projections.py,
    clovaai/voxceleb_trainer@8d03f1b loss/arcface.py,
    1017549629/open-speaker-verification@0d415d5 mmcls/models/heads/aam_head.py.
    Difference: the slope stays finite at cosines of 1 and -1.

    ``top_k`` is the inter-top-k penalty (Zhao et al., 2021,
    https://arxiv.org/abs/2110.05042): the highest cosines of other classes
    become cos(theta_i - p). p is ``top_k_penalty`` times margin / 0.2, so it
    grows with the margin. WeSpeaker uses it with three sub-centers a class
    (``CosineClassifier(sub_centers=3)``).

    Arguments
    ---------
    margin : float
        m, radians, in [0, pi/2).
    scale : float
        s, positive.
    top_k : int
        Number of other classes with a penalty; 0 for none.
    top_k_penalty : float
        p at a margin of 0.2, radians, in [0, pi/2).
    continuation : str
        Form of the true class beyond pi: ``wespeaker`` or ``arcface``.

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

    def __init__(
        self,
        margin=0.2,
        scale=32.0,
        top_k=0,
        top_k_penalty=0.0,
        continuation="wespeaker",
    ):
        super().__init__()
        _check_scale(scale)
        check_continuation(continuation)
        if top_k < 0:
            raise ValueError(f"`top_k` must be 0 or more, got {top_k}.")
        check_angle(top_k_penalty, "top_k_penalty")
        self.top_k = top_k
        self.top_k_penalty = top_k_penalty
        self.continuation = continuation
        self.margin = margin
        self.scale = scale

    @property
    def margin(self):
        """The current margin, radians."""
        return self._margin

    @margin.setter
    def margin(self, margin):
        check_angle(margin)
        self._margin = margin

    def _loss(self, cosines, targets, shares=None):
        positive = self._positive(cosines.gather(1, targets))
        top_k = min(self.top_k, cosines.shape[1] - 1)
        if top_k:
            cosines = self._penalised(cosines, targets, top_k)
        logits = self.scale * cosines.scatter(1, targets, positive)
        return _cross_entropy(logits, targets, shares)

    def _shard_loss(self, cosines, targets, rows, columns, shares=None):
        positive = self._positive(cosines[rows, columns])
        top_k = min(self.top_k, self.shard.classes - 1)
        if top_k:
            cosines = self._shard_penalised(cosines, rows, columns, top_k)
        logits = self.scale * cosines.index_put((rows, columns), positive)
        return _shard_cross_entropy(logits, rows, columns, shares)

    def _positive(self, cosines):
        """True classes with their margin."""
        return cos_plus_margin(cosines, self.margin, self.continuation)

    def _shard_penalised(self, cosines, rows, columns, top_k):
        """Penalises those of the nearest other classes that are here."""
        lowest = cosines.new_full((), -torch.inf)
        others = cosines.detach().index_put((rows, columns), lowest)
        values, nearest = others.topk(min(top_k, others.shape[1]), dim=1)
        missing = top_k - values.shape[1]
        every = pad(values, (0, missing), value=-torch.inf)
        # [batch, processes * top_k]
        every = all_gather(every).unflatten(0, (-1, len(cosines)))
        every = every.transpose(0, 1).flatten(1)
        chosen = torch.zeros_like(every, dtype=torch.bool)
        chosen = chosen.scatter(1, every.topk(top_k, dim=1).indices, True)
        own = chosen[:, rank() * top_k :][:, : values.shape[1]]
        penalty = self.top_k_penalty * self.margin / 0.2
        before = cosines.gather(1, nearest)
        after = torch.where(own, cos_minus_margin(before, penalty), before)
        return cosines.scatter(1, nearest, after)

    def _penalised(self, cosines, targets, top_k):
        """Penalises the nearest other classes."""
        others = cosines.detach().scatter(1, targets, -torch.inf)
        nearest = others.topk(top_k, dim=1).indices
        penalty = self.top_k_penalty * self.margin / 0.2
        return cosines.scatter(
            1, nearest, cos_minus_margin(cosines.gather(1, nearest), penalty)
        )


def _cross_entropy(logits, targets, shares):
    """The mean cross-entropy of the batch, or the sum of shares of it."""
    if shares is None:
        return cross_entropy(logits, targets.squeeze(1))
    every = cross_entropy(logits, targets.squeeze(1), reduction="none")
    return (shares * every).sum()


def _shard_cross_entropy(logits, rows, columns, shares):
    """Cross-entropy over the classes of all processes.

    Each process has the logits of its own classes. The processes find the
    largest logit of each utterance. Then they sum two numbers per utterance:
    the sum of exponentials and the logit of the true class.
    """
    top = logits.detach().amax(dim=1)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(top, torch.distributed.ReduceOp.MAX)
    sums = torch.exp(logits - top.unsqueeze(1)).sum(dim=1)
    true = torch.zeros_like(top).index_put((rows,), logits[rows, columns])
    sums, true = all_reduce_sum(torch.stack([sums, true]))
    every = sums.log() + top - true
    return every.mean() if shares is None else (shares * every).sum()


def _check_scale(scale):
    if not scale > 0:
        raise ValueError(f"`scale` must be positive, got {scale}.")
