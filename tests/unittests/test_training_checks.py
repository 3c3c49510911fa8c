"""What a training recipe may not ask for is said before any work."""

import functools

import pytest
import torch
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.nnet.classifiers import CosineClassifier
from speechbrain_ext.nnet.losses import AngularPrototypical, SphereFace2
from speechbrain_ext.nnet.schedulers import MarginSchedule, StepSchedule
from speechbrain_ext.training_checks import check_training


@pytest.fixture
def hparams(tmp_path):
    """The objects of a recipe that can be trained."""
    return {
        "output_folder": tmp_path,
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
        "epoch_counter": EpochCounter(5),
    }


TEXT = """\
seed: 1
batch_size: 8
sampler: !name:x.Sampler
  batch_size: 8
  seed: 1
label_noise: {kind: symmetric, rate: 0.1, seed: 2}
augment: !new:x.Noise
  sample_rate: 8000
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"select": "lowest_eer"}, "lowest_eer.*`dev_speakers` is 0"),
        ({"label_filter": {"kind": "None"}}, "`label_filter`"),
        ({"label_noise": {"kind": "pair"}}, "`label_noise` lacks 'rate'"),
        ({"lr_schedule": StepSchedule(0.2, [8])}, "learning rate 0.1"),
        (
            {"label_filter": {"kind": "ORGate", "top_k": 1, "warm_up": 5}},
            "`warm_up` of 5 epochs, but `number_of_epochs` is 5, so it would",
        ),
    ],
)
def test_every_check_of_a_recipe_is_made(changed, said, hparams):
    check_training(hparams, TEXT, RunOptions())
    with pytest.raises(ValueError, match=said):
        check_training({**hparams, **changed}, TEXT, RunOptions())


def test_options_of_speechbrains_that_cannot_work_are_refused(hparams):
    for options in (
        {"jit": True},
        {"jit_module_keys": ["embedding_model"]},
        {"data_parallel_backend": True},
    ):
        with pytest.raises(ValueError, match=f"--{next(iter(options))} does"):
            check_training(hparams, TEXT, RunOptions(**options))


def test_the_margin_of_a_loss_that_is_built_later_is_checked(hparams):
    for loss in (
        functools.partial(SphereFace2, margin=0.0),
        functools.partial(AngularPrototypical),  # has no margin
    ):
        hparams["modules"]["loss"] = loss
        check_training(hparams, TEXT, RunOptions())
    hparams["modules"]["loss"] = functools.partial(SphereFace2)  # 0.2
    with pytest.raises(ValueError, match="the margin 0.2, but `margin_sch"):
        check_training(hparams, TEXT, RunOptions())


def test_a_training_does_not_replace_a_verification(hparams, tmp_path):
    (tmp_path / "hyperparams.yaml").write_text("pretrained_folder: a")
    with pytest.raises(ValueError, match="of a verification, which would be"):
        check_training(hparams, TEXT, RunOptions())


def test_a_filter_that_begins_in_the_last_epoch_is_one(hparams):
    hparams["label_filter"] = {"kind": "ORGate", "top_k": 1, "warm_up": 4.5}
    check_training(hparams, TEXT, RunOptions())


def test_a_run_that_would_end_within_an_epoch_is_refused(hparams):
    with pytest.raises(ValueError, match="--optimizer_step_limit would end"):
        check_training(hparams, TEXT, RunOptions(optimizer_step_limit=3))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "  batch_size: 8",
            "  batch_size: 4",
            "`sampler` has the batch_size 4",
        ),
        ("  seed: 1", "  seed: 3", "the seed 3, but `seed` of the recipe is 1"),
        ("seed: 1\nb", "seed: 1\nsample_rate: 16000\nb", "`augment` has the "),
    ],
)
def test_a_block_may_not_differ_from_the_recipe(old, new, said, hparams):
    assert old in TEXT
    with pytest.raises(ValueError, match=said):
        check_training(hparams, TEXT.replace(old, new), RunOptions())
