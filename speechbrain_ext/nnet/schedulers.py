"""Learning-rate and margin schedules as plain functions of the epochs done.

No schedule counts iterations. It is called with the number of epochs done,
which may be a fraction and is 0.0 at the first batch. So a curve does not
depend on the batch size or the number of processes.
"""

import functools
import inspect
import math


class WarmupExponential:
    """Exponential decay with a linear warm-up, as in WeSpeaker.

    After ``e`` of ``E`` epochs the rate is

        coefficient(e) * initial_value
        * (final_value / initial_value) ** (e / E)

    The coefficient is ``scale`` after the warm-up. The decay starts at the
    first epoch, so the highest rate is below ``scale * initial_value``: 0.295
    and not 0.4 for the ResNet34 recipe.
    Reference code: wespeaker@dfa7419 wespeaker/utils/schedulers.py,
    ExponentialDecrease.

    Arguments
    ---------
    initial_value : float
        Learning rate at epoch 0 before scaling, positive.
    final_value : float
        Learning rate at the end before scaling, positive.
    number_of_epochs : float
        Epochs of the whole run, positive.
    warmup_epochs : float
        Epochs of linear warm-up, 0 or more.
    scale : float
        Factor on the rate. In the published recipe it is the global batch
        divided by 64.
    warm_from_zero : bool
        Whether the warm-up starts at 0. If not, it starts at the unscaled
        rate, and there is no warm-up unless ``scale`` is above 1.

    Raises
    ------
    ValueError
        If a value is out of range.

    Example
    -------
    >>> schedule = WarmupExponential(0.1, 5e-5, 150, 6, scale=4.0)
    >>> schedule(0.0)
    0.0
    >>> round(schedule(6.0), 4)
    0.2951
    >>> round(schedule(150.0), 6)
    0.0002
    """

    def __init__(
        self,
        initial_value,
        final_value,
        number_of_epochs,
        warmup_epochs,
        scale=1.0,
        warm_from_zero=True,
    ):
        for name, value in (
            ("initial_value", initial_value),
            ("final_value", final_value),
            ("number_of_epochs", number_of_epochs),
            ("scale", scale),
        ):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        if not warmup_epochs >= 0:
            raise ValueError(
                "`warmup_epochs` must be 0 or more epochs, "
                f"got {warmup_epochs}."
            )
        self.initial_value = initial_value
        self.final_value = final_value
        self.number_of_epochs = number_of_epochs
        self.warmup_epochs = warmup_epochs
        self.scale = scale
        self.warm_from_zero = warm_from_zero

    def __call__(self, epoch):
        """The learning rate after some epochs.

        Arguments
        ---------
        epoch : float
            Epochs done, a fraction included.

        Returns
        -------
        float
            The learning rate.
        """
        coefficient = self.scale
        if epoch < self.warmup_epochs:
            share = epoch / self.warmup_epochs
            if self.warm_from_zero:
                coefficient = self.scale * share
            elif self.scale > 1:
                coefficient = 1 + (self.scale - 1) * share
        decay = math.log(self.final_value / self.initial_value)
        return (
            coefficient
            * self.initial_value
            * math.exp(epoch / self.number_of_epochs * decay)
        )


class StepSchedule:
    """A learning rate that falls in steps.

    Open Speaker Verification lists these epochs. In Clova's trainer the rate
    falls every ten epochs (torch's StepLR).

    Arguments
    ---------
    initial_value : float
        Learning rate at epoch 0, positive.
    milestones : list of float
        Numbers of epochs after which it falls, increasing.
    factor : float
        Factor on the rate at each step, in (0, 1).
    every : float
        Epochs between two steps, for a rate that falls without end. It
        replaces ``milestones``.

    Raises
    ------
    ValueError
        If a value is out of range, or both or neither of ``milestones`` and
        ``every`` are given.

    Example
    -------
    >>> schedule = StepSchedule(0.01, [8, 14])
    >>> schedule(7.9), schedule(8.0), round(schedule(20.0), 6)
    (0.01, 0.001, 0.0001)
    >>> schedule = StepSchedule(0.001, every=10, factor=0.95)
    >>> schedule(9.9), schedule(10.0), round(schedule(500.0), 7)
    (0.001, 0.00095, 7.69e-05)
    """

    def __init__(self, initial_value, milestones=None, factor=0.1, every=None):
        if not initial_value > 0:
            raise ValueError(
                f"`initial_value` must be positive, got {initial_value}."
            )
        if not 0 < factor < 1:
            raise ValueError(f"`factor` must be in (0, 1), got {factor}.")
        if (milestones is None) == (every is None):
            raise ValueError(
                "Give either `milestones` or `every`, got "
                f"{milestones} and {every}."
            )
        if every is not None and not every > 0:
            raise ValueError(
                f"`every` must be a positive number of epochs, got {every}."
            )
        if sorted(set(milestones or [])) != list(milestones or []):
            raise ValueError(
                f"`milestones` must be increasing, got {milestones}."
            )
        self.initial_value = initial_value
        self.milestones = milestones
        self.factor = factor
        self.every = every

    def __call__(self, epoch):
        """The learning rate after some epochs.

        Arguments
        ---------
        epoch : float
            Epochs done, a fraction included.

        Returns
        -------
        float
            The learning rate.
        """
        if self.every is not None:
            # 0.3 / 0.1 is 2.9999999999999996
            passed = math.floor(epoch / self.every + 1e-9)
        else:
            passed = sum(epoch >= milestone for milestone in self.milestones)
        return self.initial_value * self.factor**passed


class MarginSchedule:
    """A margin that is constant, rises, and is constant again, as in WeSpeaker.

    The margin is ``initial_margin`` until the epoch ``increase_start_epoch``
    begins. It reaches ``final_margin`` when ``fix_start_epoch`` begins. Epochs
    are counted from 1, as in the published YAMLs: 20 means 19 epochs done.
    Between the two epochs tau rises from 0 to 1, and the margin is

        m0 + (m1 - m0) * (1 - exp(tau * ln(1e-3)))    ("exp")
        m0 + (m1 - m0) * tau                          ("linear")

    Reference code: wespeaker@dfa7419 wespeaker/utils/schedulers.py,
    MarginScheduler.

    Arguments
    ---------
    initial_margin : float
        Margin at the start, in the unit of the loss.
    final_margin : float
        Margin at the end.
    increase_start_epoch : float
        Epoch, counted from 1, at whose start the margin begins to rise.
    fix_start_epoch : float
        Epoch, counted from 1, at whose start it is ``final_margin``.
    increase_type : str
        ``exp`` or ``linear``.

    Raises
    ------
    ValueError
        If the epochs are out of order or the type is unknown.

    Example
    -------
    >>> schedule = MarginSchedule(0.0, 0.2, 20, 40, increase_type="linear")
    >>> schedule(0.0), round(schedule(29.0), 3), schedule(39.0)
    (0.0, 0.1, 0.2)
    """

    def __init__(
        self,
        initial_margin,
        final_margin,
        increase_start_epoch,
        fix_start_epoch,
        increase_type="exp",
    ):
        if increase_type not in ("exp", "linear"):
            raise ValueError(
                "`increase_type` must be 'exp' or 'linear', "
                f"got {increase_type!r}."
            )
        if fix_start_epoch < increase_start_epoch:
            raise ValueError(
                f"`fix_start_epoch` must be at least `increase_start_epoch` "
                f"({increase_start_epoch}), got {fix_start_epoch}; in a recipe "
                "they are `margin_fix_epoch` and `margin_start_epoch`."
            )
        self.initial_margin = initial_margin
        self.final_margin = final_margin
        self.increase_start_epoch = increase_start_epoch
        self.fix_start_epoch = fix_start_epoch
        self.increase_type = increase_type

    def __call__(self, epoch):
        """The margin after some epochs.

        Arguments
        ---------
        epoch : float
            Epochs done, a fraction included.

        Returns
        -------
        float
            The margin.
        """
        start = self.increase_start_epoch - 1
        end = self.fix_start_epoch - 1
        if epoch >= end:
            return self.final_margin
        if epoch < start:
            return self.initial_margin
        share = (epoch - start) / (end - start)
        if self.increase_type == "exp":
            # the published code divides by 1 + 1e-6 too
            share = 1 - math.exp(share * math.log(1e-3 / (1 + 1e-6)))
        return (
            self.initial_margin
            + (self.final_margin - self.initial_margin) * share
        )


def initial_margin(loss):
    """The margin of a loss before training.

    Arguments
    ---------
    loss : object
        A loss, or what a YAML's ``!name:`` makes of one.

    Returns
    -------
    float | None
        None if the loss has no margin.

    Example
    -------
    >>> initial_margin(functools.partial(lambda s, margin=0.2: s, 32.0))
    0.2
    """
    if isinstance(loss, functools.partial):
        found = inspect.signature(loss).parameters.get("margin")
        return found and found.default
    return getattr(loss, "margin", None)


def check_schedules(loss, margin_schedule, opt_class, lr_schedule):
    """Raises if a schedule would overwrite a value that somebody has set.

    Arguments
    ---------
    loss : object
        A loss, with or without a ``margin``.
    margin_schedule : callable
        The margin after some epochs.
    opt_class : callable
        Makes the optimizer; if it is a ``functools.partial``, it may have
        ``lr``.
    lr_schedule : callable
        The learning rate after some epochs. It may have an
        ``initial_value``, its rate without warm-up.

    Raises
    ------
    ValueError
        If the margin of the loss, or the learning rate of the optimizer, is
        not the one that its schedule starts from, or a margin has no schedule.

    Example
    -------
    >>> import functools
    >>> optimizer = functools.partial(dict, lr=0.5)
    >>> check_schedules(None, None, optimizer, StepSchedule(0.1, [8]))
    Traceback (most recent call last):
    ValueError: `opt_class` has the learning rate 0.5, but `lr_schedule` ...
    """
    margin = initial_margin(loss)
    if margin is not None and margin_schedule is None:
        raise ValueError(
            "`loss` has a margin, so `margin_schedule` must not be null; set "
            "`initial_margin` and `final_margin` to one value for a constant "
            "margin."
        )
    if margin is not None and margin != margin_schedule(0.0):
        raise ValueError(
            f"`loss` has the margin {margin}, but `margin_schedule` sets the "
            f"margin of every batch, from {margin_schedule(0.0)} on; set "
            "`initial_margin` and `final_margin` instead."
        )
    rate = getattr(opt_class, "keywords", {}).get("lr")
    initial = getattr(lr_schedule, "initial_value", rate)
    if rate is not None and rate != initial:
        raise ValueError(
            f"`opt_class` has the learning rate {rate}, but `lr_schedule` "
            f"sets the rate of every batch, from {initial} on; set "
            "`initial_lr` instead."
        )
