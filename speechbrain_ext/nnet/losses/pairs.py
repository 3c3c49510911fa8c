"""Metric losses on pairs and triplets of embeddings.

Chung et al., "In defence of metric learning for speaker recognition",
Interspeech 2020, https://arxiv.org/abs/2003.11982. Utterances are grouped by
their label, whatever their order in the batch, and distances come from one
matrix product.
"""

import math

import torch
from torch.nn.functional import normalize

from speechbrain_ext.nnet.losses.base import MetricLoss, transformed
from speechbrain_ext.utils.seed import stable_seed


class Triplet(MetricLoss):
    """Hinge on squared distances of an anchor, its own and another speaker.

    Of each speaker's utterances the first is the anchor a and the second the
    positive p. The negative n is the positive of another speaker. The loss is
    the mean of max(0, |a - p|^2 - |a - n|^2 + margin) over embeddings of unit
    length. ``mining`` says how a negative is drawn: at random; or, with
    probability ``hard_probability``, from the ``hard_rank`` nearest; or from
    the semi-hard ones, which are farther than the positive by less than the
    margin, if there are any. Negatives are drawn on the CPU. Definition: the
    paper, section 2.2; its code reduces over the wrong axis on today's
    PyTorch and gives no reference.

    Arguments
    ---------
    margin : float
        A difference of squared distances in [0, 4].
    mining : str
        ``random``, ``hard`` or ``semihard``.
    hard_rank : int
        Nearest negatives that ``hard`` draws from.
    hard_probability : float
        How often ``hard`` draws from them, in [0, 1].
    seed : int
        Seed of the draws; each batch has its own.

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
    ):
        super().__init__()
        if not 0 <= margin <= 4:
            raise ValueError(
                "`margin` must be a difference of squared distances in "
                f"[0, 4], got {margin}."
            )
        if mining not in ("random", "hard", "semihard"):
            raise ValueError(
                "`mining` must be 'random', 'hard' or 'semihard', "
                f"got {mining!r}."
            )
        if hard_rank < 1 or not 0 <= hard_probability <= 1:
            raise ValueError(
                "`hard_rank` must be at least 1 and `hard_probability` in "
                f"[0, 1], got {hard_rank} and {hard_probability}."
            )
        self.margin = margin
        self.mining = mining
        self.hard_rank = hard_rank
        self.hard_probability = hard_probability
        self.seed = seed
        # saved with the loss: a resumed run continues the same draws
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def _loss(self, x, speakers, counts):
        unit = normalize(x)
        place = index_within_speaker(speakers)
        anchors, positives = unit[place == 0], unit[place == 1]
        distances = squared_distances(anchors, positives)
        nearest = distances.diagonal()
        negatives = self._mine(distances.detach().cpu()).to(x.device)
        farther = distances.gather(1, negatives.unsqueeze(1)).squeeze(1)
        return (nearest - farther + self.margin).clamp(min=0).mean()

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
            allowed = torch.where(hard, ranked <= limit, allowed) & ~own
        return torch.multinomial(
            allowed.float(), 1, generator=generator
        ).squeeze(1)


class Contrastive(MetricLoss):
    """Pulls pairs of a speaker together and pushes others apart.

    Over all pairs of the batch, on embeddings of unit length: the mean of
    d^2 over pairs of one speaker plus the mean of max(0, margin - d)^2 over
    pairs of two. Definition: Hadsell, Chopra, LeCun, "Dimensionality
    Reduction by Learning an Invariant Mapping", CVPR 2006.

    Arguments
    ---------
    margin : float
        A distance in (0, 2].

    Raises
    ------
    ValueError
        If the margin is outside its range.

    Example
    -------
    >>> x = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[-1.0, 0.0]]])
    >>> Contrastive(margin=1.0)(x, torch.tensor([[0], [0], [1]])).item() < 1e-6
    True
    """

    at_least = 1  # and of one speaker two

    def __init__(self, margin=1.0):
        super().__init__()
        if not 0 < margin <= 2:
            raise ValueError(
                f"`margin` must be a distance in (0, 2], got {margin}."
            )
        self.margin = margin

    def _loss(self, x, speakers, counts):
        if len(counts) == len(speakers):
            raise ValueError(
                "`targets` must hold two utterances of a speaker, got "
                f"{len(counts)} speakers with one each; use a balanced sampler."
            )
        squared = squared_distances(normalize(x), normalize(x))
        same = speakers.unsqueeze(0) == speakers.unsqueeze(1)
        pairs = torch.ones_like(same).triu(diagonal=1)
        apart = (self.margin - squared[pairs & ~same].sqrt()).clamp(min=0)
        return squared[pairs & same].mean() + apart.square().mean()


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
    # rounding may leave it below 0, and the root of 0 has no slope
    return squared.clamp(min=torch.finfo(x.dtype).eps)
