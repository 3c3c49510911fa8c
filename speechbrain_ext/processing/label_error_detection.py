"""Detects wrong labels by how well each utterance fits its label.

Every score is a function of its own. A classifier gives cosines
[batch, 1, classes] (``speechbrain_ext.nnet.classifiers.CosineClassifier``);
``mean_classifier`` makes one from the embeddings of an encoder that has none.
"""

import numpy as np
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.cosine import speaker_means
from speechbrain_ext.utils.metrics import ROC_AUC

BLOCK = 1024  # utterances at a time


def mean_classifier(embeddings, labels):
    """Makes a classifier of which each class is the mean of its embeddings.

    Each embedding is brought to length 1 first.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list
        Name of each utterance's label, [utterances].

    Returns
    -------
    classifier : speechbrain_ext.nnet.classifiers.CosineClassifier
        The classifier.
    names : list
        The label of each class, sorted, [classes].

    Example
    -------
    >>> head, names = mean_classifier(torch.eye(3), ["b", "a", "b"])
    >>> head(torch.eye(3)[:1, None]).squeeze()
    tensor([0.0000, 0.7071])
    """
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    means, names = speaker_means(unit, labels)
    head = CosineClassifier(means.shape[1], len(names))
    head.weight.data.copy_(means)
    return head.requires_grad_(False), names


def label_cosines(embeddings, labels, classifier=None):
    """Cosine of each utterance with the class of its label.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list
        Class numbers if there is a classifier, else any speaker names.
    classifier : torch.nn.Module
        A classifier that gives cosines [batch, 1, classes]. None: that of
        ``mean_classifier``, whose means include the utterance's own.

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
    _check_numbers(embeddings, labels)
    if classifier is None:
        classifier, names = mean_classifier(embeddings, labels)
        number = {name: place for place, name in enumerate(names)}
        labels = [number[name] for name in labels]
    blocks = _cosines(embeddings, labels, classifier)
    return torch.cat([_of_label(cosines, own) for cosines, own in blocks])


def label_margins(embeddings, labels, classifier):
    """Cosine with the label's class minus that with the best other class.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list of int
        Class numbers, [utterances].
    classifier : torch.nn.Module
        A classifier that gives cosines [batch, 1, classes].

    Returns
    -------
    margins : torch.Tensor
        Below 0 where another class fits better, [utterances].
    others : torch.Tensor
        Number of the best other class, [utterances].

    Raises
    ------
    ValueError
        If the numbers of labels and of embeddings differ, or there is only
        one class.

    Example
    -------
    >>> head = CosineClassifier(2, 2)
    >>> head.weight.data = torch.eye(2)
    >>> label_margins(torch.eye(2), [0, 0], head)
    (tensor([ 1., -1.]), tensor([1, 1]))
    """
    _check_numbers(embeddings, labels)
    margins, others = [], []
    for cosines, own in _cosines(embeddings, labels, classifier):
        if cosines.shape[1] < 2:
            raise ValueError(
                "`classifier` must have two classes or more for a margin, "
                "got 1."
            )
        rest = cosines.scatter(1, own.unsqueeze(1), -torch.inf)
        best = rest.max(dim=1)
        margins.append(_of_label(cosines, own) - best.values)
        others.append(best.indices)
    return torch.cat(margins), torch.cat(others)


def label_losses(embeddings, labels, classifier, scale=32.0):
    """Softmax cross-entropy of each utterance with its label, without margin.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list of int
        Class numbers, [utterances].
    classifier : torch.nn.Module
        A classifier that gives cosines [batch, 1, classes].
    scale : float
        The cosines are multiplied by it. It is the same for every training
        loss, so that losses of different recipes can be compared.

    Returns
    -------
    torch.Tensor
        In nats, [utterances].

    Raises
    ------
    ValueError
        If the numbers of labels and of embeddings differ.

    Example
    -------
    >>> head = CosineClassifier(2, 2)
    >>> head.weight.data = torch.eye(2)
    >>> label_losses(torch.eye(2), [0, 0], head, scale=1.0)
    tensor([0.3133, 1.3133])
    """
    _check_numbers(embeddings, labels)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(
                scale * cosines, own, reduction="none"
            )
            for cosines, own in _cosines(embeddings, labels, classifier)
        ]
    )


def other_session_cosines(embeddings, labels, sessions):
    """Cosine of each utterance with its label's mean over other sessions.

    The mean is that of the embeddings at length 1. The session of the
    utterance is left out, because utterances of one session are close to each
    other, whatever their label.

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list
        Name of each utterance's label, [utterances].
    sessions : list
        Name of each utterance's session, [utterances].

    Returns
    -------
    torch.Tensor
        Shape [utterances]. NaN where the label has no other session.

    Raises
    ------
    ValueError
        If the numbers of labels, sessions and embeddings differ.

    Example
    -------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [1.0, 0.0]])
    >>> other_session_cosines(x, list("aaab"), list("sstu"))
    tensor([0.6000, 0.8000, 0.9899,    nan])
    """
    _check_numbers(embeddings, labels)
    _check_numbers(embeddings, sessions, "sessions")
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)

    def sums(names):
        """Sum and number of the utterances with the same name."""
        number = {}
        places = [number.setdefault(name, len(number)) for name in names]
        places = torch.tensor(places)
        total = unit.new_zeros(len(number), unit.shape[1])
        total.index_add_(0, places, unit)
        return total[places], places.bincount()[places]

    whole, count = sums(labels)
    own, own_count = sums(list(zip(labels, sessions, strict=True)))
    means = torch.nn.functional.normalize(whole - own, dim=1)
    found = (unit * means).sum(dim=1)
    found[count == own_count] = torch.nan
    return found.to(embeddings.dtype)


def sub_center_scores(embeddings, labels, classifier):
    """How common an utterance's sub-center is, and how near the main one.

    The sub-center of an utterance is the one of its label's class that has
    the highest cosine. The dominant sub-center of a class is that of most of
    its utterances; of equal ones, the first. Wrong labels gather at the others
    (Deng et al., "Sub-center ArcFace", ECCV 2020, section 3.3).

    Arguments
    ---------
    embeddings : torch.Tensor
        Shape [utterances, embedding].
    labels : list of int
        Class numbers, [utterances].
    classifier : speechbrain_ext.nnet.classifiers.CosineClassifier
        A classifier with two or more sub-centers per class.

    Returns
    -------
    shares : torch.Tensor
        Share of the label's utterances that have the same sub-center,
        [utterances].
    cosines : torch.Tensor
        Cosine with the dominant sub-center of the label, [utterances].

    Raises
    ------
    ValueError
        If the numbers of labels and of embeddings differ, or the classifier
        has no sub-centers.

    Example
    -------
    >>> head = CosineClassifier(2, 1, sub_centers=2)
    >>> head.weight.data = torch.eye(2)
    >>> x = torch.tensor([[1.0, 0.0], [4.0, 3.0], [0.0, 1.0]])
    >>> sub_center_scores(x, [0, 0, 0], head)
    (tensor([0.6667, 0.6667, 0.3333]), tensor([1.0000, 0.8000, 0.0000]))
    """
    _check_numbers(embeddings, labels)
    number = getattr(classifier, "sub_centers", 1)
    if number < 2:
        raise ValueError(
            "`classifier` must have two sub-centers or more per class, got "
            f"{number}; train with `sub_centers: 3`, or choose another score."
        )
    labels = torch.as_tensor(labels)
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    centers = torch.nn.functional.normalize(classifier.weight.detach(), dim=1)
    centers = centers.unflatten(0, (-1, number))
    cosines = torch.cat(
        [
            torch.einsum("ud,usd->us", part, centers[own])
            for part, own in zip(
                unit.split(BLOCK), labels.split(BLOCK), strict=True
            )
        ]
    )  # [utterances, sub_centers]
    own = cosines.argmax(dim=1)
    counts = torch.zeros(len(centers), number)
    counts.index_put_((labels, own), torch.ones(len(own)), accumulate=True)
    shares = counts[labels, own] / counts[labels].sum(dim=1)
    dominant = counts.argmax(dim=1)[labels]
    return shares, cosines.gather(1, dominant.unsqueeze(1)).squeeze(1)


def wrong_label_detection(scores, wrong):
    """Measures how well low scores find the wrong labels.

    Arguments
    ---------
    scores : torch.Tensor
        Score of each utterance, low where its label is suspicious, for
        example its cosine with its label's class, [utterances].
    wrong : numpy.ndarray
        Whether each label is wrong, [utterances].

    Returns
    -------
    dict
        ``ROC AUC``: 1 is perfect, 0.5 is chance. ``precision at the noise
        rate``: with n wrong labels, their share among the n lowest scores.
        ``mean, right`` and ``mean, wrong``: mean score of each kind.

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
    scores = np.asarray(scores, dtype=np.float64)
    if not 0 < wrong.sum() < len(wrong):
        raise ValueError(
            "`wrong` must have both right and wrong labels, got "
            f"{wrong.sum()} wrong of {len(wrong)}."
        )
    lowest = np.argsort(scores, kind="stable")[: wrong.sum()]
    return {
        "ROC AUC": ROC_AUC(scores[~wrong], scores[wrong]),
        "precision at the noise rate": float(wrong[lowest].mean()),
        "mean, right": float(scores[~wrong].mean()),
        "mean, wrong": float(scores[wrong].mean()),
    }


def _check_numbers(embeddings, values, name="labels"):
    if len(values) != len(embeddings):
        raise ValueError(
            f"`{name}` must be one per utterance ({len(embeddings)}), "
            f"got {len(values)}."
        )


def _cosines(embeddings, labels, classifier):
    """Cosines [utterances, classes] and labels, block by block."""
    labels = torch.as_tensor(labels).split(BLOCK)
    with torch.no_grad():
        for part, own in zip(embeddings.split(BLOCK), labels, strict=True):
            yield classifier(part.unsqueeze(1)).squeeze(1), own


def _of_label(cosines, labels):
    return cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
