"""Angles of cosines, with slopes that stay finite."""

import math

import torch


def sine(cosines):
    """sqrt(1 - cos^2) whose slope stays finite at cosines of 1 and -1.

    Arguments
    ---------
    cosines : torch.Tensor
        Cosines of any shape.

    Returns
    -------
    torch.Tensor
        Sines of the same shape, at least the root of the type's epsilon.

    Example
    -------
    >>> sine(torch.tensor([0.6, 1.0]))
    tensor([8.0000e-01, 3.4527e-04])
    """
    squared = (1 - cosines) * (1 + cosines)
    return squared.clamp(min=torch.finfo(cosines.dtype).eps).sqrt()


def cos_plus_margin(cosines, margin, continuation="wespeaker"):
    """cos(theta + margin), continued linearly where theta + margin > pi.

    There the cosine would rise again. The ``wespeaker`` continuation,
    c - (1 + cos(pi - margin)), has no jump. WeSpeaker and the code of
    SphereFace2's authors have it. The ``arcface`` continuation,
    c - margin sin(pi - margin), jumps down by about margin^2 / 2. The code of
    ArcFace's authors, Clova and Open Speaker Verification have it.

    Arguments
    ---------
    cosines : torch.Tensor
        Cosines of any shape.
    margin : float
        Angle, radians.
    continuation : str
        ``wespeaker`` or ``arcface``.

    Returns
    -------
    torch.Tensor
        Of the same shape.

    Raises
    ------
    ValueError
        If the continuation is unknown.

    Example
    -------
    >>> cos_plus_margin(torch.tensor([1.0, -1.0]), 0.5)
    tensor([ 0.8774, -1.1224])
    >>> cos_plus_margin(torch.tensor([1.0, -1.0]), 0.5, "arcface")
    tensor([ 0.8774, -1.2397])
    """
    check_continuation(continuation)
    shifted = cosines * math.cos(margin) - sine(cosines) * math.sin(margin)
    threshold = math.cos(math.pi - margin)
    drop = 1 + threshold
    if continuation == "arcface":
        drop = margin * math.sin(math.pi - margin)
    return torch.where(cosines > threshold, shifted, cosines - drop)


def cos_minus_margin(cosines, margin):
    """cos(theta - margin), also where theta < margin.

    Arguments
    ---------
    cosines : torch.Tensor
        Cosines of any shape.
    margin : float
        Angle, radians.

    Returns
    -------
    torch.Tensor
        Of the same shape.
    """
    return cosines * math.cos(margin) + sine(cosines) * math.sin(margin)


def check_continuation(continuation):
    """Raises if there is no such continuation of ``cos_plus_margin``.

    Arguments
    ---------
    continuation : str
        ``wespeaker`` or ``arcface``.
    """
    if continuation not in ("wespeaker", "arcface"):
        raise ValueError(
            "`continuation` must be 'wespeaker' or 'arcface', "
            f"got {continuation!r}."
        )


def check_angle(margin, name="margin"):
    """Raises if a margin is not an angle in [0, pi/2) radians.

    Arguments
    ---------
    margin : float
        Angle, radians.
    name : str
        What the error calls it.
    """
    if not 0 <= margin < math.pi / 2:
        raise ValueError(
            f"`{name}` must be an angle in [0, pi/2) radians, "
            f"got {margin}; pass radians, not degrees."
        )
