"""What was published must be tensors."""

import pytest

from speechbrain_ext.integrations.published_checkpoints import (
    describe_checkpoint,
)


def test_more_than_tensors_is_rejected():
    with pytest.raises(ValueError, match="only dense tensors"):
        describe_checkpoint("wespeaker", "ResNet34", {"epoch": 3})
