"""Angles of cosines."""

import math

import pytest
import torch

from speechbrain_ext.nnet.losses.angles import (
    check_angle,
    cos_minus_margin,
    cos_plus_margin,
    sine,
)

ANGLES = torch.linspace(0.3, math.pi - 0.3, 20, dtype=torch.float64)


def test_shifts_match_the_arc_cosine():
    torch.testing.assert_close(sine(ANGLES.cos()), ANGLES.sin())
    up, down = (ANGLES + 0.2).cos(), (ANGLES - 0.2).cos()
    torch.testing.assert_close(cos_plus_margin(ANGLES.cos(), 0.2), up)
    torch.testing.assert_close(cos_minus_margin(ANGLES.cos(), 0.2), down)


@pytest.mark.parametrize("continuation", ["wespeaker", "arcface"])
def test_cos_plus_margin_falls_with_the_angle_beyond_pi_too(continuation):
    angles = torch.linspace(0.05, math.pi, 200, dtype=torch.float64)
    shifted = cos_plus_margin(angles.cos(), 0.3, continuation)
    assert (shifted.diff() < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_are_finite_at_the_ends(dtype):
    cosines = torch.tensor([-1.0, 1.0, 1.0 + 1e-7], dtype=dtype)
    cosines.requires_grad_()
    (
        cos_plus_margin(cosines, 0.2) + cos_minus_margin(cosines, 0.2)
    ).sum().backward()
    assert cosines.grad.isfinite().all()


def test_unknown_continuation_is_rejected():
    with pytest.raises(ValueError, match="'arcface', got 'linear'"):
        cos_plus_margin(torch.zeros(1), 0.2, "linear")


def test_degrees_are_rejected():
    with pytest.raises(ValueError, match="radians, got 28.6; pass radians"):
        check_angle(28.6)
