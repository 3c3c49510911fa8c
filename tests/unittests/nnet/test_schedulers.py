"""Schedules against the published curves."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch

from speechbrain_ext.nnet.schedulers import (
    MarginSchedule,
    StepSchedule,
    WarmupExponential,
    check_schedules,
)

# wespeaker@dfa7419 wespeaker/utils/schedulers.py at the first iteration of
# the epoch, computed by hand from its formulas
DECAY = math.log(5e-5 / 0.1)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.0, 0.0),
        (3.0, 4 * 0.5 * 0.1 * math.exp(3 / 150 * DECAY)),
        (6.0, 4 * 0.1 * math.exp(6 / 150 * DECAY)),
        (75.0, 4 * math.sqrt(0.1 * 5e-5)),
        (150.0, 4 * 5e-5),
    ],
)
def test_warmup_exponential_matches_wespeaker(epoch, expected):
    schedule = WarmupExponential(0.1, 5e-5, 150, 6, scale=4.0)
    assert schedule(epoch) == pytest.approx(expected, rel=1e-12)


def test_warmup_not_from_zero_rises_from_the_unscaled_rate():
    schedule = WarmupExponential(0.1, 0.1, 10, 2, 3.0, warm_from_zero=False)
    assert [schedule(e) for e in (0.0, 1.0, 2.0)] == pytest.approx(
        [0.1, 0.2, 0.3]
    )


@pytest.mark.parametrize("kind", ["exp", "linear"])
def test_margin_waits_rises_and_stays(kind):
    schedule = MarginSchedule(0.0, 0.2, 20, 40, increase_type=kind)
    curve = [schedule(epoch / 10) for epoch in range(600)]
    assert set(curve[:190]) == {0.0}
    assert set(curve[390:]) == {0.2}
    rising = curve[190:391]
    assert all(a < b for a, b in zip(rising, rising[1:], strict=False))


def test_margin_matches_wespeaker_half_way():
    # tau = 1 / 2: 1 - sqrt(1e-3), but for WeSpeaker's 1e-6
    schedule = MarginSchedule(0.1, 0.3, 20, 40)
    assert schedule(29.0) == pytest.approx(
        0.1 + 0.2 * (1 - math.sqrt(1e-3)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WarmupExponential(0, 1, 1, 1), "`initial_value`.*got 0"),
        (lambda: WarmupExponential(1, 1, 1, -2), "got -2"),
        (
            lambda: MarginSchedule(0, 1, 9, 3),
            r"\(9\), got 3; .*`margin_fix_epoch`",
        ),
        (lambda: MarginSchedule(0, 1, 1, 2, "cosine"), "got 'cosine'"),
    ],
)
def test_bad_arguments_are_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_fall_at_their_epochs():
    schedule = StepSchedule(0.01, [8, 14, 17, 20, 22])
    found = [schedule(e) for e in (0, 7.99, 8, 13.5, 14, 17, 20, 22, 40)]
    powers = [0, 0, 1, 1, 2, 3, 4, 5, 5]
    assert found == pytest.approx([0.01 * 0.1**n for n in powers])
    for arguments, message in (
        ((0.0, [1]), "positive, got 0.0"),
        ((0.1, [1], 1.0), r"\(0, 1\), got 1.0"),
        ((0.1, [2, 1]), r"increasing, got \[2, 1\]"),
        ((0.1, None, 0.5, 0), "`every` must be a positive.*got 0"),
        ((0.1,), "either.*got None and None"),
        ((0.1, [1], 0.5, 2), r"either.*got \[1\] and 2"),
    ):
        with pytest.raises(ValueError, match=message):
            StepSchedule(*arguments)


def test_steps_without_end_match_the_step_schedule_of_torch():
    # Clova's trainer: one step of torch's schedule after each epoch
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    published = torch.optim.lr_scheduler.StepLR(optimizer, 10, gamma=0.95)
    schedule = StepSchedule(1e-3, every=10, factor=0.95)
    for epoch in range(500):
        rate = optimizer.param_groups[0]["lr"]
        for done in (epoch, epoch + 0.5, epoch + 0.999):
            assert schedule(done) == pytest.approx(rate, rel=1e-12)
        optimizer.step()
        published.step()


def test_steps_of_a_fraction_of_an_epoch_are_all_taken():
    schedule = StepSchedule(1.0, factor=0.5, every=0.1)
    found = [schedule(step / 10) for step in range(50)]
    assert found == [0.5**step for step in range(50)]
    assert schedule(0.3 - 1e-6) == 0.25


def test_values_that_a_schedule_overwrites_are_refused():
    margins = MarginSchedule(0.0, 0.2, 2, 4)
    rates = WarmupExponential(0.1, 1e-3, 10, 1)
    optimizer = functools.partial(torch.optim.SGD, lr=0.1)
    loss = SimpleNamespace(margin=0.0)
    check_schedules(loss, margins, optimizer, rates)
    check_schedules(SimpleNamespace(), margins, torch.optim.SGD, lambda e: 0.1)
    loss.margin = 0.3
    with pytest.raises(ValueError, match="margin 0.3.*`final_margin`"):
        check_schedules(loss, margins, optimizer, rates)
    optimizer = functools.partial(torch.optim.SGD, lr=0.5)
    with pytest.raises(ValueError, match="rate 0.5.*`initial_lr`"):
        check_schedules(None, margins, optimizer, rates)
    with pytest.raises(ValueError, match="`margin_schedule` must not be null"):
        check_schedules(loss, None, optimizer, rates)
    check_schedules(None, None, torch.optim.SGD, rates)  # a metric loss
