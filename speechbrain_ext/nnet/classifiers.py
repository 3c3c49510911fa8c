"""Classification heads, which give cosines or logits to a loss."""

import torch
from speechbrain.utils.autocast import fwd_default_precision


class CosineClassifier(torch.nn.Module):
    """Cosines between embeddings and the vectors of the classes.

    The cosines are computed in float32, under autocast too. The weight is
    initialized as in WeSpeaker (Xavier uniform). It is never normalized in
    place.

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of classes.
    sub_centers : int
        Number of vectors per class. The largest of their cosines counts (Deng
        et al., "Sub-center ArcFace", ECCV 2020). After each batch
        ``sub_cosines`` has all of them, if ``keeps_sub_cosines`` was set.

    Raises
    ------
    ValueError
        If a size is below 1, or embeddings have another size.

    Example
    -------
    >>> head = CosineClassifier(input_size=256, out_neurons=10)
    >>> head(torch.rand(4, 1, 256)).shape
    torch.Size([4, 1, 10])
    """

    keeps_sub_cosines = False
    sub_cosines = None

    def __init__(self, input_size, out_neurons, sub_centers=1):
        super().__init__()
        for name, value in (
            ("input_size", input_size),
            ("out_neurons", out_neurons),
            ("sub_centers", sub_centers),
        ):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.sub_centers = sub_centers
        self.weight = torch.nn.Parameter(
            torch.empty(out_neurons * sub_centers, input_size)
        )
        torch.nn.init.xavier_uniform_(self.weight)

    @fwd_default_precision
    def forward(self, embeddings):
        """Computes the cosine of every embedding with every class.

        Arguments
        ---------
        embeddings : torch.Tensor
            Embeddings of shape [batch, 1, embedding].

        Returns
        -------
        torch.Tensor
            Cosines of shape [batch, 1, classes].
        """
        _check_size(embeddings, self.weight)
        cosines = torch.nn.functional.linear(
            torch.nn.functional.normalize(embeddings, dim=-1),
            torch.nn.functional.normalize(self.weight, dim=-1),
        )
        if self.sub_centers == 1:
            return cosines
        # [batch, 1, classes, sub_centers]
        cosines = cosines.unflatten(-1, (-1, self.sub_centers))
        if self.keeps_sub_cosines:
            self.sub_cosines = cosines.detach()
        return cosines.amax(dim=-1)


class LinearClassifier(torch.nn.Linear):
    """A linear layer with bias, for plain softmax.

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_neurons : int
        Number of classes.

    Raises
    ------
    ValueError
        If embeddings have another size.

    Example
    -------
    >>> head = LinearClassifier(input_size=256, out_neurons=10)
    >>> head(torch.rand(4, 1, 256)).shape
    torch.Size([4, 1, 10])
    """

    def __init__(self, input_size, out_neurons):
        super().__init__(input_size, out_neurons)

    def forward(self, embeddings):
        """Computes the logits.

        Arguments
        ---------
        embeddings : torch.Tensor
            Embeddings of shape [batch, 1, embedding].

        Returns
        -------
        torch.Tensor
            Logits of shape [batch, 1, classes].
        """
        _check_size(embeddings, self.weight)
        return super().forward(embeddings)


def _check_size(embeddings, weight):
    if embeddings.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"`embeddings` must be of size {weight.shape[1]} (the classifier's "
            f"`input_size`), got {embeddings.shape[-1]}."
        )
