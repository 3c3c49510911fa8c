"""What is written over its input, and when it is not."""

import pytest
import torch

from speechbrain_ext.nnet.in_place import add, relu


@pytest.mark.parametrize("grad", [False, True])
def test_only_without_gradients_is_the_input_overwritten(grad):
    given, other = torch.tensor([-1.0, 2.0]), torch.tensor([3.0, -5.0])
    for function, more, wanted in (
        (relu, (), [0.0, 2.0]),
        (add, (other,), [2.0, -3.0]),
    ):
        x = given.clone()
        with torch.set_grad_enabled(grad):
            assert function(x, *more).tolist() == wanted
        assert x.tolist() == (given.tolist() if grad else wanted)
    assert other.tolist() == [3.0, -5.0]
