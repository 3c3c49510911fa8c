"""Label filters: training that leaves out labels which are probably wrong.

A filter looks at the cosines of each batch before the loss. It gives each
utterance a weight, and may give it another label. During a warm-up all weights
are 1. An utterance of weight 0 still passes through the encoder, so it is in
the batch statistics, and it can come back later. A recipe names its filter by
one key:

    label_filter: {kind: ORGate, top_k: 10, warm_up: 5}

The state of a filter, a few numbers per utterance, is on every process and in
the checkpoints.
"""

import abc
import inspect
import math

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import expit

from speechbrain_ext.nnet.losses.base import ClassificationLoss
from speechbrain_ext.utils.distributed import all_gather


class LabelFilter(torch.nn.Module, abc.ABC):
    """The base class of label filters.

    A subclass implements ``_judge(scores, rows)``. It returns weights, labels
    (None: the given ones) and what it wants to remember, a list of tensors of
    shape [batch]. ``_remember(rows, *values)`` gets these of all processes.

    Arguments
    ---------
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If ``warm_up`` is negative.
    """

    def __init__(self, warm_up=5):
        super().__init__()
        _check("warm_up", warm_up, 0, math.inf)
        self.warm_up = warm_up

    def check(self, loss, classifier):
        """Raises if the filter does not fit a loss or a classifier.

        Arguments
        ---------
        loss : object
            The loss, its class, or a functools.partial of the class.
        classifier : object
            The classifier, likewise.

        Raises
        ------
        ValueError
            If the loss is not one on the outputs of all classes.
        """
        kind = getattr(loss, "func", loss)
        kind = kind if isinstance(kind, type) else type(kind)
        if not issubclass(kind, ClassificationLoss):
            raise ValueError(
                "`label_filter` needs the outputs of all classes, which the "
                f"metric loss {kind.__name__} does not have; set it to null, "
                "or take a recipe with a classification loss."
            )

    def start(self, utterances, classes, loss, classifier):
        """Makes the state; it must be called before the first batch.

        Arguments
        ---------
        utterances : int
            Number of utterances of the training data.
        classes : int
            Number of classes.
        loss : speechbrain_ext.nnet.losses.base.ClassificationLoss
            The loss.
        classifier : torch.nn.Module
            The classifier.

        Raises
        ------
        ValueError
            If the filter does not fit the loss, the classifier or the number
            of classes.
        """
        self.check(loss, classifier)
        for name in ("trust_sum", "draws"):
            self.register_buffer(name, torch.zeros(utterances))
        self.register_buffer("trust", torch.ones(utterances))

    @torch.no_grad()
    def forward(self, scores, rows, epochs_done):
        """Judges the labels of a batch.

        Arguments
        ---------
        scores : speechbrain_ext.processing.class_scores.ClassScores
            The cosines and the given labels.
        rows : torch.Tensor
            Rows of this process's utterances in the manifest, shape [batch].
        epochs_done : float
            Epochs that were trained before this batch, with a fraction.

        Returns
        -------
        weights : torch.Tensor
            Shape [batch]; None during the warm-up.
        labels : torch.Tensor
            The labels to train with, shape [batch]; None for the given ones.
        """
        rows = scores.every(rows)
        weights, labels, values = self._judge(scores, rows)
        warm = epochs_done < self.warm_up
        trust = weights
        if warm:
            trust = torch.ones_like(weights)
        elif labels is not None:
            trust = weights * (labels == scores.labels)
        values = torch.stack(
            [value.double() for value in (rows, trust, *values)]
        )
        if scores.shard is None:  # [1 + values, batch of all processes]
            values = all_gather(values.T).T
        rows, trust, *values = values
        rows = rows.long()
        self.trust_sum.index_add_(0, rows, trust.float())
        self.draws.index_add_(0, rows, torch.ones_like(trust).float())
        self._remember(rows, *values)
        if warm:
            return None, None
        labels = None if labels is None else scores.mine(labels)
        return scores.mine(weights), labels

    def end_epoch(self):
        """Sums up an epoch.

        ``trust`` then has the mean weight that each given label had in the
        epoch. It is 0 for a label that was replaced. An utterance that was not
        drawn keeps its value.
        """
        mean = self.trust_sum / self.draws.clamp(min=1)
        self.trust.copy_(torch.where(self.draws > 0, mean, self.trust))
        self._end_epoch()
        self.trust_sum.zero_()
        self.draws.zero_()

    @abc.abstractmethod
    def _judge(self, scores, rows):
        """Weights, labels or None, and a list of values to remember."""

    @abc.abstractmethod
    def _remember(self, rows, *values):
        """Changes the state by the values of all processes."""

    def _end_epoch(self):
        """Sums up the epoch of a subclass."""


class ORGate(LabelFilter):
    """A label counts once it was among the top k of the prediction.

    Fang, He, Ma, Guo and Li, "Robust Training for Speaker Verification against
    Noisy Labels", Interspeech 2023, https://arxiv.org/abs/2211.12080. Reference
    code: PunkMale/OR-Gate@a4f4a00 main.py. The gate is the OR over all earlier
    draws of the utterance, those of the warm-up included. Published: k = 90 of
    1,211 classes and a warm-up of 5 of 80 epochs. Difference: the code makes
    batches of the chosen utterances; here the others have weight 0.

    Arguments
    ---------
    top_k : int
        Number of classes with the highest cosines, below the number of
        classes. With ``speeds`` each speed has classes of its own.
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> ORGate(top_k=0)
    Traceback (most recent call last):
    ValueError: `top_k` of the label filter must be 1 or more, got 0.
    """

    def __init__(self, top_k=90, warm_up=5):
        super().__init__(warm_up)
        _check("top_k", top_k, 1, math.inf)
        self.top_k = top_k

    def start(self, utterances, classes, loss, classifier):
        """Makes the state; see ``LabelFilter.start``."""
        super().start(utterances, classes, loss, classifier)
        if self.top_k >= classes:
            raise ValueError(
                "`top_k` of the label filter must be below the number of "
                f"classes, {classes}, got {self.top_k}; every label would "
                "count."
            )
        self.register_buffer("counted", torch.zeros(utterances))

    def _judge(self, scores, rows):
        return self.counted[rows], None, [scores.place < self.top_k]

    def _remember(self, rows, *values):
        self.counted.scatter_reduce_(0, rows, values[0].float(), "amax")


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
        """Makes the state; see ``LabelFilter.start``."""
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
        _check("confidence", confidence, 0, 1)
        self.confidence = confidence

    def _judge(self, scores, rows):
        weights, _, values = super()._judge(scores, rows)
        sure = scores.best_probability(self.scale) > self.confidence
        changed = sure & (weights == 0)
        labels = torch.where(changed, scores.best[1], scores.labels)
        return torch.where(changed, 1.0, weights), labels, values


class SubCenterDrop(LabelFilter):
    """A label counts if the utterance is near its class's main sub-center.

    Deng, Guo, Liu, Gong and Zafeiriou, "Sub-center ArcFace: Boosting Face
    Recognition by Large-scale Noisy Web Faces", ECCV 2020. Reference code:
    deepinsight/insightface@205a37e recognition/SubCenter-ArcFace/drop.py. The
    dominant sub-center of a class is the nearest one of most of its
    utterances. An utterance whose angle to it is 75 degrees or more is left
    out, as published. Difference: the authors train, drop, and train again
    with one center per class. Here each epoch drops by the dominant sub-centers
    of the epoch before, so the warm-up is this project's choice.

    It needs ``CosineClassifier(sub_centers=3)``, for example the recipe
    resnet_aam_subcenter.yaml.

    Arguments
    ---------
    angle : float
        Degrees in [0, 180]; None leaves out the utterances whose nearest
        sub-center is another one.
    warm_up : float
        Epochs at the beginning in which all weights are 1.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Example
    -------
    >>> SubCenterDrop(angle=-75)
    Traceback (most recent call last):
    ValueError: `angle` of the label filter must be in [0, 180], got -75.
    """

    def __init__(self, angle=75.0, warm_up=5):
        super().__init__(warm_up)
        if angle is not None:
            _check("angle", angle, 0, 180)
        self.angle = angle

    def check(self, loss, classifier):
        """Raises if there are no sub-centers; see ``LabelFilter.check``."""
        super().check(loss, classifier)
        if _sub_centers(classifier) < 2:
            raise ValueError(
                "The label filter SubCenterDrop needs a classifier with "
                "`sub_centers` of 2 or more; take a recipe such as "
                "resnet_aam_subcenter.yaml, or another filter."
            )

    def start(self, utterances, classes, loss, classifier):
        """Makes the state; see ``LabelFilter.start``."""
        super().start(utterances, classes, loss, classifier)
        classifier.keeps_sub_cosines = True
        centers = _sub_centers(classifier)
        self.register_buffer("nearest", torch.zeros(classes, centers))
        # -1: the class was not drawn yet, and keeps all of its utterances
        nothing = torch.full((classes,), -1, dtype=torch.int64)
        self.register_buffer("dominant", nothing)

    def _judge(self, scores, rows):
        cosines = scores.label_sub_cosines()
        nearest = cosines.argmax(dim=1)
        dominant = self.dominant[scores.labels]
        if self.angle is None:
            near = nearest == dominant
        else:
            place = dominant.clamp(min=0).unsqueeze(1)
            found = cosines.gather(1, place).squeeze(1)
            near = found > math.cos(math.radians(self.angle))
        weights = (near | (dominant < 0)).to(cosines.dtype)
        return weights, None, [scores.labels, nearest]

    def _remember(self, rows, *values):
        labels, nearest = (value.long() for value in values)
        ones = torch.ones_like(labels, dtype=torch.float32)
        self.nearest.index_put_((labels, nearest), ones, accumulate=True)

    def _end_epoch(self):
        drawn = self.nearest.sum(dim=1) > 0
        most = self.nearest.argmax(dim=1)
        self.dominant.copy_(torch.where(drawn, most, self.dominant))
        self.nearest.zero_()


def _sub_centers(classifier):
    """Sub-centers of a head, or of one that ``!name:`` will make."""
    arguments = getattr(classifier, "keywords", {})
    shard = getattr(classifier, "shard", None)
    if shard is not None:
        return shard.rows_per_class
    found = getattr(classifier, "sub_centers", 1)
    return arguments.get("sub_centers", found)


KINDS = ORGate, LossGate, LabelCorrection, SubCenterDrop
FILTERS = {kind.__name__: kind for kind in KINDS}


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


def make_label_filter(options):
    """Makes the label filter of a recipe.

    Arguments
    ---------
    options : dict
        ``kind``, the name of a filter, and its arguments. None for no filter.
        A ``LabelFilter``, such as one's own by ``!new:``, is returned as it
        is.

    Returns
    -------
    LabelFilter
        The filter, or None.

    Raises
    ------
    ValueError
        If there is no such filter, or an argument is unknown or out of range.

    Example
    -------
    >>> make_label_filter({"kind": "ORGate", "top_k": 10}).top_k
    10
    >>> make_label_filter({"kind": "OrGate"})
    Traceback (most recent call last):
    ValueError: `kind` of `label_filter` must be one of ORGate, ...
    """
    if options is None or isinstance(options, LabelFilter):
        return options
    if not isinstance(options, dict) or "kind" not in options:
        raise ValueError(
            "`label_filter` must be a mapping with a kind, such as {kind: "
            f"ORGate, top_k: 10}}, got {options!r}."
        )
    options = dict(options)
    name = options.pop("kind")
    if name not in FILTERS:
        raise ValueError(
            f"`kind` of `label_filter` must be one of {', '.join(FILTERS)}, "
            f"got {name!r}."
        )
    known = list(inspect.signature(FILTERS[name]).parameters)
    for key in options:
        if key not in known:
            raise ValueError(
                f"`label_filter` has an unknown option {key!r}; {name} takes "
                f"{', '.join(known)}."
            )
    return FILTERS[name](**options)


def check_label_filter(options, loss, classifier):
    """Raises if the label filter of a recipe cannot work.

    Arguments
    ---------
    options : dict
        The filter, see ``make_label_filter``.
    loss : object
        The loss, its class, or a functools.partial of the class.
    classifier : object
        The classifier, likewise.

    Raises
    ------
    ValueError
        If an option is not valid, or the filter does not fit the loss or the
        classifier.

    Example
    -------
    >>> from speechbrain_ext.nnet.losses import GE2E
    >>> check_label_filter({"kind": "ORGate"}, GE2E(), torch.nn.Identity())
    Traceback (most recent call last):
    ValueError: `label_filter` needs the outputs of all classes, which the \
metric loss GE2E does not have; ...
    """
    made = make_label_filter(options)
    if made is not None:
        made.check(loss, classifier)


def _check(name, value, low, high):
    """Raises if an option is not a number in a range."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        rule = f"{low} or more" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(
            f"`{name}` of the label filter must be {rule}, got {value!r}."
        )
