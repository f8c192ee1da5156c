"""Comfort: accelerations, jerks and turning of a driven plan within the bounds that nuPlan took from human drivers."""

from __future__ import annotations

import functools

import numpy as np
from scipy.signal import savgol_filter

from dipole_sb3.driving.scene import Floats
from dipole_sb3.driving.score.bicycle import REAR_AXLE_TO_CENTRE, STEP, WHEELBASE
from dipole_sb3.driving.score.driving import ACCELERATION, LATERAL_ACCELERATION, MOMENTS, SPEED, STEERING, YAW
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
    along, across, yaw = (np.ascontiguousarray(states[..., one].T) for one in (ACCELERATION, LATERAL_ACCELERATION, YAW))
    return within_bounds(along, across, np.hypot(along, across), yaw, MOMENTS, MOMENTS)


def history_comfort(past: Floats, states: Floats) -> Floats:
    """NAVSIM v2's comfort: with the 1.4 s before, accelerations at the car's middle, and shorter windows.

    :param past: [4, 3], every 0.5 s until now: yaw, acceleration along the car and across it. Of its 10 Hz
        interpolation, NAVSIM takes −1.5 s to −0.2 s.
    :param states: [n, 41, 8]
    :returns: [n]
    """
    at = np.arange(14) / 5
    before = [np.interp(at, np.arange(4), column) for column in (np.unwrap(past[:, 0]), past[:, 1], past[:, 2])]
    speed, steering, along, across, yaw = (
        np.ascontiguousarray(states[..., one].T) for one in (SPEED, STEERING, ACCELERATION, LATERAL_ACCELERATION, YAW)
    )
    turning = speed * np.tan(steering) / WHEELBASE
    turning[0] = 0  # as NAVSIM takes the car's recorded state
    changing = np.diff(turning, axis=0, prepend=turning[:1]) / STEP
    # NAVSIM's formula, which adds what points outwards.
    at_centre = along + REAR_AXLE_TO_CENTRE * (turning**2 + changing)
    yaw, along, across, at_centre = (
        np.concatenate([np.repeat(old[:, None], len(states), axis=1), new])
        for old, new in zip((*before, before[1]), (yaw, along, across, at_centre), strict=True)
    )
    return within_bounds(at_centre, across, np.hypot(along, across), yaw, 8, 15)


def within_bounds(along: Floats, across: Floats, size: Floats, yaw: Floats, smoothing: int, jerk_window: int) -> Floats:
    """1 where accelerations, their jerks and the turning stay inside the bounds at all of T moments, else 0.

    :param along: [T, n], m/s², as ``across`` and ``size``; ``yaw`` in rad.
    :param smoothing: moments that smooth an acceleration; ``jerk_window`` those that give a jerk.
    :returns: [n]
    """
    moments = len(yaw)
    # NAVSIM's unwrapping: a difference of exactly π is rounded to even, unlike np.unwrap's.
    turns = np.cumsum(np.round(np.diff(yaw, axis=0) / (2 * np.pi)), axis=0)
    yaw = np.concatenate([yaw[:1], yaw[1:] - 2 * np.pi * turns])

    def filtered(values: Floats, *filters: tuple[int, int, int]) -> Floats:
        for each in filters:
            values = np.round(applied(savitzky_golay(moments, *each), values), _DECIMALS)
        return values

    smooth, jerk = (smoothing, 2, 0), ((8, 2, 0), (jerk_window, 2, 1))
    quantities = [
        (filtered(along, smooth), *LONGITUDINAL),
        (filtered(across, smooth), -LATERAL, LATERAL),
        (filtered(size, *jerk), -JERK, JERK),
        (filtered(along, *jerk), -LONGITUDINAL_JERK, LONGITUDINAL_JERK),
        (filtered(yaw, (5, 3, 2)), -YAW_ACCELERATION, YAW_ACCELERATION),
        (filtered(yaw, (5, 2, 1)), -YAW_RATE, YAW_RATE),
    ]
    comfortable = np.ones(yaw.shape[1])
    for values, low, high in quantities:
        comfortable *= ((values > low) & (values < high)).all(axis=0)
    return comfortable


@functools.cache
def savitzky_golay(moments: int, window: int, order: int, derivative: int) -> Floats:
    """The filter as a matrix [moments, moments]: it is linear, ends included."""
    matrix: Floats = savgol_filter(
        np.eye(moments), polyorder=order, window_length=window, deriv=derivative, delta=STEP, axis=0
    )
    return matrix
