"""SpeechBrain's contract of a loss, checked and written once."""

import abc

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.utils.distributed import gathered


class ClassLoss(torch.nn.Module, abc.ABC):
    """A loss on the cosines, or the logits, of every class.

    A loss of this kind implements ``_loss(cosines [batch, classes], targets
    [batch, 1])`` and says by ``largest_cosine`` what rounding may leave of a
    cosine of 1, None where logits come in.

    With a ``shard`` (of a classifier of ``speechbrain_ext.nnet.sharded``) the
    outputs are those of all processes' utterances with this process's classes
    alone. ``_shard_loss(cosines, targets, rows, columns)`` is then the loss
    over all classes, the gradient being that of these; ``targets`` are counted
    from the first of them, and ``rows`` and ``columns`` are where the true
    classes stand that are among them.
    """

    largest_cosine = 1.1
    shard = None

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Cosines or logits of shape [batch, 1, classes].
        targets : torch.Tensor
            Class numbers of shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The mean loss over the batch, a scalar; with a ``shard`` over the
            batches of all processes.
        """
        if self.shard is None:
            return self._loss(
                *cosines_and_targets(outputs, targets, self.largest_cosine)
            )
        cosines, targets = cosines_and_targets(
            outputs, gathered(targets), self.largest_cosine, self.shard
        )
        here = (targets >= 0) & (targets < cosines.shape[1])
        rows, columns = here.nonzero()[:, 0], targets[here]
        return self._shard_loss(cosines, targets, rows, columns)

    @abc.abstractmethod
    def _loss(self, cosines, targets):
        """The mean loss over the batch."""

    @abc.abstractmethod
    def _shard_loss(self, cosines, targets, rows, columns):
        """The mean loss over the batch of all processes."""


class EmbeddingLoss(torch.nn.Module, abc.ABC):
    """A loss on the embeddings of several utterances a speaker.

    A loss of this kind implements ``_loss(embeddings [batch, embedding],
    speakers [batch], counts [speakers])`` and says by ``at_least`` how many
    utterances of each speaker it needs.
    """

    at_least = 2

    @fwd_default_precision
    def forward(self, outputs, targets, length=None):
        """Computes the loss.

        Arguments
        ---------
        outputs : torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        targets : torch.Tensor
            Speakers, any whole numbers, shape [batch, 1].
        length : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            The loss of all processes' utterances, a scalar.
        """
        outputs, targets = gathered(outputs), gathered(targets)
        return self._loss(*grouped(outputs, targets, self.at_least))

    @abc.abstractmethod
    def _loss(self, embeddings, speakers, counts):
        """The loss of speakers numbered from 0."""


def cosines_and_targets(outputs, targets, within=None, shard=None):
    """Checks the shapes of SpeechBrain's contract and drops their middle.

    Arguments
    ---------
    outputs : torch.Tensor
        Cosines or logits of shape [batch, 1, classes].
    targets : torch.Tensor
        Class numbers of shape [batch, 1].
    within : float
        Largest cosine that rounding may leave; None where they are logits.
    shard : speechbrain_ext.nnet.sharded.Shard
        Which classes the outputs are of, None for all.

    Returns
    -------
    cosines : torch.Tensor
        Shape [batch, classes].
    targets : torch.Tensor
        Shape [batch, 1], of type int64, counted from the shard's first class.

    Raises
    ------
    ValueError
        If a shape does not fit, a target is no class or an output no cosine.
    """
    _check_shapes(outputs, targets, "classes")
    first, classes = (0, outputs.shape[2])
    if shard is not None:
        first, classes = shard.first, shard.classes
    lowest, highest = (int(value) for value in targets.aminmax())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"`targets` must be in [0, {classes}), got {lowest} to {highest}; "
            "the label map and the classifier do not belong together."
        )
    if within is not None:
        lowest, highest = (value.item() for value in outputs.detach().aminmax())
        # a cosine that is no number passes: the training script names its batch
        if lowest < -within or highest > within:
            raise ValueError(
                "`outputs` must be cosines in [-1, 1], got "
                f"{lowest:.4g} to {highest:.4g}; use CosineClassifier."
            )
    return outputs.squeeze(1), targets.long() - first


def grouped(outputs, targets, at_least):
    """Checks a metric loss's batch and numbers its speakers from 0.

    Arguments
    ---------
    outputs : torch.Tensor
        Embeddings of shape [batch, 1, embedding].
    targets : torch.Tensor
        Speakers, any whole numbers, shape [batch, 1].
    at_least : int
        Utterances that each speaker must have.

    Returns
    -------
    embeddings : torch.Tensor
        Shape [batch, embedding], sorted by speaker, each one's in the order
        of the batch.
    speakers : torch.Tensor
        Speakers numbered from 0 in increasing order, shape [batch].
    counts : torch.Tensor
        Utterances of each, shape [speakers].

    Raises
    ------
    ValueError
        If a shape does not fit, there is one speaker alone, or one has too
        few utterances.
    """
    _check_shapes(outputs, targets, "embedding")
    labels, speakers, counts = targets.squeeze(1).unique(
        return_inverse=True, return_counts=True
    )
    if len(labels) < 2:
        raise ValueError(
            f"`targets` must hold two speakers or more, got {len(labels)}; "
            "a metric loss has nothing to compare."
        )
    if int(counts.min()) < at_least:
        label = labels[counts.argmin()].item()
        raise ValueError(
            f"`targets` must hold {at_least} utterances or more of each "
            f"speaker, got {int(counts.min())} of {label}; use a balanced "
            "sampler."
        )
    # by speaker: the same for any number of processes that it comes from
    order = speakers.argsort(stable=True)
    return outputs.squeeze(1)[order], speakers[order], counts


def _check_shapes(outputs, targets, last):
    if outputs.dim() != 3 or outputs.shape[1] != 1 or outputs.shape[0] == 0:
        raise ValueError(
            f"`outputs` must be of shape [batch, 1, {last}] with a batch of "
            f"at least 1, got {list(outputs.shape)}."
        )
    if targets.shape != outputs.shape[:2]:
        raise ValueError(
            "`targets` must be of shape [batch, 1] with the batch of "
            f"`outputs` ({outputs.shape[0]}), got {list(targets.shape)}."
        )
