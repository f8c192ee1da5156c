"""Where the car was during the last moments, seen from where it is now: from poses in the frame of its odometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POSES = 4
INTERVAL_S = 0.5
SPAN_S = (POSES - 1) * INTERVAL_S
KEPT_S = SPAN_S + INTERVAL_S
"""How long messages are kept: those between which the oldest pose lies, too."""
SPACING_S = 0.04
"""Messages that follow sooner are not kept: what is between poses is interpolated."""

LARGEST_GAP_S = INTERVAL_S
_LARGEST_JUMP = (0.5, 0.5)
"""Metres and radians from where the last two poses lead."""


def unbroken(seconds: Sequence[float], poses: NDArray[np.float64]) -> int:
    """Where the last stretch without a break begins.

    A break is a time that does not grow, a gap, or a jump: a pose that is not near where the two before it lead, as
    when localisation corrects itself or a simulation is set back.

    :param seconds: [n], of the poses.
    :param poses: [n, 3], x, y, yaw.
    :return: index of its first pose.
    """
    begin = 0
    for index in range(1, len(seconds)):
        width = seconds[index] - seconds[index - 1]
        if not 0.0 < width <= LARGEST_GAP_S:
            begin = index
        elif index - begin >= 2:
            share = width / (seconds[index - 1] - seconds[index - 2])
            led = _difference(poses[index - 1], poses[index - 2]) * share
            off = _difference(poses[index], poses[index - 1]) - led
            if np.hypot(*off[:2]) > _LARGEST_JUMP[0] or abs(off[2]) > _LARGEST_JUMP[1]:
                begin = index
    return begin


def history(seconds: Sequence[float], poses: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The poses 1.5, 1.0, 0.5 and 0 s before the last one, in its frame; the last is zero.

    :param seconds: [n], growing.
    :param poses: [n, 3], x, y, yaw, without a break.
    :return: [4, 3]; None: they do not reach back far enough.
    """
    now = poses[-1]
    asked = seconds[-1] - INTERVAL_S * np.arange(POSES - 1, -1, -1)
    # A clock that counts nanoseconds says 1.4999999.
    if asked[0] < seconds[0] - 1e-3:
        return None
    yaws = np.unwrap(poses[:, 2])
    x, y, yaw = (np.interp(asked, seconds, values) for values in (poses[:, 0] - now[0], poses[:, 1] - now[1], yaws))
    cosine, sine = np.cos(now[2]), np.sin(now[2])
    return np.stack([cosine * x + sine * y, cosine * y - sine * x, yaw - yaws[-1]], axis=1)


def placed(poses: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses [n, 3] that are seen from ``origin`` [3], in the frame in which the origin is given."""
    cosine, sine = np.cos(origin[2]), np.sin(origin[2])
    x, y = poses[:, 0], poses[:, 1]
    yaw = (poses[:, 2] + origin[2] + np.pi) % (2 * np.pi) - np.pi
    return np.stack([origin[0] + cosine * x - sine * y, origin[1] + sine * x + cosine * y, yaw], axis=1)


def _difference(pose: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """pose − other; of angles the shorter way round."""
    found = pose - other
    found[2] = (found[2] + np.pi) % (2 * np.pi) - np.pi
    return found
