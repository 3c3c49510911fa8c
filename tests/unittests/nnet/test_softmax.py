"""Softmax losses: sub-centers and hard classes, and what they refuse."""

import numpy as np
import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AAMSoftmax, AMSoftmax

# wespeaker@dfa7419 ArcMarginProduct_intertopk_subcenter(K=3, mp=0.06,
# k_top=5), scale 32, after update(margin), in float64: loss, <gradient of
# embeddings, directions>, <gradient of weight, directions>
PUBLISHED = {
    0.2: (18.96614271595938, -8.14197887135242, -2.0933328343980335),
    0.1: (15.064606905349654, -8.257386724426727, -2.2840411369029114),
}


@pytest.mark.parametrize("margin", PUBLISHED)
def test_sub_centers_with_top_k_match_wespeaker(margin):
    rng = np.random.default_rng(20261120)
    embeddings = rng.standard_normal((6, 16))
    old = rng.standard_normal((11, 16))
    targets = rng.integers(0, 11, 6)
    towards, _ = rng.standard_normal((6, 16)), rng.standard_normal((11, 16))
    embeddings[0] = 2 * old[targets[0]] + 1e-3 * rng.standard_normal(16)
    embeddings[1] = -old[targets[1]] + 1e-3 * rng.standard_normal(16)
    rng = np.random.default_rng(3)
    weight = torch.tensor(rng.standard_normal((33, 16)))
    onto = torch.tensor(rng.standard_normal((33, 16)))
    embeddings = torch.tensor(embeddings, requires_grad=True)
    head = CosineClassifier(16, 11, sub_centers=3).double()
    head.weight.data.copy_(weight)
    loss = AAMSoftmax(margin, 32.0, top_k=5, top_k_penalty=0.06)
    cosines = head(embeddings.unsqueeze(1))
    found = loss(cosines, torch.tensor(targets).unsqueeze(1))
    found.backward()
    value, along_x, along_w = PUBLISHED[margin]
    close = {"rtol": 1e-7, "atol": 1e-9}
    torch.testing.assert_close(found.item(), value, **close)
    along = (embeddings.grad * torch.tensor(towards)).sum().item()
    torch.testing.assert_close(along, along_x, **close)
    along = (head.weight.grad * onto).sum().item()
    torch.testing.assert_close(along, along_w, **close)


def test_more_hard_classes_than_there_are_is_all_of_them():
    cosines = torch.rand(3, 1, 4)
    targets = torch.tensor([[0], [1], [2]])
    many = AAMSoftmax(0.2, 32.0, top_k=50, top_k_penalty=0.06)
    three = AAMSoftmax(0.2, 32.0, top_k=3, top_k_penalty=0.06)
    assert many(cosines, targets) == three(cosines, targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AAMSoftmax(margin=-0.1), "`margin`.*radians, got -0.1"),
        (lambda: AAMSoftmax(scale=-1), "positive, got -1"),
        (lambda: AAMSoftmax(top_k=-2), "got -2"),
        (lambda: AAMSoftmax(top_k_penalty=4.0), "`top_k_penalty`.*got 4.0"),
        (lambda: AAMSoftmax(continuation="easy"), "'arcface', got 'easy'"),
        (lambda: AMSoftmax(margin=2.5), r"\[0, 2\), got 2.5"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_margin_is_checked_whenever_it_is_set():
    loss = AAMSoftmax(margin=0.2)
    with pytest.raises(ValueError, match="got 1.6"):
        loss.margin = 1.6
