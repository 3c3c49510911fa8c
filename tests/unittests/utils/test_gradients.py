"""The norm of all gradients, over all processes where they are split."""

import torch
from processes import on_processes

from speechbrain_ext.nnet.sharded import ShardedCosineClassifier
from speechbrain_ext.utils.gradients import total_gradient_norm


def norm_of_a_split_head():
    """The norm of gradients 1 of a head of 5 * 4 weights, and of one 5."""
    head = ShardedCosineClassifier(4, 5)
    head.weight.grad = torch.ones_like(head.weight)
    other = torch.nn.Parameter(torch.zeros(1))
    other.grad = torch.tensor([4.0])
    return total_gradient_norm([head.weight, other])


def test_the_norm_is_that_of_all_classes():
    wanted = torch.tensor(6.0)  # the root of 20 and 16
    assert torch.equal(norm_of_a_split_head(), wanted)
    for found in on_processes(norm_of_a_split_head, 2):
        torch.testing.assert_close(found, wanted)
