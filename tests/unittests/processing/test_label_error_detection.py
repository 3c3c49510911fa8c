"""Scores of labels, and what they find."""

import math

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.processing.label_error_detection import (
    label_cosines,
    label_losses,
    label_margins,
    mean_classifier,
    other_session_cosines,
    sub_center_scores,
    wrong_label_detection,
)


def test_cosines_are_those_of_the_head():
    head = CosineClassifier(4, 3)
    x, labels = torch.randn(2500, 4), torch.randint(3, (2500,))
    expected = torch.cosine_similarity(x, head.weight[labels])
    torch.testing.assert_close(
        label_cosines(x, labels.tolist(), head), expected
    )


def test_without_a_head_the_means_of_the_labels_count():
    x = torch.randn(6, 4)
    unit = x / x.norm(dim=1, keepdim=True)
    mean = (unit[0] + unit[2] + unit[5]) / 3
    found = label_cosines(x, ["b", "a", "b", "a", "a", "b"])
    expected = torch.cosine_similarity(unit[2], mean, dim=0)
    torch.testing.assert_close(found[2], expected)
    with pytest.raises(ValueError, match=r"\(6\), got 2"):
        label_cosines(x, ["a", "b"])


def test_detection_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    wrong = rng.random(200) < 0.3
    cosines = np.round(rng.random(200) - 0.3 * wrong, 2)  # with ties
    found = wrong_label_detection(torch.tensor(cosines), wrong)
    pairs = cosines[~wrong][:, None] - cosines[wrong][None]
    auc = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert found["ROC AUC"] == pytest.approx(auc)
    count = int(wrong.sum())
    lowest = sorted(range(200), key=lambda i: cosines[i])[:count]
    expected = np.mean([wrong[i] for i in lowest])
    assert found["precision at the noise rate"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="got 0 wrong of 3"):
        wrong_label_detection(torch.zeros(3), [False] * 3)


def cosine(one, other):
    """The cosine of two vectors, by plain arithmetic in float64."""
    one, other = one.double().tolist(), other.double().tolist()
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    norms = [sum(a * a for a in vector) ** 0.5 for vector in (one, other)]
    return dot / (norms[0] * norms[1])


@pytest.fixture
def data():
    """Twenty utterances of five labels and three sessions, and a head."""
    x, labels = torch.randn(20, 4), torch.randint(5, (20,)).tolist()
    sessions = torch.randint(3, (20,)).tolist()
    head = CosineClassifier(4, 5).requires_grad_(False)
    return x, labels, sessions, head


def test_means_as_a_head_match_the_definition(data):
    x, labels, *_ = data
    head, names = mean_classifier(x, labels)
    assert names == sorted(set(labels))
    for row, name in enumerate(names):
        own = [
            v / v.norm() for v, of in zip(x, labels, strict=True) if of == name
        ]
        torch.testing.assert_close(head.weight[row], sum(own) / len(own))


def test_margins_match_the_definition(data):
    x, labels, _, head = data
    margins, others = label_margins(x, labels, head)
    for i, own in enumerate(labels):
        rest = {c: cosine(x[i], head.weight[c]) for c in range(5) if c != own}
        best = max(rest, key=rest.get)
        assert others[i] == best
        expected = cosine(x[i], head.weight[own]) - rest[best]
        assert margins[i].item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"\(20\), got 1"):
        label_margins(x, [0], head)
    with pytest.raises(ValueError, match="two classes or more.*got 1"):
        label_margins(x, [0] * 20, CosineClassifier(4, 1))


def test_losses_match_the_definition(data):
    x, labels, _, head = data
    found = label_losses(x, labels, head, scale=8.0)
    for i, own in enumerate(labels):
        logits = [8 * cosine(x[i], vector) for vector in head.weight]
        total = sum(math.exp(logit) for logit in logits)
        expected = math.log(total) - logits[own]
        assert found[i].item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match=r"\(20\), got 1"):
        label_losses(x, [0], head)


def test_other_sessions_match_the_definition(data):
    x, labels, sessions, _ = data
    labels[0], labels[1:] = 9, [label % 3 for label in labels[1:]]
    found = other_session_cosines(x, labels, sessions)
    unit = [vector / vector.norm() for vector in x]
    for i in range(20):
        others = [
            unit[j]
            for j in range(20)
            if labels[j] == labels[i] and sessions[j] != sessions[i]
        ]
        if not others:
            assert math.isnan(found[i])
            continue
        expected = cosine(x[i], sum(others) / len(others))
        assert found[i].item() == pytest.approx(expected, abs=1e-5)
    assert math.isnan(found[0]) and found.isnan().sum() < 20
    with pytest.raises(ValueError, match="`sessions` must be.*got 2"):
        other_session_cosines(x, labels, [0, 1])
    with pytest.raises(ValueError, match="`labels` must be.*got 2"):
        other_session_cosines(x, [0, 1], sessions)


def test_sub_centers_match_the_definition(data):
    x, labels, *_ = data
    head = CosineClassifier(4, 5, sub_centers=3)
    centers = head.weight.detach().reshape(5, 3, 4)
    shares, cosines = sub_center_scores(x, labels, head)
    chosen = []
    for vector, own in zip(x, labels, strict=True):
        of = [cosine(vector, center) for center in centers[own]]
        chosen.append(of.index(max(of)))
    for i, own in enumerate(labels):
        mine = [c for c, of in zip(chosen, labels, strict=True) if of == own]
        counts = [mine.count(number) for number in range(3)]
        expected = counts[chosen[i]] / len(mine)
        assert shares[i].item() == pytest.approx(expected)
        dominant = centers[own][counts.index(max(counts))]
        expected = cosine(x[i], dominant)
        assert cosines[i].item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="two sub-centers or more.*got 1"):
        sub_center_scores(x, labels, CosineClassifier(4, 5))
    with pytest.raises(ValueError, match=r"\(20\), got 1"):
        sub_center_scores(x, [0], head)
