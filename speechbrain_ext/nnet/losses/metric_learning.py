"""Metric losses, on the embeddings of several utterances a speaker.

Chung et al., "In defence of metric learning for speaker recognition",
Interspeech 2020, https://arxiv.org/abs/2003.11982. Reference code:
clovaai/voxceleb_trainer@f51bab8 loss/*.py. Differences: utterances are
grouped by their label, whatever their order in the batch. Distances and
cosines come from one matrix product. A learned scale is its first value
times the exponential of its parameter, so it stays positive (the published
clamp has no effect).
"""

import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from speechbrain_ext.nnet.classifiers import LinearClassifier
from speechbrain_ext.nnet.losses.base import (
    Loss,
    MetricLoss,
    refuse_weights,
)
from speechbrain_ext.nnet.losses.pairs import (
    check_eps,
    index_within_speaker,
    squared_distances,
)
from speechbrain_ext.nnet.losses.softmax import Softmax


class Prototypical(MetricLoss):
    """Distance of one utterance to the mean of its speaker's others.

    The first utterance of each speaker in the batch is the query x_s, the
    mean of its others the prototype c_s; the loss is the cross-entropy of
    -|x_s - c_k|^2 over the speakers k of the batch. Embeddings are not
    normalised. Definition: Snell et al., "Prototypical Networks for Few-shot
    Learning", NeurIPS 2017. Reference code: loss/protoloss.py@8d03f1b, run
    with the ``pairwise_distance`` of its time. That function reduces over
    another axis on today's PyTorch.

    Arguments
    ---------
    eps : float
        Added to every coordinate of x_s - c_k, 0 or more. It is 1e-6 in the
        published code, by ``torch.nn.functional.pairwise_distance``.

    Raises
    ------
    ValueError
        If ``eps`` is negative.

    Example
    -------
    >>> x = torch.tensor([[[0.0]], [[4.0]], [[0.0]], [[4.0]]])
    >>> loss = Prototypical()(x, torch.tensor([[0], [1], [0], [1]]))
    >>> torch.testing.assert_close(loss.exp(), torch.tensor(-16.0).exp() + 1)
    """

    def __init__(self, eps=0.0):
        super().__init__()
        check_eps(eps)
        self.eps = eps

    def _loss(self, x, speakers, counts):
        queries, prototypes = _queries_and_prototypes(x, speakers, counts)
        logits = -squared_distances(queries + self.eps, prototypes)
        # cross-entropy; the true class of each row is on the diagonal
        return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


class AngularPrototypical(MetricLoss):
    """Scaled cosine of one utterance to the mean of its speaker's others.

    As ``Prototypical`` with logits w cos(x_s, c_k) + b. Reference code:
    loss/angleproto.py.

    Arguments
    ---------
    initial_scale : float
        w at the start, positive.
    initial_bias : float
        b at the start.
    normalize : bool
        Whether c_k is the mean of embeddings of unit length, as in the
        trainer of March 2020 (@8d03f1b). With two utterances a speaker this
        changes nothing.

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

    def __init__(self, initial_scale=10.0, initial_bias=-5.0, normalize=False):
        super().__init__()
        self.normalize = normalize
        self.affine = _LearnedScale(initial_scale, initial_bias)

    def _loss(self, x, speakers, counts):
        if self.normalize:
            x = normalize(x)
        queries, prototypes = _queries_and_prototypes(x, speakers, counts)
        cosines = normalize(queries) @ normalize(prototypes).T
        logits = self.affine(cosines)
        return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


class GE2E(MetricLoss):
    """Scaled cosine of every utterance to every speaker's centroid.

    Wan et al., "Generalized End-to-End Loss for Speaker Verification", ICASSP
    2018, https://arxiv.org/abs/1710.10467, softmax form. An utterance does
    not count in the centroid of its own speaker. Cosines below 1e-6 become
    1e-6 and have no gradient, as in the published code (loss/ge2e.py).

    Arguments
    ---------
    initial_scale : float
        w at the start, positive.
    initial_bias : float
        b at the start.
    normalize : bool
        Whether centroids are means of embeddings of unit length, as in the
        trainer of March 2020 (@8d03f1b). Later versions take the mean of the
        embeddings as they are.

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

    def __init__(self, initial_scale=10.0, initial_bias=-5.0, normalize=False):
        super().__init__()
        self.normalize = normalize
        self.affine = _LearnedScale(initial_scale, initial_bias)

    def _loss(self, x, speakers, counts):
        if self.normalize:
            x = normalize(x)
        sums = x.new_zeros(len(counts), x.shape[1])
        sums = sums.index_add(0, speakers, x)
        others = (sums[speakers] - x) / (counts[speakers] - 1).unsqueeze(1)
        unit = normalize(x)
        cosines = unit @ normalize(sums).T  # [utterances, speakers]
        own = (unit * normalize(others)).sum(dim=1, keepdim=True)
        cosines = cosines.scatter(1, speakers.unsqueeze(1), own)
        logits = self.affine(cosines.clamp(min=1e-6))
        return cross_entropy(logits, speakers)


class SoftmaxAngularPrototypical(Loss):
    """Sum of plain softmax and the angular prototypical loss.

    The linear layer of the softmax belongs to the loss, since both take the
    embeddings. Reference code: loss/softmaxproto.py.

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of classes. A recipe that names the loss by ``!name:`` gets it
        from the data.
    initial_scale : float
        w of ``AngularPrototypical`` at the start, positive.
    initial_bias : float
        b of ``AngularPrototypical`` at the start.

    Raises
    ------
    ValueError
        If the scale is not positive.

    Example
    -------
    >>> loss = SoftmaxAngularPrototypical(input_size=8, out_neurons=3)
    >>> loss(torch.randn(6, 1, 8), torch.tensor([[0], [1], [2]] * 2)).shape
    torch.Size([])
    """

    waits_anyway = True

    def __init__(
        self, input_size, out_neurons, initial_scale=10.0, initial_bias=-5.0
    ):
        super().__init__()
        self.classifier = LinearClassifier(input_size, out_neurons)
        self.softmax = Softmax()
        self.prototypical = AngularPrototypical(initial_scale, initial_bias)

    def _compute(self, outputs, targets, check, weights=None):
        refuse_weights(self, weights)
        prototypical = self.prototypical._compute(outputs, targets, check)
        weights = {
            name: parameter.to(outputs.dtype)
            for name, parameter in self.classifier.named_parameters()
        }
        logits = functional_call(self.classifier, weights, (outputs,))
        return self.softmax._compute(logits, targets, check) + prototypical


class _LearnedScale(torch.nn.Module):
    """w x + b; w is its first value times an exponential, so positive."""

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


def _queries_and_prototypes(x, speakers, counts):
    """The first utterance of each speaker, and the mean of its others."""
    first = index_within_speaker(speakers) == 0
    queries = x[first][speakers[first].argsort()]
    sums = x.new_zeros(len(counts), x.shape[1]).index_add(0, speakers, x)
    return queries, (sums - queries) / (counts - 1).unsqueeze(1)
