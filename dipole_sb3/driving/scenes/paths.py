"""Smooth paths through points of the plane."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dipole_sb3.driving.scene import Floats

SPACING = 0.5
"""Metres between a path's points."""


class Path:
    """A line that a car follows, with a point every half metre.

    :param points: [P, 2], in driving direction.

    :ivar points: [P, 2].
    :ivar headings: [P], unwrapped, rad.
    :ivar curvatures: [P], 1/m, positive to the left in a right-handed frame.
    """

    def __init__(self, points: Floats) -> None:
        self.points = points
        steps = np.diff(points, axis=0)
        self.lengths = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
        slopes = np.gradient(points, self.lengths, axis=0)
        self.headings = np.unwrap(np.arctan2(slopes[:, 1], slopes[:, 0]))
        self.curvatures = np.gradient(self.headings, self.lengths)

    @property
    def length(self) -> float:
        return float(self.lengths[-1])

    def poses(self, progress: Floats, lateral: Floats | float = 0.0) -> Floats:
        """(x, y, heading of the path) [..., 3] at distances along the path and to its left, in metres."""
        heading = np.interp(progress, self.lengths, self.headings)
        x = np.interp(progress, self.lengths, self.points[:, 0]) - lateral * np.sin(heading)
        y = np.interp(progress, self.lengths, self.points[:, 1]) + lateral * np.cos(heading)
        return np.stack([x, y, heading], axis=-1)

    def project(self, point: Floats) -> float:
        """Distance along the path of the path's point that is nearest, to half a spacing."""
        return float(self.lengths[np.argmin(np.sum((self.points - point) ** 2, axis=1))])

    def speeds(self, limit: float, lateral_acceleration: float, braking: float) -> Floats:
        """Speed [P] at which a car may pass each point: slow in bends, and braking gently before them.

        :param limit: m/s.
        :param lateral_acceleration: in bends, m/s².
        :param braking: before them, m/s².
        """
        allowed = np.minimum(limit, np.sqrt(lateral_acceleration / np.maximum(np.abs(self.curvatures), 1e-6)))
        for index in range(len(allowed) - 2, -1, -1):
            step = self.lengths[index + 1] - self.lengths[index]
            allowed[index] = min(allowed[index], np.sqrt(allowed[index + 1] ** 2 + 2 * braking * step))
        return np.asarray(allowed)


def smooth_path(points: Floats, rounding: float = 2.0) -> Path:
    """A path near points that may lie unevenly and have corners.

    :param points: [P, 2], over 10 m long.
    :param rounding: metres, the standard deviation of the filter that rounds off where lanes meet.
    """
    steps = np.hypot(*np.diff(points, axis=0).T)
    points = points[np.concatenate([[True], steps > 1e-6])]
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    even = np.arange(0.0, lengths[-1], SPACING)
    resampled = np.stack([np.interp(even, lengths, points[:, axis]) for axis in (0, 1)], axis=1)
    return Path(gaussian_filter1d(resampled, rounding / SPACING, axis=0, mode="nearest")[8:-8])


def eased(share: Floats) -> Floats:
    """From 0 to 1 without a jump in slope or bend."""
    share = np.clip(share, 0.0, 1.0)
    return share**3 * (10 - 15 * share + 6 * share**2)
