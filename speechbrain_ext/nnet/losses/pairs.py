"""Metric losses on pairs and triplets of embeddings.

Chung et al., "In defence of metric learning for speaker recognition",
Interspeech 2020, https://arxiv.org/abs/2003.11982. Reference code:
clovaai/voxceleb_trainer@8d03f1b loss/pairwise.py, run with the
``pairwise_distance`` of its time, which reduces over another axis on today's
PyTorch. Differences: utterances are grouped by their label, whatever their
order in the batch. Distances come from one matrix product. The negative is
always of another speaker: where no negative is semi-hard, the published code
draws from all speakers, also from the anchor's own.
"""

import math

import torch
from torch.nn.functional import normalize

from speechbrain_ext.nnet.losses.base import MetricLoss, transformed
from speechbrain_ext.utils.seed import stable_seed


class MinedLoss(MetricLoss):
    """A loss on an anchor, a positive and a mined negative of each speaker.

    Of each speaker's utterances the first is the anchor a and the second the
    positive p. The negative n is the positive of another speaker. Embeddings
    have unit length. A loss of this kind calls ``_mined_distances``.

    Arguments
    ---------
    margin : float
        The margin, whose range the loss checks.
    mining : str
        How a negative is drawn. ``random``: from all other speakers.
        ``hard``: with probability ``hard_probability`` from the
        ``hard_rank`` nearest, else at random. ``semihard``: from those that
        are farther than the positive by less than the margin, in squared
        distance; at random if there is none.
    hard_rank : int
        Nearest negatives that ``hard`` draws from. The published code draws
        from one more than its ``hard_rank``: its 10 is 11 here.
    hard_probability : float
        How often ``hard`` draws from them, in [0, 1].
    seed : int
        Seed of the draws; each batch has its own. They are made on the CPU.
    eps : float
        Added to every coordinate of a - p and a - n, 0 or more. It is 1e-6
        in the published code, by ``torch.nn.functional.pairwise_distance``.

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """

    minings = ("random", "hard", "semihard")

    def __init__(self, margin, mining, hard_rank, hard_probability, seed, eps):
        super().__init__()
        if mining not in self.minings:
            first = ", ".join(map(repr, self.minings[:-1]))
            raise ValueError(
                f"`mining` must be {first} or {self.minings[-1]!r}, "
                f"got {mining!r}."
            )
        if hard_rank < 1 or not 0 <= hard_probability <= 1:
            raise ValueError(
                "`hard_rank` must be at least 1 and `hard_probability` in "
                f"[0, 1], got {hard_rank} and {hard_probability}."
            )
        check_eps(eps)
        self.margin = margin
        self.mining = mining
        self.hard_rank = hard_rank
        self.hard_probability = hard_probability
        self.seed = seed
        self.eps = eps
        if mining != "all":
            # saved with the loss: a resumed run continues the same draws
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def _mined_distances(self, x, speakers):
        """|a - p|^2 and |a - n|^2, both of shape [speakers]."""
        unit = normalize(x)
        place = index_within_speaker(speakers)
        anchors, positives = unit[place == 0], unit[place == 1]
        distances = squared_distances(anchors + self.eps, positives)
        negatives = self._mine(distances.detach().cpu()).to(x.device)
        farther = distances.gather(1, negatives.unsqueeze(1)).squeeze(1)
        return distances.diagonal(), farther

    def _mine(self, distances):
        """The speaker that is the negative of each, [speakers]."""
        generator = torch.Generator()
        generator.manual_seed(stable_seed(self.seed, int(self.batches)))
        if not transformed():  # torch.func allows no change of a module
            self.batches += 1
        own = torch.eye(len(distances), dtype=torch.bool)
        allowed = ~own
        nearest = distances.diagonal().unsqueeze(1)
        if self.mining == "semihard":
            semihard = (distances > nearest) & (
                distances < nearest + self.margin
            )
            some = semihard.any(dim=1, keepdim=True)
            allowed = torch.where(some, semihard & ~own, allowed)
        elif self.mining == "hard":
            rank = min(self.hard_rank, len(distances) - 1)
            ranked = distances.masked_fill(own, math.inf)
            limit = ranked.kthvalue(rank, dim=1, keepdim=True).values
            hard = torch.rand(len(own), 1, generator=generator)
            hard = hard < self.hard_probability
            near = (ranked <= limit) & ~own
            # none is near if an embedding is not finite; the loss is not
            # either, and the Brain then names the batch
            hard = hard & near.any(dim=1, keepdim=True)
            allowed = torch.where(hard, near, allowed)
        return torch.multinomial(
            allowed.float(), 1, generator=generator
        ).squeeze(1)


class Triplet(MinedLoss):
    """Hinge on squared distances of an anchor, its own and another speaker.

    With anchor a, positive p and negative n of ``MinedLoss``, the mean of
    max(0, |a - p|^2 - |a - n|^2 + margin) over the speakers of the batch.

    Arguments
    ---------
    margin : float
        A difference of squared distances in [0, 4]. Published: 1 in the
        trainer of March 2020 (@8d03f1b), 0.1 later.
    mining : str
        ``random``, ``hard`` or ``semihard``, see ``MinedLoss``.
    hard_rank : int
        Nearest negatives that ``hard`` draws from; the published 10 is 11
        here.
    hard_probability : float
        How often ``hard`` draws from them, in [0, 1]. The published run has
        0.5, and 0.9 after epoch 100.
    seed : int
        Seed of the draws.
    eps : float
        Added to every coordinate of a - p and a - n; published 1e-6.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Example
    -------
    >>> loss = Triplet(margin=0.1, mining="semihard")
    >>> loss(torch.randn(6, 1, 8), torch.tensor([[0], [1], [2]] * 2)).shape
    torch.Size([])
    """

    def __init__(
        self,
        margin=0.1,
        mining="hard",
        hard_rank=10,
        hard_probability=0.5,
        seed=0,
        eps=0.0,
    ):
        super().__init__(margin, mining, hard_rank, hard_probability, seed, eps)
        if not 0 <= margin <= 4:
            raise ValueError(
                "`margin` must be a difference of squared distances in "
                f"[0, 4], got {margin}."
            )

    def _loss(self, x, speakers, counts):
        nearest, farther = self._mined_distances(x, speakers)
        return (nearest - farther + self.margin).clamp(min=0).mean()


class Contrastive(MinedLoss):
    """Pulls pairs of a speaker together and pushes others apart.

    On embeddings of unit length with distances d. ``mining="all"`` takes all
    pairs of the batch: the mean of d^2 over pairs of one speaker plus the
    mean of max(0, margin - d)^2 over pairs of two. Definition: Hadsell,
    Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant
    Mapping", CVPR 2006.

    The other values of ``mining`` are the published form: each speaker's
    anchor has one positive and one mined negative, see ``MinedLoss``, and all
    these pairs have equal weight. The loss is the mean of d^2 over the
    positives and max(0, margin - d)^2 over the negatives together.

    Arguments
    ---------
    margin : float
        A distance in (0, 2].
    mining : str
        ``all``, ``random``, ``hard`` or ``semihard``.
    hard_rank : int
        Nearest negatives that ``hard`` draws from; the published 10 is 11
        here.
    hard_probability : float
        How often ``hard`` draws from them, in [0, 1].
    seed : int
        Seed of the draws.
    eps : float
        Added to every coordinate of a difference; published 1e-6.

    Raises
    ------
    ValueError
        If an argument is outside its range, or no speaker of a batch has two
        utterances.

    Example
    -------
    >>> x = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[-1.0, 0.0]]])
    >>> Contrastive(margin=1.0)(x, torch.tensor([[0], [0], [1]])).item() < 1e-6
    True
    """

    minings = ("all", *MinedLoss.minings)

    def __init__(
        self,
        margin=1.0,
        mining="all",
        hard_rank=10,
        hard_probability=0.5,
        seed=0,
        eps=0.0,
    ):
        super().__init__(margin, mining, hard_rank, hard_probability, seed, eps)
        if not 0 < margin <= 2:
            raise ValueError(
                f"`margin` must be a distance in (0, 2], got {margin}."
            )
        if mining == "all":
            self.at_least = 1  # and of one speaker two

    def _loss(self, x, speakers, counts):
        if self.mining == "all":
            same, other = self._all_distances(x, speakers, counts)
            weight = 1
        else:
            same, other = self._mined_distances(x, speakers)
            weight = 0.5  # the mean of as many positives as negatives
        apart = (self.margin - other.sqrt()).clamp(min=0)
        return weight * (same.mean() + apart.square().mean())

    def _all_distances(self, x, speakers, counts):
        """Squared distances of pairs of one speaker, and of two."""
        if len(counts) == len(speakers):
            raise ValueError(
                "`targets` must hold two utterances of a speaker, got "
                f"{len(counts)} speakers with one each; use a balanced sampler."
            )
        unit = normalize(x)
        squared = squared_distances(unit + self.eps, unit)
        same = speakers.unsqueeze(0) == speakers.unsqueeze(1)
        pairs = torch.ones_like(same).triu(diagonal=1)
        return squared[pairs & same], squared[pairs & ~same]


def check_eps(eps):
    """Raises if what is added to differences is negative.

    Arguments
    ---------
    eps : float
        Added to every coordinate of a difference of embeddings.
    """
    if not eps >= 0:
        raise ValueError(f"`eps` must be 0 or more, got {eps}.")


def index_within_speaker(speakers):
    """Which of its speaker's utterances each is.

    Arguments
    ---------
    speakers : torch.Tensor
        Numbers of speakers, shape [batch].

    Returns
    -------
    torch.Tensor
        Counted from 0 in the order of the batch, shape [batch].

    Example
    -------
    >>> index_within_speaker(torch.tensor([5, 2, 5, 5, 2]))
    tensor([0, 0, 1, 2, 1])
    """
    same = speakers.unsqueeze(0) == speakers.unsqueeze(1)
    return same.tril(diagonal=-1).sum(dim=1)


def squared_distances(x, y):
    """|x_i - y_j|^2 by one matrix product.

    Arguments
    ---------
    x : torch.Tensor
        Shape [rows, size].
    y : torch.Tensor
        Shape [columns, size].

    Returns
    -------
    torch.Tensor
        Shape [rows, columns], at least the type's epsilon.

    Example
    -------
    >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]])
    """
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = squared - 2 * (x @ y.T)
    # rounding can make it negative, and the root has no slope at 0
    return squared.clamp(min=torch.finfo(x.dtype).eps)
