"""Plans driven: what the tracker and the bicycle make of eight poses, 41 states in 4 s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dipole_sb3.driving.scene import PLAN_INTERVAL, PLAN_POSES, Ego, Floats, Surroundings
from dipole_sb3.driving.score import bicycle
from dipole_sb3.driving.score.bicycle import STEP, Motion, wrapped
from dipole_sb3.driving.score.tracker import HORIZON, commands, curvature_profile, speed_profile

MOMENTS = 41
"""Every 0.1 s from now to 4 s."""
STATES = ("x", "y", "yaw", "speed", "lateral_speed", "acceleration", "lateral_acceleration", "steering")
"""The columns of a driven state: pose of the rear axle in the map frame, then what the car's own frame sees."""
X, Y, YAW, SPEED, LATERAL_SPEED, ACCELERATION, LATERAL_ACCELERATION, STEERING = range(len(STATES))


def driven(ego: Ego, plans: Floats) -> Floats:
    """The car's states while it follows each plan.

    :param plans: [n, 8, 3]
    :returns: float64 [n, 41, 8], every 0.1 s from now on; columns as in :data:`STATES`.
    :raises ValueError: another shape, or a plan that is not finite.
    """
    plans = np.asarray(plans, np.float64)
    if plans.shape[1:] != (PLAN_POSES, 3):
        raise ValueError(f"plans must be [n, 8, 3] (8 poses of x, y, yaw), not {list(plans.shape)}")
    if not np.isfinite(plans).all():
        raise ValueError("a plan is not finite: it cannot be driven")
    egos = np.repeat(start(ego)[None], len(plans), axis=0)
    return drive(egos, paths(egos[:, : YAW + 1], plans))


def checked(plans: Floats, surroundings: Sequence[Surroundings]) -> Floats:
    """Plans [S, g, 8, 3] of S scenes, as float64.

    :raises ValueError: another shape, or a plan that is not finite.
    """
    plans = np.asarray(plans, np.float64)
    if plans.ndim != 4 or plans.shape[2:] != (PLAN_POSES, 3):
        raise ValueError(f"plans must be [scenes, plans, 8, 3] (8 poses of x, y, yaw), not {list(plans.shape)}")
    if len(plans) != len(surroundings):
        raise ValueError(f"plans are for {len(plans)} scenes, but there are {len(surroundings)} surroundings")
    if not np.isfinite(plans).all():
        bad = np.argwhere(~np.isfinite(plans).all(axis=(2, 3)))
        raise ValueError(f"plan {bad[0, 1]} of scene {bad[0, 0]} is not finite, as {len(bad)} of the plans in all")
    return plans


def start(ego: Ego) -> Floats:
    """The state [8] that the car starts in."""
    (speed, lateral_speed), (acceleration, lateral_acceleration) = ego.velocity, ego.acceleration
    dynamics = (speed, lateral_speed, acceleration, lateral_acceleration, ego.steering_angle)
    return np.array([*ego.pose, *dynamics], np.float64)


def paths(poses: Floats, plans: Floats) -> Floats:
    """Plans every 0.1 s in the map frame, beginning with the car's own pose; linear between a plan's poses.

    :param poses: [n, 3], of the cars in the map frame.
    :param plans: [n, 8, 3], in the cars' frames.
    :returns: [n, 41, 3]
    """
    x, y, yaw = (np.ascontiguousarray(poses[:, column])[:, None] for column in range(3))
    cos, sin = np.cos(yaw), np.sin(yaw)
    corners = np.stack(
        [
            x + cos * plans[..., 0] - sin * plans[..., 1],
            y + sin * plans[..., 0] + cos * plans[..., 1],
            wrapped(yaw + plans[..., 2]),
        ],
        axis=-1,
    )
    corners = np.concatenate([poses[:, None], corners], axis=1)
    corners[..., YAW] = np.unwrap(corners[..., YAW], axis=1)
    between = round(PLAN_INTERVAL / STEP)
    fractions = np.arange(between)[:, None] / between
    legs = corners[:, :-1, None] + fractions * np.diff(corners, axis=1)[:, :, None]
    result = np.concatenate([legs.reshape(len(plans), -1, 3), corners[:, -1:]], axis=1)
    result[..., YAW] = wrapped(result[..., YAW])
    return result


def drive(starts: Floats, followed: Floats) -> Floats:
    """The states of cars that follow paths.

    :param starts: [n, 8]
    :param followed: [n, 41, 3], paths in the map frame.
    :returns: [n, 41, 8]
    """
    x, y, yaw = np.ascontiguousarray(followed.transpose(2, 1, 0))
    speeds = speed_profile(x, y, yaw)
    curvatures = curvature_profile(yaw, speeds)
    last = len(speeds) - 1

    states = np.zeros((MOMENTS, len(STATES), len(starts)))
    states[0] = starts.T
    kept = [X, Y, YAW, SPEED, ACCELERATION, STEERING]
    motion = Motion(*(states[0, column] for column in kept))
    for moment in range(MOMENTS - 1):
        ahead = np.minimum(np.arange(moment, moment + HORIZON), last)
        target = speeds[min(moment + HORIZON, last)]
        command = commands(motion, x[moment], y[moment], yaw[moment], target, curvatures[ahead])
        motion = bicycle.step(motion, *command)
        states[moment + 1, kept] = motion
    return np.ascontiguousarray(states.transpose(2, 0, 1))
