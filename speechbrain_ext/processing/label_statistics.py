"""How training treats right and wrong labels, if the true ones are known."""

import torch

from speechbrain_ext.utils.distributed import all_reduce_sum
from speechbrain_ext.utils.metrics import ROC_AUC

COUNTS = (
    "clean",
    "clean recognised",
    "wrong",
    "wrong recognised",
    "memorised",
    "clean dropped",
    "wrong dropped",
    "relabelled",
    "relabelled well",
)


class LabelStatistics(torch.nn.Module):
    """Counts an epoch of training with labels that may be wrong.

    The counts stay on the device until ``figures`` reads them. They are in the
    checkpoints, so that a resumed run logs what an uninterrupted one logs.

    Arguments
    ---------
    given : numpy.ndarray
        Class number of the given label, shape [utterances, speeds].
    true : numpy.ndarray
        Class number of the true label, same shape; -1 if no class of the
        training data has that name.
    wrong : numpy.ndarray
        Whether the given label is wrong, shape [utterances].

    Example
    -------
    >>> import numpy as np
    >>> given, true = np.array([[0], [0]]), np.array([[0], [1]])
    >>> statistics = LabelStatistics(given, true, np.array([False, True]))
    >>> statistics.figures()
    {}
    """

    def __init__(self, given, true, wrong):
        super().__init__()
        for name, values in (("given", given), ("true", true)):
            values = torch.tensor(values)
            self.register_buffer(name, values, persistent=False)
        wrong = torch.tensor(wrong)
        self.register_buffer("wrong", wrong, persistent=False)
        self.register_buffer(
            "counts", torch.zeros(len(COUNTS), dtype=torch.int64)
        )

    @torch.no_grad()
    def count(self, scores, rows, weights=None, labels=None):
        """Counts a batch.

        Arguments
        ---------
        scores : speechbrain_ext.processing.class_scores.ClassScores
            The cosines and the given labels.
        rows : torch.Tensor
            Rows of this process's utterances in the manifest, shape [batch].
        weights : torch.Tensor
            Weights of a label filter, shape [batch], or None.
        labels : torch.Tensor
            Labels of a label filter, shape [batch], or None.
        """
        given, found = scores.mine(scores.labels), scores.mine(scores.best[1])
        speed = self.given[rows] == given.unsqueeze(1)
        true = torch.where(speed, self.true[rows], -1).amax(dim=1)
        wrong = self.wrong[rows]
        dropped = changed = torch.zeros_like(wrong)
        if weights is not None:
            dropped = weights < 0.5
        if labels is not None:
            changed = (labels != given) & ~dropped
            dropped = dropped | changed
        right = found == true
        counts = torch.stack(
            [
                ~wrong,
                ~wrong & right,
                wrong,
                wrong & right,
                wrong & (found == given),
                ~wrong & dropped,
                wrong & dropped,
                changed,
                changed & (true == (given if labels is None else labels)),
            ]
        )
        self.counts += all_reduce_sum(counts.sum(dim=1))

    def figures(self, trust=None):
        """Ends an epoch.

        Arguments
        ---------
        trust : torch.Tensor
            Mean weight of each given label in the epoch, shape [utterances],
            if there is a label filter.

        Returns
        -------
        dict
            Percentages, by the name that the log has for them. The shares of
            utterances with right and with wrong labels that are recognised as
            their true speaker, the share of wrong labels that is predicted
            (memorised), precision and recall of what the filter drops or
            relabels, and how many of its new labels are right. The last
            figure is the ROC AUC of the weights, in [0, 1]. What cannot be
            computed is left out.
        """
        found = dict(zip(COUNTS, self.counts.tolist(), strict=True))
        self.counts.zero_()
        figures = {}

        def share(name, part, whole):
            if whole:
                figures[name] = round(100 * part / whole, 2)

        share("clean accuracy", found["clean recognised"], found["clean"])
        share("wrong accuracy", found["wrong recognised"], found["wrong"])
        share("memorised", found["memorised"], found["wrong"])
        if trust is None:
            return figures
        dropped = found["clean dropped"] + found["wrong dropped"]
        share("filter precision", found["wrong dropped"], dropped)
        share("filter recall", found["wrong dropped"], found["wrong"])
        share("relabelled well", found["relabelled well"], found["relabelled"])
        if self.wrong.any() and not self.wrong.all():
            auc = ROC_AUC(trust[~self.wrong].cpu(), trust[self.wrong].cpu())
            figures["filter AUC"] = round(auc, 4)
        return figures
