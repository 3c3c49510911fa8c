"""The EER of held-out speakers, which is followed during training."""

import pandas as pd
import torch

from speechbrain_ext.processing.cosine import cosine_scores
from speechbrain_ext.utils.metrics import EER


class DevelopmentTrials:
    """Trials between the utterances of a manifest.

    Arguments
    ---------
    manifest : pandas.DataFrame
        Column ID.
    trials : pandas.DataFrame
        Columns enrol and test, which are IDs of the manifest, and target.

    Example
    -------
    >>> manifest = pd.DataFrame({"ID": ["a/1", "a/2", "b/1"]})
    >>> rows = [("a/1", "a/2", True), ("a/1", "b/1", False)]
    >>> trials = pd.DataFrame(rows, columns=["enrol", "test", "target"])
    >>> dev_trials = DevelopmentTrials(manifest, trials)
    >>> dev_trials.eer(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    0.0
    """

    def __init__(self, manifest, trials):
        self.utterances = len(manifest)
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
