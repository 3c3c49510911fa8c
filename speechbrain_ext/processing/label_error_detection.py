"""Detects wrong labels by how well each utterance fits its label."""

import numpy as np
import torch

from speechbrain_ext.processing.cosine import speaker_means
from speechbrain_ext.utils.metrics import ROC_AUC


def label_cosines(embeddings, labels, classifier=None):
    """Cosine of each utterance with the class of its label.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list
        Class numbers if there is a classifier, else any speaker names.
    classifier : torch.nn.Module
        A head that gives cosines [batch, 1, classes]
        (``speechbrain_ext.nnet.classifiers.CosineClassifier``). None: the
        class is the mean of the label's embeddings at length 1, including the
        utterance's own.

    Returns
    -------
    torch.Tensor
        Shape [utterances].

    Raises
    ------
    ValueError
        If the numbers of labels and of embeddings differ.

    Example
    -------
    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> label_cosines(x, ["a", "a", "b"])
    tensor([1., 1., 1.])
    """
    if len(labels) != len(embeddings):
        raise ValueError(
            f"`labels` must be one per utterance ({len(embeddings)}), "
            f"got {len(labels)}."
        )
    if classifier is not None:
        found = []
        with torch.no_grad():
            for part, own in zip(
                embeddings.split(1024),
                torch.as_tensor(labels).split(1024),
                strict=True,
            ):
                cosines = classifier(part.unsqueeze(1)).squeeze(1)
                found.append(cosines.gather(1, own.unsqueeze(1)).squeeze(1))
        return torch.cat(found)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    means, names = speaker_means(unit, labels)
    row = {name: place for place, name in enumerate(names)}
    centre = torch.nn.functional.normalize(means, dim=1)
    return (unit * centre[[row[name] for name in labels]]).sum(dim=1)


def wrong_label_detection(cosines, wrong):
    """Measures how well low cosines find the wrong labels.

    Arguments
    ---------
    cosines : torch.Tensor
        Cosine of each utterance with its label's class, [utterances].
    wrong : numpy.ndarray
        Whether each label is wrong, [utterances].

    Returns
    -------
    dict
        ``ROC AUC``: 1 is perfect, 0.5 is chance. ``precision at the noise
        rate``: with n wrong labels, their share among the n lowest cosines.
        ``mean cosine, right`` and ``mean cosine, wrong``.

    Raises
    ------
    ValueError
        If all labels are right or all are wrong.

    Example
    -------
    >>> cosines = torch.tensor([0.9, 0.1, 0.8, 0.7])
    >>> found = wrong_label_detection(cosines, [False, True, False, True])
    >>> found["ROC AUC"], found["precision at the noise rate"]
    (1.0, 1.0)
    """
    wrong = np.asarray(wrong, dtype=bool)
    cosines = np.asarray(cosines, dtype=np.float64)
    if not 0 < wrong.sum() < len(wrong):
        raise ValueError(
            "`wrong` must have both right and wrong labels, got "
            f"{wrong.sum()} wrong of {len(wrong)}."
        )
    lowest = np.argsort(cosines, kind="stable")[: wrong.sum()]
    return {
        "ROC AUC": ROC_AUC(cosines[~wrong], cosines[wrong]),
        "precision at the noise rate": float(wrong[lowest].mean()),
        "mean cosine, right": float(cosines[~wrong].mean()),
        "mean cosine, wrong": float(cosines[wrong].mean()),
    }
