"""What a training recipe may not ask for is said before any work."""

import functools

import pytest
import torch

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import SphereFace2
from speechbrain_ext.nnet.schedulers import MarginSchedule, StepSchedule
from speechbrain_ext.training_checks import check_training


@pytest.fixture
def hparams():
    """The objects of a recipe that can be trained."""
    return {
        "modules": {"loss": SphereFace2(margin=0.0)},
        "classifier": CosineClassifier,
        "select": "average",
        "seed": 1,
        "dev_speakers": 0,
        "label_noise": None,
        "dev_label_noise": None,
        "label_filter": None,
        "margin_schedule": MarginSchedule(0.0, 0.2, 1, 2),
        "opt_class": functools.partial(torch.optim.SGD, lr=0.1),
        "lr_schedule": StepSchedule(0.1, [8]),
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"select": "lowest_eer"}, "lowest_eer.*`dev_speakers` is 0"),
        ({"label_filter": {"kind": "None"}}, "`label_filter`"),
        ({"label_noise": {"kind": "pair"}}, "`label_noise` lacks 'rate'"),
        ({"lr_schedule": StepSchedule(0.2, [8])}, "learning rate 0.1"),
    ],
)
def test_every_check_of_a_recipe_is_made(changed, said, hparams):
    check_training(hparams)
    with pytest.raises(ValueError, match=said):
        check_training({**hparams, **changed})
