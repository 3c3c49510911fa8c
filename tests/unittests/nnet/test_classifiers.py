"""The cosine head."""

import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier, LinearClassifier


def test_cosines_match_torch():
    head = CosineClassifier(input_size=8, out_neurons=3)
    embeddings = torch.randn(5, 1, 8)
    expected = torch.nn.functional.cosine_similarity(
        embeddings, head.weight.unsqueeze(0), dim=-1
    )
    torch.testing.assert_close(head(embeddings).squeeze(1), expected)


def test_nearest_sub_center_counts():
    head = CosineClassifier(input_size=2, out_neurons=2, sub_centers=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1.0]]))
    cosines = head(torch.tensor([[[0.0, 3.0]]]))
    torch.testing.assert_close(cosines, torch.tensor([[[1.0, 0.0]]]))


def test_forward_leaves_the_weight_alone_and_scale_does_not_matter():
    head = CosineClassifier(input_size=4, out_neurons=3)
    before = head.weight.clone()
    embeddings = torch.randn(2, 1, 4)
    torch.testing.assert_close(head(embeddings), head(1000 * embeddings))
    assert torch.equal(head.weight, before)


def test_zero_embedding_is_finite():
    head = CosineClassifier(input_size=4, out_neurons=3)
    embeddings = torch.zeros(1, 1, 4, requires_grad=True)
    head(embeddings).sum().backward()
    assert embeddings.grad.isfinite().all()


def test_cosines_are_float32_under_autocast():
    head = CosineClassifier(input_size=4, out_neurons=3)
    embeddings = torch.randn(2, 1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(embeddings)
    torch.testing.assert_close(found, head(embeddings))
    assert found.dtype == torch.float32


def test_bad_sizes_are_rejected():
    with pytest.raises(ValueError, match="`out_neurons`.*got 0"):
        CosineClassifier(input_size=4, out_neurons=0)
    with pytest.raises(ValueError, match="size 4.*got 5"):
        CosineClassifier(input_size=4, out_neurons=3)(torch.rand(1, 1, 5))
    with pytest.raises(ValueError, match="size 4.*got 5"):
        LinearClassifier(input_size=4, out_neurons=3)(torch.rand(1, 1, 5))
