"""Classification heads whose classes are split over the processes.

Each process holds the rows of its own classes. The embeddings of all
processes are gathered, each process computes the outputs, and with a loss of
``speechbrain_ext.nnet.losses`` the part of the loss, of its own classes; only
the embeddings' gradients travel back. Weights, gradients and optimiser states
shrink with the number of processes.
"""

import functools

import torch
from speechbrain.utils.autocast import fwd_default_precision

from speechbrain_ext.nnet.classifiers import CosineClassifier, LinearClassifier
from speechbrain_ext.utils.distributed import all_gather, rank, world_size


class Shard:
    """Which classes of a head this process holds.

    The first processes hold one class more where they do not divide.

    Arguments
    ---------
    classes : int
        Number of classes of the whole head.
    rows_per_class : int
        Rows of the weight that belong to one class.

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
                f"A head of {classes} classes cannot be split over "
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
        """This process's rows of a whole tensor.

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
        """The rows of all processes, on the first process.

        Arguments
        ---------
        own : torch.Tensor
            This process's rows. Every process must call this.

        Returns
        -------
        torch.Tensor
            On the first process the rows of all classes, in the memory of the
            processor; on the others None.
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
    """What the sharded heads have in common: rows of their own."""

    def _own_parameter(self, draw, *row):
        """This process's rows of a parameter that is drawn row by row.

        All rows are drawn, a block at a time: the weights, and the state of
        the generator, are those of the head that is not sharded.
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

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        """Takes this process's rows of a whole head."""
        state_dict = dict(state_dict)
        rows = self.shard.classes * self.shard.rows_per_class
        for name, _ in self.named_parameters(recurse=False):
            value = state_dict.get(prefix + name)
            if value is not None and len(value) == rows:
                state_dict[prefix + name] = self.shard.own(value)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class ShardedCosineClassifier(_ShardedHead):
    """``CosineClassifier`` whose classes are split over the processes.

    It draws the weights that ``CosineClassifier`` would draw, loads that one's
    state, and hands its ``shard`` to a loss: ``loss.shard = head.shard``.

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of classes, over all processes.
    sub_centers : int
        Vectors of each class; the largest of their cosines counts.

    Raises
    ------
    ValueError
        If there are fewer classes than processes, a size is below 1, or
        embeddings of another size arrive.

    Example
    -------
    >>> head = ShardedCosineClassifier(input_size=256, out_neurons=10)
    >>> head(torch.rand(4, 1, 256)).shape
    torch.Size([4, 1, 10])
    """

    def __init__(self, input_size, out_neurons, sub_centers=1):
        super().__init__()
        # its checks; on meta nothing is drawn or kept
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
        """Computes the cosines of all embeddings with this process's classes.

        Arguments
        ---------
        embeddings : torch.Tensor
            This process's embeddings, of shape [batch, 1, embedding], as many
            as on every other process.

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
        return cosines.unflatten(-1, (-1, sub_centers)).amax(dim=-1)


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
        If there are fewer classes than processes, or embeddings of another
        size arrive.

    Example
    -------
    >>> head = ShardedLinearClassifier(input_size=256, out_neurons=10)
    >>> head(torch.rand(4, 1, 256)).shape
    torch.Size([4, 1, 10])
    """

    def __init__(self, input_size, out_neurons):
        super().__init__()
        self.shard = Shard(out_neurons)
        limit = input_size**-0.5  # as torch.nn.Linear draws them

        def draw(block):
            return block.uniform_(-limit, limit)

        self.weight = self._own_parameter(draw, input_size)
        self.bias = self._own_parameter(draw)

    def forward(self, embeddings):
        """Computes the logits of all embeddings for this process's classes.

        Arguments
        ---------
        embeddings : torch.Tensor
            This process's embeddings, of shape [batch, 1, embedding], as many
            as on every other process.

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
    """The sharded head that belongs to a head.

    Arguments
    ---------
    classifier : type
        The class of a head, or a functools.partial of it, as ``!name:`` in a
        YAML gives it.

    Returns
    -------
    functools.partial
        The same with the sharded class.

    Raises
    ------
    ValueError
        If there is no sharded head of that kind.

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
            f"`shard_classifier` needs one of "
            f"{', '.join(one.__name__ for one in SHARDED)}, got {name}."
        )
    return functools.partial(
        SHARDED[kind],
        *getattr(classifier, "args", ()),
        **getattr(classifier, "keywords", {}),
    )


class _Cosines(torch.autograd.Function):
    """Cosines without a normalised copy of the weight, nor of its gradient."""

    @staticmethod
    def forward(ctx, unit, weight):
        norms = weight.norm(dim=1).clamp(min=1e-12)
        cosines = (unit @ weight.T).div_(norms)
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
            f"`embeddings` must be of size {weight.shape[1]} (the head's "
            f"`input_size`), got {embeddings.shape[-1]}."
        )
