"""The base class of label filters."""

import abc
import math

import torch
from speechbrain.utils.logger import get_logger

from speechbrain_ext.nnet.losses.base import ClassificationLoss
from speechbrain_ext.utils.distributed import all_gather

logger = get_logger(__name__)


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
        check_number("warm_up", warm_up, 0, math.inf)
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
        loss.check_weights()
        for name in ("trust_sum", "draws"):
            self.register_buffer(name, torch.zeros(utterances))
        self.register_buffer("trust", torch.ones(utterances))
        kept = torch.zeros((), dtype=torch.float64)
        self.register_buffer("kept", kept, persistent=False)

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
        if warm:
            weights = torch.ones_like(weights)
        trust = weights
        if not warm and labels is not None:
            trust = weights * (labels == scores.labels)
        values = torch.stack(
            [value.double() for value in (rows, weights, trust, *values)]
        )
        if scores.shard is None:  # [1 + values, batch of all processes]
            values = all_gather(values.T).T
        rows, kept, trust, *values = values
        self.kept += kept.sum()
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
        if self.draws.any() and not self.kept:
            logger.warning(
                f"{type(self).__name__} left out every label of this epoch, so "
                "nothing was learned. Raise `warm_up`, or loosen the filter."
            )
        self._end_epoch()
        self.kept.zero_()
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


def check_number(name, value, low, high):
    """Raises if an option of a filter is not a number in a range.

    Arguments
    ---------
    name : str
        The option.
    value : object
        Its value.
    low : float
        The lowest value.
    high : float
        The highest value, or infinity.

    Raises
    ------
    ValueError
        If the value is not a number, or is out of range.

    Example
    -------
    >>> check_number("warm_up", 5, 0, math.inf)
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        rule = f"{low} or more" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(
            f"`{name}` of the label filter must be {rule}, got {value!r}."
        )
