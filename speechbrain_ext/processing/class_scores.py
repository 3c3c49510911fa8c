"""What a batch of training says of its labels, over all classes."""

import functools

import torch

from speechbrain_ext.nnet.losses.angles import cos_plus_margin
from speechbrain_ext.utils.distributed import (
    all_gather,
    all_reduce_sum,
    rank,
    world_size,
)


class ClassScores:
    """The cosines of a batch with all classes, and the given labels.

    With a split classifier (``speechbrain_ext.nnet.sharded``) each process has
    the cosines of the utterances of all processes with its own classes. The
    processes then share a few numbers per utterance, and every method answers
    for the utterances of all processes. Otherwise it answers for those of this
    process. No method has a gradient, and none makes a GPU wait.

    Arguments
    ---------
    outputs : torch.Tensor
        Cosines or logits, shape [batch, 1, classes].
    labels : torch.Tensor
        Class numbers of this process's utterances, shape [batch, 1].
    shard : speechbrain_ext.nnet.sharded.Shard
        The classes of the outputs; None for all.
    sub_cosines : torch.Tensor
        Cosines with the sub-centers, shape [batch, 1, classes, sub_centers],
        or None.

    Example
    -------
    >>> outputs = torch.tensor([[[0.9, 0.1, 0.3]], [[0.5, 0.7, 0.6]]])
    >>> scores = ClassScores(outputs, torch.tensor([[0], [2]]))
    >>> scores.own.tolist(), scores.place().tolist()
    ([0.8999999761581421, 0.6000000238418579], [0, 1])
    """

    def __init__(self, outputs, labels, shard=None, sub_cosines=None):
        self.shard = shard
        self.labels = self.every(labels.squeeze(1))
        self.outputs = outputs.detach().squeeze(1)
        self.outputs = self.outputs.to(
            torch.promote_types(self.outputs.dtype, torch.float32)
        )
        self.sub_cosines = sub_cosines
        self.first = 0 if shard is None else shard.first
        columns = (self.labels - self.first).unsqueeze(1)
        own = self.outputs.shape[1]
        self.here = (columns >= 0) & (columns < own)
        self.columns = columns.clamp(0, own - 1)

    def every(self, values):
        """Values of all utterances that the methods answer for.

        Arguments
        ---------
        values : torch.Tensor
            Of this process's utterances, shape [batch].

        Returns
        -------
        torch.Tensor
            Those of all processes with a split classifier, else the same.
        """
        return values if self.shard is None else all_gather(values)

    def mine(self, values):
        """Values of this process's utterances.

        Arguments
        ---------
        values : torch.Tensor
            Of the utterances that the methods answer for, shape [batch].

        Returns
        -------
        torch.Tensor
            Shape [batch of this process].
        """
        if self.shard is None:
            return values
        return values.unflatten(0, (world_size(), -1))[rank()]

    @functools.cached_property
    def own(self):
        """The output of the given label, shape [batch]."""
        own = self.outputs.gather(1, self.columns)
        return self._sum(torch.where(self.here, own, 0).squeeze(1))

    def place(self, margin=0.0):
        """The number of other classes that come before the label.

        Arguments
        ---------
        margin : float
            Subtracted from the output of the label.

        Returns
        -------
        torch.Tensor
            Shape [batch].
        """
        higher = self.outputs > (self.own - margin).unsqueeze(1)
        other = higher.gather(1, self.columns) & ~self.here
        higher.scatter_(1, self.columns, other)
        return self._sum(higher.sum(dim=1))

    @functools.cached_property
    def best(self):
        """The highest output and its class, each of shape [batch]."""
        values, classes = self.outputs.max(dim=1)
        if self.shard is None:
            return values, classes
        every = all_gather(values.unsqueeze(0))  # [processes, batch]
        values, process = every.max(dim=0, keepdim=True)
        classes = all_gather((classes + self.first).unsqueeze(0))
        return values.squeeze(0), classes.gather(0, process).squeeze(0)

    def others(self, scale):
        """Log of the sum of exponentials of all classes but the label.

        Arguments
        ---------
        scale : float
            Factor of the outputs.

        Returns
        -------
        torch.Tensor
            Shape [batch].
        """
        lowest = self.outputs.new_full((), -torch.inf)
        own = self.outputs.gather(1, self.columns)
        own = torch.where(self.here, lowest, own)
        others = self.outputs.scatter(1, self.columns, own)
        others = others.mul_(scale).logsumexp(dim=1)
        if self.shard is None:
            return others
        return all_gather(others.unsqueeze(0)).logsumexp(dim=0)

    def cross_entropy(self, scale, margin):
        """The cross-entropy of the given labels, with an angular margin.

        Arguments
        ---------
        scale : float
            Factor of the outputs.
        margin : float
            Radians, added to the angle of the label; 0 for logits.

        Returns
        -------
        torch.Tensor
            Shape [batch]; exact for small values too.
        """
        own = cos_plus_margin(self.own, margin) if margin else self.own
        return torch.nn.functional.softplus(self.others(scale) - scale * own)

    def best_probability(self, scale):
        """The softmax probability of the class with the highest output.

        Arguments
        ---------
        scale : float
            Factor of the outputs.

        Returns
        -------
        torch.Tensor
            Shape [batch].
        """
        total = torch.logaddexp(self.others(scale), scale * self.own)
        return torch.exp(scale * self.best[0] - total)

    def label_sub_cosines(self):
        """Cosines with the sub-centers of the given label.

        Returns
        -------
        torch.Tensor
            Shape [batch, sub_centers].
        """
        cosines = self.sub_cosines.detach().squeeze(1)
        place = self.columns.unsqueeze(2).expand(-1, 1, cosines.shape[2])
        found = cosines.gather(1, place).squeeze(1)
        return self._sum(torch.where(self.here, found, 0))

    def _sum(self, part):
        """Adds what the processes know about the same utterances."""
        return part if self.shard is None else all_reduce_sum(part)
