"""Classification heads whose classes are split over the processes.

Each process has the weights of its own classes. It gets the embeddings of all
processes and computes the outputs for its classes, and its part of the loss
(``speechbrain_ext.nnet.losses``). Only gradients of embeddings are sent back.
With more processes, the weights, gradients and optimizer states on each of
them become smaller.
"""

import functools

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.classifiers import CosineClassifier, LinearClassifier
from speechbrain_ext.utils.distributed import all_gather, rank, world_size


class Shard:
    """The classes of a classifier that this process has.

    If the classes cannot be divided evenly, the first processes have one class
    more.

    Arguments
    ---------
    classes : int
        Number of classes of the whole classifier.
    rows_per_class : int
        Rows of the weight per class.

    Raises
    ------
    ValueError
        If there are fewer classes than processes.

    Example
    -------
    >>> shard = Shard(10)
    >>> shard.first, shard.stop
    (0, 10)
    """

    def __init__(self, classes, rows_per_class=1):
        if classes < world_size():
            raise ValueError(
                f"A classifier of {classes} classes cannot be split over "
                f"{world_size()} processes; start fewer, or set "
                "`shard_classifier` to False."
            )
        self.classes = classes
        self.rows_per_class = rows_per_class
        self.bounds = [
            number * (classes // world_size())
            + min(number, classes % world_size())
            for number in range(world_size() + 1)
        ]
        self.first, self.stop = self.bounds[rank() :][:2]

    def own(self, whole):
        """Takes the rows of this process from a whole tensor.

        Arguments
        ---------
        whole : torch.Tensor
            Rows of all classes, shape [classes * rows_per_class, ...].

        Returns
        -------
        torch.Tensor
            A view of the rows of this process's classes.
        """
        return whole[
            self.first * self.rows_per_class : self.stop * self.rows_per_class
        ]

    def whole(self, own):
        """Collects the rows of all processes on the first process.

        All processes must call this.

        Arguments
        ---------
        own : torch.Tensor
            The rows of this process.

        Returns
        -------
        torch.Tensor
            The rows of all classes, on the CPU, on the first process; None on
            the others.
        """
        if world_size() == 1:
            return own.detach().cpu()
        shape = own.shape[1:]
        if rank() > 0:
            torch.distributed.send(own.detach().contiguous(), dst=0)
            return None
        whole = torch.empty(
            self.classes * self.rows_per_class, *shape, dtype=own.dtype
        )
        for number in range(world_size()):
            first, stop = (
                self.rows_per_class * bound
                for bound in self.bounds[number : number + 2]
            )
            if number == 0:
                whole[first:stop] = own.detach()
                continue
            part = own.new_empty(stop - first, *shape)
            torch.distributed.recv(part, src=number)
            whole[first:stop] = part
        return whole


class _ShardedHead(torch.nn.Module):
    """The base class of sharded classifiers."""

    def _own_parameter(self, draw, *row):
        """The rows of this process of a randomly initialized parameter.

        The rows of all processes are drawn, in blocks, so that the weights and
        the random state afterwards are those of the whole classifier.
        """
        per_class = self.shard.rows_per_class
        first, stop = self.shard.first * per_class, self.shard.stop * per_class
        parameter = torch.nn.Parameter(torch.empty(stop - first, *row))
        rows, block = self.shard.classes * per_class, 4096
        for start in range(0, rows, block):
            drawn = draw(torch.empty(min(block, rows - start), *row))
            below, above = max(start, first), min(start + block, stop)
            if below < above:
                parameter.data[below - first : above - first] = drawn[
                    below - start : above - start
                ]
        parameter.shard = self.shard
        return parameter

    def __setstate__(self, state):
        """Of a copy, whose parameters are new: their rows are a shard too."""
        super().__setstate__(state)
        for parameter in self.parameters(recurse=False):
            parameter.shard = self.shard

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """Loads this process's rows from the state of a whole classifier."""
        state_dict = dict(state_dict)
        rows = self.shard.classes * self.shard.rows_per_class
        for name, _ in self.named_parameters(recurse=False):
            value = state_dict.get(prefix + name)
            if value is not None and len(value) == rows:
                state_dict[prefix + name] = self.shard.own(value)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class ShardedCosineClassifier(_ShardedHead):
    """``CosineClassifier`` whose classes are split over the processes.

    Its initial weights are those of ``CosineClassifier``, and it loads the
    state of one. A loss needs its shard: ``loss.shard = head.shard``.

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of classes, over all processes.
    sub_centers : int
        Number of vectors per class. The largest of their cosines counts, see
        ``CosineClassifier``.

    Raises
    ------
    ValueError
        If there are fewer classes than processes, a size is below 1, or
        embeddings have another size.

    Example
    -------
    >>> head = ShardedCosineClassifier(input_size=256, out_neurons=10)
    >>> head(torch.rand(4, 1, 256)).shape
    torch.Size([4, 1, 10])
    """

    keeps_sub_cosines = False
    sub_cosines = None

    def __init__(self, input_size, out_neurons, sub_centers=1):
        super().__init__()
        # checks the arguments; on meta nothing is drawn or stored
        with torch.device("meta"):
            CosineClassifier(input_size, out_neurons, sub_centers)
        self.shard = Shard(out_neurons, sub_centers)
        rows = out_neurons * sub_centers
        limit = (6 / (rows + input_size)) ** 0.5
        self.weight = self._own_parameter(
            lambda block: block.uniform_(-limit, limit), input_size
        )

    @fwd_default_precision
    def forward(self, embeddings):
        """Computes the cosines of all embeddings with the own classes.

        Arguments
        ---------
        embeddings : torch.Tensor
            The embeddings of this process, of shape [batch, 1, embedding].
            Every process has the same number of them.

        Returns
        -------
        torch.Tensor
            Cosines of shape [processes * batch, 1, own classes].
        """
        _check_size(embeddings, self.weight)
        every = all_gather(embeddings.squeeze(1), weight=world_size())
        cosines = _Cosines.apply(
            torch.nn.functional.normalize(every, dim=-1), self.weight
        ).unsqueeze(1)
        sub_centers = self.shard.rows_per_class
        if sub_centers == 1:
            return cosines
        # [processes * batch, 1, own classes, sub_centers]
        cosines = cosines.unflatten(-1, (-1, sub_centers))
        if self.keeps_sub_cosines:
            self.sub_cosines = cosines.detach()
        return cosines.amax(dim=-1)


class ShardedLinearClassifier(_ShardedHead):
    """``LinearClassifier`` whose classes are split over the processes.

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of classes, over all processes.

    Raises
    ------
    ValueError
        If there are fewer classes than processes, or embeddings have another
        size.

    Example
    -------
    >>> head = ShardedLinearClassifier(input_size=256, out_neurons=10)
    >>> head(torch.rand(4, 1, 256)).shape
    torch.Size([4, 1, 10])
    """

    def __init__(self, input_size, out_neurons):
        super().__init__()
        self.shard = Shard(out_neurons)
        limit = input_size**-0.5  # as in torch.nn.Linear

        def draw(block):
            return block.uniform_(-limit, limit)

        self.weight = self._own_parameter(draw, input_size)
        self.bias = self._own_parameter(draw)

    def forward(self, embeddings):
        """Computes the logits of all embeddings for the own classes.

        Arguments
        ---------
        embeddings : torch.Tensor
            The embeddings of this process, of shape [batch, 1, embedding].
            Every process has the same number of them.

        Returns
        -------
        torch.Tensor
            Logits of shape [processes * batch, 1, own classes].
        """
        _check_size(embeddings, self.weight)
        every = all_gather(embeddings, weight=world_size())
        return torch.nn.functional.linear(every, self.weight, self.bias)


SHARDED = {
    CosineClassifier: ShardedCosineClassifier,
    LinearClassifier: ShardedLinearClassifier,
}


def sharded(classifier):
    """Turns a classifier into a sharded classifier.

    Arguments
    ---------
    classifier : type
        The class of a classifier, or a functools.partial of it, which
        ``!name:`` in a YAML makes.

    Returns
    -------
    functools.partial
        The same with the sharded class.

    Raises
    ------
    ValueError
        If that class has no sharded form.

    Example
    -------
    >>> import functools
    >>> head = sharded(functools.partial(CosineClassifier, input_size=8))
    >>> head(out_neurons=3).weight.shape
    torch.Size([3, 8])
    """
    kind = getattr(classifier, "func", classifier)
    if kind not in SHARDED:
        name = getattr(kind, "__name__", type(kind).__name__)
        raise ValueError(
            "`shard_classifier` supports "
            f"{' and '.join(one.__name__ for one in SHARDED)}, got {name}; "
            "set it to False."
        )
    return functools.partial(
        SHARDED[kind],
        *getattr(classifier, "args", ()),
        **getattr(classifier, "keywords", {}),
    )


class _Cosines(torch.autograd.Function):
    """Cosines without a normalized copy of the weight or its gradient."""

    @staticmethod
    def forward(ctx, unit, weight):
        norms = weight.norm(dim=1).clamp(min=1e-12)
        products = unit @ weight.T
        # torch.compile loses the gradient of an output that is changed in
        # place; without it, in place saves memory
        in_place = not torch.compiler.is_compiling()
        cosines = products.div_(norms) if in_place else products / norms
        ctx.save_for_backward(unit, weight, norms, cosines)
        return cosines

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        unit, weight, norms, cosines = ctx.saved_tensors
        along = torch.einsum("bc,bc->c", gradient, cosines) / norms.square()
        gradient = gradient / norms
        to_unit = gradient @ weight
        to_weight = gradient.T @ unit
        to_weight.addcmul_(weight, along.unsqueeze(1), value=-1)
        return to_unit, to_weight


def _check_size(embeddings, weight):
    if embeddings.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"`embeddings` must be of size {weight.shape[1]} (the classifier's "
            f"`input_size`), got {embeddings.shape[-1]}."
        )
