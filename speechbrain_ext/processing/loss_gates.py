"""Label filters that look at the loss of each utterance."""

import math

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit
from speechbrain.utils.logger import get_logger

from speechbrain_ext.processing.filter_base import LabelFilter, check_number

logger = get_logger(__name__)


class LossGate(LabelFilter):
    """A label counts if its loss is not above a gate.

    Tao, Lee, Das, Hautamaki and Li, "Self-supervised Speaker Recognition with
    Loss-gated Learning", ICASSP 2022, https://arxiv.org/abs/2110.03869: the
    gate is a number. Reference code: TaoRuijie/Loss-Gated-Learning@665a00a
    Stage2/loss.py, with gates of 1, 3, 3, 5 and 6 in its five iterations.

    Han, Chen and Qian, "Self-Supervised Speaker Verification Using Dynamic
    Loss-Gate and Label Correction", Interspeech 2022,
    https://arxiv.org/abs/2208.01928: after each epoch a mixture of two
    Gaussians is fitted to the losses, and the gate is where they intersect
    (``gate="dynamic"``). Its code was not released. Here the mixture is fitted
    to the logarithms of the utterances' mean losses in the epoch.

    The loss is the cross-entropy of the released code (AAM-softmax, scale 30,
    margin 0.2), whatever loss is trained. With a loss on logits, it is the
    plain cross-entropy. The papers begin with a trained encoder, so the warm-up
    is this project's choice.

    Arguments
    ---------
    gate : str or float
        "dynamic", or the highest loss that counts, above 0.
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> LossGate(gate="fixed")
    Traceback (most recent call last):
    ValueError: `gate` of the label filter must be 'dynamic' or a loss above \
0, got 'fixed'.
    """

    scale, margin = 30.0, 0.2

    def __init__(self, gate="dynamic", warm_up=5):
        super().__init__(warm_up)
        number = isinstance(gate, (int, float)) and not isinstance(gate, bool)
        if gate != "dynamic" and not (number and gate > 0):
            raise ValueError(
                "`gate` of the label filter must be 'dynamic' or a loss above "
                f"0, got {gate!r}."
            )
        self.gate = gate

    def start(self, utterances, classes, loss, classifier):
        """Makes the state.

        Overrides
        ``speechbrain_ext.processing.filter_base.LabelFilter.start``; see there.
        """
        super().start(utterances, classes, loss, classifier)
        if loss.largest_cosine is None:  # logits
            self.scale, self.margin = 1.0, 0.0
        self.register_buffer("loss_sum", torch.zeros(utterances))
        first = math.inf if self.gate == "dynamic" else self.gate
        self.register_buffer("threshold", torch.tensor(first))

    def _judge(self, scores, rows):
        losses = scores.cross_entropy(self.scale, self.margin)
        return (losses <= self.threshold).to(losses.dtype), None, [losses]

    def _remember(self, rows, *values):
        self.loss_sum.index_add_(0, rows, values[0].float())

    def _end_epoch(self):
        if self.gate == "dynamic":
            drawn = self.draws > 0
            losses = (self.loss_sum[drawn] / self.draws[drawn]).double()
            logs = losses.clamp(min=1e-12).log().cpu().numpy()
            self.threshold.fill_(math.exp(gate_of_two_gaussians(logs)))
        self.loss_sum.zero_()


class LabelCorrection(LossGate):
    """A loss gate that relabels an utterance where the encoder is sure.

    The label correction of Han, Chen and Qian (2022), see ``LossGate``. A loss
    that is not above the gate keeps its label. Above the gate the utterance
    gets the class of the highest cosine if its probability is above
    ``confidence``. Otherwise its weight is 0. Differences: the new label is one
    class, not a sharpened distribution, and it comes from the crop that is
    trained on, so that no second pass is needed. The paper's threshold of the
    probability was not accessible. At 0.5, the default here, one class is as
    probable as all others together.

    An encoder that does not know the speakers yet can give all utterances one
    class, and then learns nothing more. The log warns of this.

    Arguments
    ---------
    gate : str or float
        "dynamic", or the highest loss that counts, above 0.
    confidence : float
        Lowest probability of a new label, in [0, 1].
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> LabelCorrection(confidence=2)
    Traceback (most recent call last):
    ValueError: `confidence` of the label filter must be in [0, 1], got 2.
    """

    def __init__(self, gate="dynamic", confidence=0.5, warm_up=5):
        super().__init__(gate, warm_up)
        check_number("confidence", confidence, 0, 1)
        self.confidence = confidence

    def start(self, utterances, classes, loss, classifier):
        """Makes the state.

        Overrides
        ``speechbrain_ext.processing.filter_base.LabelFilter.start``; see there.
        """
        super().start(utterances, classes, loss, classifier)
        counts = torch.zeros(classes)  # of an epoch's new labels
        self.register_buffer("new_labels", counts, persistent=False)

    def _judge(self, scores, rows):
        weights, _, values = super()._judge(scores, rows)
        sure = scores.best_probability(self.scale) > self.confidence
        changed = sure & (weights == 0)
        labels = torch.where(changed, scores.best[1], scores.labels)
        weights = torch.where(changed, 1.0, weights)
        return weights, labels, [*values, scores.best[1], changed]

    def _remember(self, rows, *values):
        losses, best, changed = values
        super()._remember(rows, losses)
        self.new_labels.index_add_(0, best.long(), changed.float())

    def _end_epoch(self):
        new, draws = self.new_labels.sum(), self.draws.sum()
        most = self.new_labels.max()
        # in the warm-up every given label is trusted
        replaced = new > draws / 2 and self.trust.mean() < 0.5
        if replaced and most > new / 2:
            logger.warning(
                f"LabelCorrection replaced {new / draws:.0%} of the labels, "
                f"and {most / new:.0%} of the new ones are one class. The "
                "encoder tells no speakers apart any more. Train again with a "
                "higher `warm_up` or `confidence`."
            )
        self.new_labels.zero_()
        super()._end_epoch()


def gate_of_two_gaussians(values, iterations=100):
    """Where the two Gaussians of a mixture intersect.

    The mixture is fitted by expectation maximisation. It starts from the lower
    and the upper half of the values.

    Arguments
    ---------
    values : numpy.ndarray
        Shape [values], such as the logarithms of losses.
    iterations : int
        Number of iterations.

    Returns
    -------
    float
        The value between the two means where both Gaussians, times their
        weights, are equal. Infinity if there is none: one Gaussian is above
        the other everywhere between the means, or the values are all equal.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> values = np.concatenate([rng.normal(-4, 1, 600), rng.normal(2, 1, 400)])
    >>> bool(abs(gate_of_two_gaussians(values) + 1) < 0.2)
    True
    """
    if len(values) < 2 or values.max() - values.min() < 1e-6:
        return math.inf
    weights = np.array([0.5, 0.5])
    halves = np.array_split(np.sort(values), 2)
    means = np.array([half.mean() for half in halves])
    least = 1e-3 * values.std()
    widths = np.array([max(half.std(), least) for half in halves])

    def log_density(x):
        distance = (np.asarray(x)[..., None] - means) / widths
        return np.log(weights / widths) - 0.5 * distance**2

    for _ in range(iterations):
        logs = log_density(values)
        share = expit(logs[:, 1] - logs[:, 0])
        shares = np.stack([1 - share, share])
        counts = np.maximum(shares.sum(axis=1), 1e-9)
        weights = counts / counts.sum()
        means = shares @ values / counts
        square = (shares * (values - means[:, None]) ** 2).sum(axis=1) / counts
        widths = np.maximum(np.sqrt(square), least)

    def difference(x):
        return float(np.subtract(*log_density(x)))

    low, high = np.sort(means)
    if low == high or difference(low) * difference(high) >= 0:
        return math.inf
    return brentq(difference, low, high)
