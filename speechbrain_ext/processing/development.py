"""The EER of held-out speakers, which is followed during training."""

import pandas as pd
import torch

from speechbrain_ext.processing.cosine import cosine_scores
from speechbrain_ext.utils.distributed import all_reduce_sum
from speechbrain_ext.utils.metrics import EER


class DevelopmentTrials:
    """Trials between the utterances of a manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column ID.
    trials : pandas.DataFrame
        Columns enrol and test, which are IDs of the manifest, and target.
    embedding_size : int
        Size of the embeddings that ``keep`` takes.

    Example
    -------
    >>> manifest = pd.DataFrame({"ID": ["a/1", "a/2", "b/1"]})
    >>> rows = [("a/1", "a/2", True), ("a/1", "b/1", False)]
    >>> trials = pd.DataFrame(rows, columns=["enrol", "test", "target"])
    >>> dev_trials = DevelopmentTrials(manifest, trials)
    >>> dev_trials.eer(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    0.0
    """

    def __init__(self, manifest, trials, embedding_size=0):
        self.utterances = len(manifest)
        self.embeddings = torch.zeros(self.utterances, embedding_size)
        rows = pd.Series(range(self.utterances), index=manifest["ID"])
        self.enrol, self.test = (
            torch.from_numpy(rows[trials[side]].to_numpy(copy=True))
            for side in ("enrol", "test")
        )
        target = trials["target"].to_numpy(dtype=bool, copy=True)
        self.target = torch.from_numpy(target)

    def eer(self, embeddings):
        """Computes the equal error rate of the cosines.

        Arguments
        ---------
        embeddings : torch.Tensor
            A row for each utterance of the manifest, shape [utterances,
            embedding].

        Returns
        -------
        float
            The EER, a fraction.
        """
        scores = cosine_scores(embeddings, self.enrol, self.test)
        return EER(scores[self.target], scores[~self.target])[0]

    def keep(self, rows, embeddings):
        """Keeps embeddings of a batch for ``kept_eer``.

        Arguments
        ---------
        rows : torch.Tensor
            Their rows in the manifest, shape [batch].
        embeddings : torch.Tensor
            Shape [batch, 1, embedding].
        """
        self.embeddings[rows.cpu()] = embeddings.squeeze(1).float().cpu()

    def kept_eer(self, device="cpu"):
        """Computes the equal error rate of the embeddings that were kept.

        All processes must call this. Each of them keeps the embeddings of its
        own batches, always of the same rows.

        Arguments
        ---------
        device : torch.device
            Where the embeddings of the processes are collected.

        Returns
        -------
        float
            The EER, a fraction.
        """
        return self.eer(all_reduce_sum(self.embeddings.to(device)).cpu())


def few_trials(manifest, trials):
    """A target and a non-target trial, and their utterances.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column ID.
    trials : pandas.DataFrame
        Columns enrol, test and target.

    Returns
    -------
    manifest : pandas.DataFrame
        Its rows of these trials.
    trials : pandas.DataFrame
        The first trial of each kind.

    Example
    -------
    >>> manifest = pd.DataFrame({"ID": ["a/1", "a/2", "b/1", "b/2"]})
    >>> rows = [("a/1", "a/2", True), ("a/1", "b/1", False)]
    >>> columns = ["enrol", "test", "target"]
    >>> trials = pd.DataFrame([*rows, ("b/1", "b/2", True)], columns=columns)
    >>> manifest, trials = few_trials(manifest, trials)
    >>> manifest["ID"].tolist(), len(trials)
    (['a/1', 'a/2', 'b/1'], 2)
    """
    trials = trials.groupby("target").head(1)
    heard = {*trials["enrol"], *trials["test"]}
    return manifest[manifest["ID"].isin(heard)], trials
