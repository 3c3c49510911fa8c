"""Normalisation of embeddings."""

import torch


class EmbeddingMean(torch.nn.Module):
    """Subtracts a fixed mean from embeddings.

    SpeechBrain's pretrained interface applies it where ``encode_batch`` is
    called with ``normalize=True``. A mean of zeros changes nothing.

    Arguments
    ---------
    size : int
        Size of the embeddings.

    Example
    -------
    >>> norm = EmbeddingMean(2)
    >>> norm(torch.tensor([[[1.0, 2.0]]]))
    tensor([[[1., 2.]]])
    """

    def __init__(self, size):
        super().__init__()
        if size < 1:
            raise ValueError(f"`size` must be at least 1, got {size}.")
        self.register_buffer("mean", torch.zeros(size))

    def forward(self, x, lengths=None):
        """Subtracts the mean.

        Arguments
        ---------
        x : torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        lengths : torch.Tensor
            Not used; SpeechBrain's contract.

        Returns
        -------
        torch.Tensor
            Embeddings of shape [batch, 1, embedding].
        """
        return x - self.mean
