"""Comfort: accelerations, jerks and turning of a driven plan within the bounds that nuPlan took from human drivers."""

from __future__ import annotations

import functools

import numpy as np
from scipy.signal import savgol_filter

from dipole_sb3.driving.scene import Floats
from dipole_sb3.driving.score.bicycle import STEP
from dipole_sb3.driving.score.driving import ACCELERATION, LATERAL_ACCELERATION, MOMENTS, YAW
from dipole_sb3.driving.score.tracker import applied

# NAVSIM's `pdm_comfort_metrics`.
JERK = 8.37
LATERAL = 4.89
LONGITUDINAL = (-4.05, 2.40)
LONGITUDINAL_JERK = 4.13
YAW_ACCELERATION = 1.93
YAW_RATE = 0.95
_DECIMALS = 8


def comfort(states: Floats) -> Floats:
    """1 where all six quantities of a driven plan stay inside their bounds at every moment, else 0.

    Derivatives are those of a Savitzky–Golay filter. Its windows are NAVSIM's: accelerations are smoothed by *one*
    parabola through all 41 moments, jerks come from accelerations smoothed over 8 moments and again from one parabola
    through all, yaw rate and acceleration from 5 moments.

    :param states: [n, 41, 8]
    :returns: [n]
    """
    comfortable = np.ones(len(states), np.bool_)
    for values, low, high in _quantities(states):
        comfortable &= ((values > low) & (values < high)).all(axis=0)
    return comfortable.astype(np.float64)


def _quantities(states: Floats) -> list[tuple[Floats, float, float]]:
    along = np.ascontiguousarray(states[..., ACCELERATION].T)
    across = np.ascontiguousarray(states[..., LATERAL_ACCELERATION].T)
    yaw = np.ascontiguousarray(states[..., YAW].T)
    # NAVSIM's unwrapping: a difference of exactly π is rounded to even, unlike np.unwrap's.
    yaw[1:] -= 2 * np.pi * np.cumsum(np.round(np.diff(yaw, axis=0) / (2 * np.pi)), axis=0)

    def smoothed(values: Floats, *filters: Floats) -> Floats:
        for matrix in filters:
            values = np.round(applied(matrix, values), _DECIMALS)
        return values

    parabola = savitzky_golay(MOMENTS, 2)
    jerk = savitzky_golay(8, 2), savitzky_golay(MOMENTS, 2, 1)
    return [
        (smoothed(along, parabola), *LONGITUDINAL),
        (smoothed(across, parabola), -LATERAL, LATERAL),
        (smoothed(np.hypot(along, across), *jerk), -JERK, JERK),
        (smoothed(along, *jerk), -LONGITUDINAL_JERK, LONGITUDINAL_JERK),
        (smoothed(yaw, savitzky_golay(5, 3, 2)), -YAW_ACCELERATION, YAW_ACCELERATION),
        (smoothed(yaw, savitzky_golay(5, 2, 1)), -YAW_RATE, YAW_RATE),
    ]


@functools.cache
def savitzky_golay(window: int, order: int, derivative: int = 0) -> Floats:
    """The filter as a matrix [41, 41]: it is linear, ends included."""
    matrix: Floats = savgol_filter(
        np.eye(MOMENTS), polyorder=order, window_length=window, deriv=derivative, delta=STEP, axis=0
    )
    return matrix
