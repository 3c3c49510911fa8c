"""Metric losses, on the embeddings of several utterances a speaker.

Chung et al., "In defence of metric learning for speaker recognition",
Interspeech 2020, https://arxiv.org/abs/2003.11982. Reference code:
clovaai/voxceleb_trainer@f51bab8 loss/*.py. Differences: utterances are
grouped by their label, whatever their order in the batch; distances and
cosines come from one matrix product; a learned scale is its first value
times the exponential of its parameter, so that it stays positive (the
published clamp has no effect).
"""

import math

import torch
from speechbrain.utils.autocast import fwd_default_precision
from torch.nn.functional import cross_entropy, normalize

from speechbrain_ext.nnet.losses.contract import grouped


class Prototypical(torch.nn.Module):
    """Distance of one utterance to the mean of its speaker's others.

    The first utterance of each speaker in the batch is the query x_s, the
    mean of its others the prototype c_s; the loss is the cross-entropy of
    -|x_s - c_k|^2 over the speakers k of the batch. Embeddings are not
    normalised. Definition: Snell et al., "Prototypical Networks for Few-shot
    Learning", NeurIPS 2017. The published code reduces over the wrong axis
    on today's PyTorch and gives no reference.

    Example
    -------
    >>> x = torch.tensor([[[0.0]], [[4.0]], [[0.0]], [[4.0]]])
    >>> loss = Prototypical()(x, torch.tensor([[0], [1], [0], [1]]))
    >>> torch.testing.assert_close(loss.exp(), torch.tensor(-16.0).exp() + 1)
    """

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Embeddings of shape [batch, 1, embedding], two or more of each
            speaker.
        targets : torch.Tensor
            Speakers, shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The mean loss over the speakers, a scalar.
        """
        queries, prototypes = _queries_and_prototypes(outputs, targets)
        logits = -_squared_distances(queries, prototypes)
        # cross-entropy whose classes stand on the diagonal
        return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


class AngularPrototypical(torch.nn.Module):
    """Scaled cosine of one utterance to the mean of its speaker's others.

    As ``Prototypical`` with logits w cos(x_s, c_k) + b. Reference code:
    loss/angleproto.py.

    Arguments
    ---------
    initial_scale : float
        w at the start, positive.
    initial_bias : float
        b at the start.

    Raises
    ------
    ValueError
        If the scale is not positive.

    Example
    -------
    >>> loss = AngularPrototypical()
    >>> loss(torch.randn(6, 1, 8), torch.tensor([[0], [1], [2]] * 2)).shape
    torch.Size([])
    """

    def __init__(self, initial_scale=10.0, initial_bias=-5.0):
        super().__init__()
        self.affine = _LearnedScale(initial_scale, initial_bias)

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss; arguments and result as Prototypical's.

        Arguments
        ---------
        outputs : torch.Tensor
            Embeddings of shape [batch, 1, embedding], two or more of each
            speaker.
        targets : torch.Tensor
            Speakers, shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The mean loss over the speakers, a scalar.
        """
        queries, prototypes = _queries_and_prototypes(outputs, targets)
        cosines = normalize(queries) @ normalize(prototypes).T
        logits = self.affine(cosines)
        return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


class GE2E(torch.nn.Module):
    """Scaled cosine of every utterance to every speaker's centroid.

    Wan et al., "Generalized End-to-End Loss for Speaker Verification", ICASSP
    2018, https://arxiv.org/abs/1710.10467, softmax form. An utterance does
    not count in its own speaker's centroid. Cosines below 1e-6 are cut off
    there, as the published code (loss/ge2e.py) does: they have no gradient.

    Arguments
    ---------
    initial_scale : float
        w at the start, positive.
    initial_bias : float
        b at the start.

    Raises
    ------
    ValueError
        If the scale is not positive.

    Example
    -------
    >>> loss = GE2E()
    >>> loss(torch.randn(6, 1, 8), torch.tensor([[0], [1], [2]] * 2)).shape
    torch.Size([])
    """

    def __init__(self, initial_scale=10.0, initial_bias=-5.0):
        super().__init__()
        self.affine = _LearnedScale(initial_scale, initial_bias)

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss; arguments and result as Prototypical's.

        Arguments
        ---------
        outputs : torch.Tensor
            Embeddings of shape [batch, 1, embedding], two or more of each
            speaker.
        targets : torch.Tensor
            Speakers, shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The mean loss over the utterances, a scalar.
        """
        x, speakers, counts = grouped(outputs, targets, at_least=2)
        sums = x.new_zeros(len(counts), x.shape[1])
        sums = sums.index_add(0, speakers, x)
        others = (sums[speakers] - x) / (counts[speakers] - 1).unsqueeze(1)
        unit = normalize(x)
        cosines = unit @ normalize(sums).T  # [utterances, speakers]
        own = (unit * normalize(others)).sum(dim=1, keepdim=True)
        cosines = cosines.scatter(1, speakers.unsqueeze(1), own)
        logits = self.affine(cosines.clamp(min=1e-6))
        return cross_entropy(logits, speakers)


class Triplet(torch.nn.Module):
    """Hinge on squared distances of an anchor, its own and another speaker.

    Of each speaker's utterances the first is the anchor and the second the
    positive; the negative is another speaker's positive. On embeddings of
    unit length, the mean of max(0, |a - p|^2 - |a - n|^2 + margin). The
    negative is drawn at random; or, with probability ``hard_probability``,
    from the ``hard_rank`` nearest; or from the semi-hard ones, which are
    farther than the positive by less than the margin, where there are any.
    Definition: the paper, section 2.2; its code reduces over the wrong axis
    on today's PyTorch and gives no reference.

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
        Seed of the draws, which go on from batch to batch.

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
        self.generator = torch.Generator().manual_seed(seed)

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss; arguments and result as Prototypical's.

        Arguments
        ---------
        outputs : torch.Tensor
            Embeddings of shape [batch, 1, embedding], two or more of each
            speaker.
        targets : torch.Tensor
            Speakers, shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The mean loss over the speakers, a scalar.
        """
        x, speakers, _ = grouped(outputs, targets, at_least=2)
        unit = normalize(x)
        place = _places(speakers)
        anchors, positives = unit[place == 0], unit[place == 1]
        distances = _squared_distances(anchors, positives)
        nearest = distances.diagonal()
        negatives = self._mine(distances.detach().cpu()).to(x.device)
        farther = distances.gather(1, negatives.unsqueeze(1)).squeeze(1)
        return (nearest - farther + self.margin).clamp(min=0).mean()

    def _mine(self, distances):
        """The speaker that is the negative of each, [speakers]."""
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
            hard = torch.rand(len(own), 1, generator=self.generator)
            hard = hard < self.hard_probability
            allowed = torch.where(hard, ranked <= limit, allowed) & ~own
        return torch.multinomial(
            allowed.float(), 1, generator=self.generator
        ).squeeze(1)


class Contrastive(torch.nn.Module):
    """Pulls pairs of a speaker together, pushes others beyond a margin.

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

    def __init__(self, margin=1.0):
        super().__init__()
        if not 0 < margin <= 2:
            raise ValueError(
                f"`margin` must be a distance in (0, 2], got {margin}."
            )
        self.margin = margin

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        targets : torch.Tensor
            Speakers, shape [batch, 1]; one of them twice, and two of them.
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The loss, a scalar.
        """
        x, speakers, counts = grouped(outputs, targets, at_least=1)
        if counts.max() < 2:
            raise ValueError(
                "`targets` must hold two utterances of a speaker, got "
                f"{len(counts)} speakers with one each; use a balanced sampler."
            )
        squared = _squared_distances(normalize(x), normalize(x))
        same = speakers.unsqueeze(0) == speakers.unsqueeze(1)
        pairs = torch.ones_like(same).triu(diagonal=1)
        apart = (self.margin - squared[pairs & ~same].sqrt()).clamp(min=0)
        return squared[pairs & same].mean() + apart.square().mean()


class _LearnedScale(torch.nn.Module):
    """w x + b with a w that stays positive: its gain is an exponential."""

    def __init__(self, initial_scale, initial_bias):
        super().__init__()
        if not initial_scale > 0:
            raise ValueError(
                f"`initial_scale` must be positive, got {initial_scale}."
            )
        self.initial_scale = initial_scale
        self.log_gain = torch.nn.Parameter(torch.zeros(()))
        self.bias = torch.nn.Parameter(torch.tensor(float(initial_bias)))

    def forward(self, cosines):
        scale = self.initial_scale * self.log_gain.exp()
        return scale * cosines + self.bias


def _places(speakers):
    """Which of its speaker's utterances each is, from 0, [utterances]."""
    same = speakers.unsqueeze(0) == speakers.unsqueeze(1)
    return same.tril(diagonal=-1).sum(dim=1)


def _queries_and_prototypes(outputs, targets):
    """The first utterance of each speaker, and the mean of its others."""
    x, speakers, counts = grouped(outputs, targets, at_least=2)
    first = _places(speakers) == 0
    queries = x[first][speakers[first].argsort()]
    sums = x.new_zeros(len(counts), x.shape[1]).index_add(0, speakers, x)
    return queries, (sums - queries) / (counts - 1).unsqueeze(1)


def _squared_distances(x, y):
    """|x_i - y_j|^2 by one matrix product, [rows of x, rows of y]."""
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = squared - 2 * (x @ y.T)
    # rounding may leave it below 0, and the root of 0 has no slope
    return squared.clamp(min=torch.finfo(x.dtype).eps)
