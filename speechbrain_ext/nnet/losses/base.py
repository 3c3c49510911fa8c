"""The base classes of all losses: SpeechBrain's interface, and its checks."""

import abc
import inspect
import os

import torch
from speechbrain.utils.autocast import fwd_default_precision
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.distributed import (
    all_gather,
    all_reduce_mean,
    world_size,
)

logger = get_logger(__name__)

FIRST_BATCHES = 10  # of a GPU, which are checked
UNTRAINED_BATCHES = 250  # after which unchanged parameters are logged
HOW_TO_LIST = (
    "If the YAML names the loss `compute_cost`, add the line `compute_cost: "
    "!ref <compute_cost>` twice: under `modules:`, so that it is moved and "
    "trained, and under the checkpointer's `recoverables:`, so that it is "
    "saved."
)


class Loss(torch.nn.Module, abc.ABC):
    """The base class of all losses: precision and checks.

    A subclass implements ``_compute(outputs, targets, check, weights)``. It
    gets outputs in float32 or float64, targets in int64, whether to check
    their values, and the weights of the utterances or None.

    ``check_inputs`` decides which batches are checked: class numbers must be
    in their range, cosines in [-1, 1]. A GPU has to wait for each check. True
    checks every batch, False none. None, the default, checks every batch on a
    CPU and the first 10 on a GPU. After these, a class number out of range
    stops CUDA with a "device-side assert". Run again with the environment
    variable CUDA_LAUNCH_BLOCKING=1: every batch is checked, and the error
    says what is wrong. Nothing is checked inside torch.compile and
    torch.func, where tensors have no values.

    If gradients reach the parameters of a loss but the parameters never
    change, the loss logs once how a recipe must list it.
    """

    check_inputs = None
    waits_anyway = False  # whether a GPU waits even without checks
    _batches = 0
    _trained = 0
    _first_values = None

    @fwd_default_precision
    def forward(self, outputs, targets, length=None, weights=None):
        """Computes the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Cosines or logits of shape [batch, 1, classes], or embeddings of
            shape [batch, 1, embedding], of any floating type.
        targets : torch.Tensor
            Class numbers, or speakers, of any integer type, shape [batch, 1].
        length : torch.Tensor
            Not used; part of SpeechBrain's interface.
        weights : torch.Tensor
            Weights of the utterances, 0 or more, shape [batch]. The loss is
            their weighted mean, over all processes, and 0 if all weights are
            0. None for equal weights. Only losses on the outputs of all
            classes take weights.

        Returns
        -------
        torch.Tensor
            The loss, a scalar of type float32, or float64 for such outputs.

        Raises
        ------
        ValueError
            If the targets are not integers, the outputs are on another
            device than the loss's parameters, or this loss takes no weights
            or has other ones than one per utterance, 0 or more.
        """
        if targets.is_floating_point() or targets.is_complex():
            raise ValueError(
                "`targets` must be whole numbers of an integer type, got "
                f"{targets.dtype}; pass targets.long()."
            )
        for name, parameter in self.named_parameters():
            if parameter.dim() and parameter.device != outputs.device:
                raise ValueError(
                    f"`outputs` must be on the device of the loss's {name}, "
                    f"{parameter.device}, got {outputs.device}. {HOW_TO_LIST}"
                )
        if self.training and torch.is_grad_enabled():
            self._watch_parameters()
        check = self._checks(outputs.device)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return self._compute(outputs, targets.long(), check, weights)

    @abc.abstractmethod
    def _compute(self, outputs, targets, check, weights=None):
        """The loss of outputs in float32 or better and targets in int64."""

    def _checks(self, device):
        """Whether the values of this batch are checked."""
        if transformed() or torch.compiler.is_compiling():
            return False  # there are no values to look at
        self._batches += 1
        if self.check_inputs is not None:
            return self.check_inputs
        return (
            device.type == "cpu"
            or self.waits_anyway
            or self._batches <= FIRST_BATCHES
            or os.environ.get("CUDA_LAUNCH_BLOCKING") == "1"
        )

    def _watch_parameters(self):
        """Logs once that no optimizer has this loss's parameters."""
        if self._trained > UNTRAINED_BATCHES or torch.compiler.is_compiling():
            return
        own = {
            name: parameter
            for name, parameter in self.named_parameters()
            if isinstance(parameter, torch.nn.Parameter)
            and parameter.requires_grad
        }
        if self._trained == 0:
            self._first_values = {n: p.detach().clone() for n, p in own.items()}
        self._trained += 1
        if self._trained <= UNTRAINED_BATCHES:
            return
        # a GPU waits here, once in a run
        first, self._first_values = self._first_values, None
        pulled = any(p.grad is not None and p.grad.any() for p in own.values())
        moved = any(
            name not in first or not torch.equal(first[name].to(p), p)
            for name, p in own.items()
        )
        if pulled and not moved:
            logger.warning(
                f"The parameters of {type(self).__name__} "
                f"({', '.join(own)}) did not change in {UNTRAINED_BATCHES} "
                f"training batches: no optimizer has them. {HOW_TO_LIST}"
            )


class ClassificationLoss(Loss):
    """A loss on the cosines, or the logits, of every class.

    A subclass implements ``_loss(cosines [batch, classes], targets [batch,
    1], shares=None)``. ``largest_cosine`` is the largest value that a cosine
    of 1 may be rounded to; None means that the loss takes logits. ``shares``
    are None for the mean over the batch. Otherwise the loss is the sum of
    ``shares [batch]`` times the utterances' losses. A label filter
    (``speechbrain_ext.processing.label_filters``) needs them.

    A subclass that also implements ``_shard_loss(cosines, targets, rows,
    columns, shares=None)`` supports ``shard_classifier``. With a ``shard`` (of
    a classifier of ``speechbrain_ext.nnet.sharded``) the cosines are those of
    the utterances of all processes with the classes of this process only.
    ``targets`` are counted from the first of these classes. ``rows`` and
    ``columns`` are the places of the true classes among them. The method
    returns the loss over all classes; its gradient is that of these classes.
    """

    largest_cosine = 1.1
    shard = None

    def _compute(self, outputs, targets, check, weights=None):
        if self.shard is not None:
            targets = all_gather(targets)
        cosines, targets = cosines_and_targets(
            outputs, targets, self.largest_cosine, self.shard, check
        )
        shares = {}  # none: a subclass need not know them
        if weights is not None:
            batch = outputs.shape[0]
            if self.shard is not None:
                batch = batch // world_size()  # the outputs are of all
            _check_weights(weights, batch, check)
            shares["shares"] = self._shares(weights.to(cosines.dtype))
        if self.shard is None:
            return self._loss(cosines, targets, **shares)
        here = (targets >= 0) & (targets < cosines.shape[1])
        rows = here.nonzero()[:, 0]  # a GPU waits here
        columns = targets[rows, 0]
        return self._shard_loss(cosines, targets, rows, columns, **shares)

    def check_weights(self):
        """Raises if the loss cannot weigh the utterances.

        Raises
        ------
        ValueError
            If the method that computes it has no argument ``shares``.
        """
        name = "_loss" if self.shard is None else "_shard_loss"
        if "shares" not in inspect.signature(getattr(self, name)).parameters:
            raise ValueError(
                f"The loss {type(self).__name__} does not support weights: "
                f"its `{name}` has no argument `shares`. Set `label_filter` "
                "to null, or add the argument (Softmax has a short one)."
            )

    def _shares(self, weights):
        """Shares of the loss, whose mean over the processes sums to 1."""
        self.check_weights()
        if self.shard is not None:
            weights = all_gather(weights)
            total = weights.sum()
        else:
            total = all_reduce_mean(weights.sum())
        return weights / total.clamp(min=torch.finfo(total.dtype).tiny)

    @abc.abstractmethod
    def _loss(self, cosines, targets, shares=None):
        """The mean loss over the batch, or the sum of shares of it."""

    def _shard_loss(self, cosines, targets, rows, columns, shares=None):
        """The same over the batch of all processes."""
        name = type(self).__name__
        raise ValueError(
            f"The loss {name} does not support `shard_classifier`: it has no "
            "method `_shard_loss`. Set `shard_classifier` to False, or write "
            f"`{name}._shard_loss` (AMSoftmax has a short one)."
        )


class MetricLoss(Loss):
    """A loss on the embeddings of several utterances per speaker.

    A subclass implements ``_loss(embeddings [batch, embedding], speakers
    [batch], counts [speakers])``. ``at_least`` is the number of utterances
    that it needs of each speaker. Numbering the speakers makes a GPU wait, so
    every batch is checked unless ``check_inputs`` is False.
    """

    at_least = 2
    waits_anyway = True

    def _compute(self, outputs, targets, check, weights=None):
        refuse_weights(self, weights)
        outputs, targets = all_gather(outputs), all_gather(targets)
        return self._loss(*grouped(outputs, targets, self.at_least, check))

    @abc.abstractmethod
    def _loss(self, embeddings, speakers, counts):
        """The loss of speakers numbered from 0."""


def refuse_weights(loss, weights):
    """Raises if a metric loss is given weights.

    Arguments
    ---------
    loss : Loss
        The loss.
    weights : torch.Tensor
        Weights of the utterances, or None.

    Raises
    ------
    ValueError
        If there are weights.

    Example
    -------
    >>> refuse_weights(torch.nn.Identity(), torch.ones(2))
    Traceback (most recent call last):
    ValueError: `weights` must be None for Identity, a metric loss.
    """
    if weights is not None:
        raise ValueError(
            f"`weights` must be None for {type(loss).__name__}, a metric loss."
        )


def transformed():
    """Whether torch.func transforms what is being computed.

    Returns
    -------
    bool
        True inside torch.func.grad, torch.vmap and the like.

    Example
    -------
    >>> transformed()
    False
    """
    return torch._C._are_functorch_transforms_active()


def cosines_and_targets(outputs, targets, within=None, shard=None, check=True):
    """Checks a batch and drops its middle dimension.

    Arguments
    ---------
    outputs : torch.Tensor
        Cosines or logits of shape [batch, 1, classes].
    targets : torch.Tensor
        Class numbers of shape [batch, 1].
    within : float
        Largest value that a cosine may be rounded to; None for logits.
    shard : speechbrain_ext.nnet.sharded.Shard
        The classes of the outputs; None for all.
    check : bool
        Whether to check values as well as shapes, which makes a GPU wait.
        Without the check a target out of range stops CUDA later.

    Returns
    -------
    cosines : torch.Tensor
        Shape [batch, classes].
    targets : torch.Tensor
        Shape [batch, 1], of type int64, counted from the shard's first class.

    Raises
    ------
    ValueError
        If a shape does not fit, a target is out of range, or an output is not
        a cosine.
    """
    _check_shapes(outputs, targets, "classes")
    first, classes = (0, outputs.shape[2])
    if shard is not None:
        first, classes = shard.first, shard.classes
    targets = targets.long()
    if check:
        _check_values(outputs.detach(), targets, classes, within)
    elif targets.device.type == "cuda" and not transformed():
        # does not make the GPU wait, and still stops at a wrong target
        torch._assert_async(((targets >= 0) & (targets < classes)).all())
    return outputs.squeeze(1), targets - first


def grouped(outputs, targets, at_least, check=True):
    """Checks a batch of a metric loss and numbers its speakers from 0.

    Arguments
    ---------
    outputs : torch.Tensor
        Embeddings of shape [batch, 1, embedding].
    targets : torch.Tensor
        Speakers, any whole numbers, shape [batch, 1].
    at_least : int
        Utterances that each speaker must have.
    check : bool
        Whether to check ``at_least``, which makes a GPU wait once more.

    Returns
    -------
    embeddings : torch.Tensor
        Shape [batch, embedding], sorted by speaker; those of a speaker are in
        the order of the batch.
    speakers : torch.Tensor
        Speakers numbered from 0 in increasing order, shape [batch].
    counts : torch.Tensor
        Utterances of each speaker, shape [speakers].

    Raises
    ------
    ValueError
        If a shape does not fit, there is only one speaker, or a speaker has
        too few utterances.
    """
    _check_shapes(outputs, targets, "embedding")
    labels, speakers, counts = targets.squeeze(1).unique(
        return_inverse=True, return_counts=True
    )
    if len(labels) < 2:
        raise ValueError(
            f"`targets` must hold two speakers or more, got {len(labels)}; "
            "a metric loss compares speakers."
        )
    if check and int(counts.min()) < at_least:
        label = labels[counts.argmin()].item()
        raise ValueError(
            f"`targets` must hold {at_least} utterances or more of each "
            f"speaker, got {int(counts.min())} of {label}; use a balanced "
            "sampler."
        )
    # by speaker: the order is the same on any number of processes
    order = speakers.argsort(stable=True)
    return outputs.squeeze(1)[order], speakers[order], counts


def _check_weights(weights, batch, check):
    if list(weights.shape) != [batch]:
        raise ValueError(
            "`weights` must be one number an utterance, of shape "
            f"[{batch}], got {list(weights.shape)}."
        )
    if check and not (weights >= 0).all():
        raise ValueError(
            f"`weights` must be 0 or more, got {weights.min().item():g}."
        )


def _check_shapes(outputs, targets, last):
    if outputs.dim() != 3 or outputs.shape[1] != 1 or not outputs.numel():
        raise ValueError(
            f"`outputs` must be of shape [batch, 1, {last}] with no 0 among "
            f"them, got {list(outputs.shape)}."
        )
    if targets.shape != outputs.shape[:2]:
        raise ValueError(
            "`targets` must be of shape [batch, 1] with the batch of "
            f"`outputs` ({outputs.shape[0]}), got {list(targets.shape)}."
        )


def _check_values(outputs, targets, classes, within):
    lowest, highest = (int(value) for value in targets.aminmax())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"`targets` must be in [0, {classes}), got {lowest} to {highest}; "
            "the label map and the classifier do not belong together."
        )
    if within is not None:
        lowest, highest = (value.item() for value in outputs.aminmax())
        # NaN passes: the training script names its batch
        if lowest < -within or highest > within:
            raise ValueError(
                "`outputs` must be cosines in [-1, 1], got "
                f"{lowest:.4g} to {highest:.4g}; use CosineClassifier."
            )
