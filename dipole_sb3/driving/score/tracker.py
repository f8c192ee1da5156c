"""The controller that steers the car along a plan: nuPlan's LQR tracker, for many plans at once.

Arrays have time first and plans last, and sums over time are loops: every number is then computed in the same order
for one plan and for many, and a plan's score does not depend on the plans beside it.
"""

from __future__ import annotations

import functools

import numpy as np

from dipole_sb3.driving.scene import Floats
from dipole_sb3.driving.score.bicycle import STEP, WHEELBASE, Motion

# NAVSIM's `BatchLQRTracker` and `batch_lqr_utils`.
HORIZON = 10
SPEED_WEIGHT = 10.0
LATERAL_WEIGHT = 1.0
HEADING_WEIGHT = 10.0
INPUT_WEIGHT = 1.0
JERK_PENALTY = 1e-4
CURVATURE_RATE_PENALTY = 1e-2
INITIAL_CURVATURE_PENALTY = 1e-10
STOPPING_SPEED = 0.2
STOPPING_GAIN = 0.5


def applied(matrix: Floats, values: Floats) -> Floats:
    """``matrix @ values`` in an order of summation that does not depend on the number of columns.

    :param matrix: [m, k]
    :param values: [k, n]
    """
    total = np.zeros((len(matrix), values.shape[1]))
    for column, row in zip(matrix.T, values, strict=True):
        total += column[:, None] * row
    return total


def speed_profile(x: Floats, y: Floats, yaw: Floats) -> Floats:
    """The speeds [T, n] that lead through the poses, by regularised least squares.

    The unknowns are the speeds v during each of the T steps between T + 1 poses; minimised is
    Σ (d − v·0.1 s)² + 1e-4 · Σ a², where d is a step's length along the pose that it starts from and a the change of v
    over 0.1 s. That is what NAVSIM computes, not what it says: nuPlan penalises changes of a (the jerk), but in
    NAVSIM's batched version one assignment overwrites half of the matrix of differences, so that each a is penalised
    itself, but for the last two, of which the difference is. All published scores were made so.

    :param x: [T + 1, n], m, as ``y``; ``yaw`` in rad.
    """
    lengths = np.cos(yaw[:-1]) * np.diff(x, axis=0) + np.sin(yaw[:-1]) * np.diff(y, axis=0)
    return applied(_smoothing(len(lengths)), lengths)


@functools.cache
def _smoothing(steps: int) -> Floats:
    accelerations = np.diff(np.eye(steps), axis=0) / STEP
    penalised = np.concatenate([accelerations[:-2], accelerations[-1:] - accelerations[-2:-1]])
    normal = STEP**2 * np.eye(steps) + JERK_PENALTY * penalised.T @ penalised
    smoothing: Floats = np.linalg.inv(normal) * STEP
    return smoothing


def curvature_profile(yaw: Floats, speeds: Floats) -> Floats:
    """The curvatures [T, n] that turn the car as the poses do, by least squares with a penalty on their rate.

    Minimised is Σ (turn − κ·v·0.1 s)² + 1e-2 · Σ (rate of κ)² + 1e-10 · κ₀². The normal equations couple neighbours
    alone: a tridiagonal system, solved by elimination forward and substitution backward.

    :param yaw: [T + 1, n], rad.
    :param speeds: [T, n], m/s.
    """
    turns = np.diff(yaw, axis=0)
    turns = np.arctan2(np.sin(turns), np.cos(turns))
    steps = speeds * STEP
    coupling = CURVATURE_RATE_PENALTY / STEP**2
    diagonal = steps**2 + 2 * coupling
    diagonal[0] += INITIAL_CURVATURE_PENALTY - coupling
    diagonal[-1] -= coupling
    curvatures = steps * turns
    for row in range(1, len(turns)):
        factor = coupling / diagonal[row - 1]
        diagonal[row] -= factor * coupling
        curvatures[row] += factor * curvatures[row - 1]
    curvatures[-1] /= diagonal[-1]
    for row in range(len(turns) - 2, -1, -1):
        curvatures[row] = (curvatures[row] + coupling * curvatures[row + 1]) / diagonal[row]
    return curvatures


def commands(
    motion: Motion, x: Floats, y: Floats, yaw: Floats, target_speed: Floats, curvatures: Floats
) -> tuple[Floats, Floats]:
    """Acceleration and steering rate [n] that bring the cars towards their plans within the next second.

    :param x: [n], m, the plans' poses now, as ``y``; ``yaw`` in rad.
    :param target_speed: [n], m/s, the plans' speed in one second.
    :param curvatures: [10, n], 1/m, the plans' curvature during that second.
    """
    stopping = (target_speed <= STOPPING_SPEED) & (motion.speed <= STOPPING_SPEED)
    period = HORIZON * STEP
    gain = SPEED_WEIGHT * period / (SPEED_WEIGHT * period**2 + INPUT_WEIGHT)
    acceleration = (target_speed - motion.speed) * np.where(stopping, STOPPING_GAIN, gain)

    across, along = motion.y - y, motion.x - x
    lateral = across * np.cos(yaw) - along * np.sin(yaw)
    heading = motion.yaw - yaw
    heading = np.arctan2(np.sin(heading), np.cos(heading))
    # Where the errors are in a second without steering, and how they answer to a steering rate of one.
    lateral_answer, heading_answer, steering_answer = np.zeros_like(lateral), np.zeros_like(lateral), 0.0
    for moment, curvature in enumerate(curvatures):
        advance = (motion.speed + moment * STEP * acceleration) * STEP
        lateral = lateral + advance * heading
        heading = heading + advance * (motion.steering / WHEELBASE - curvature)
        lateral_answer = lateral_answer + advance * heading_answer
        heading_answer = heading_answer + advance * steering_answer / WHEELBASE
        steering_answer += STEP
    heading = np.arctan2(np.sin(heading), np.cos(heading))
    steering_rate = -(LATERAL_WEIGHT * lateral_answer * lateral + HEADING_WEIGHT * heading_answer * heading) / (
        LATERAL_WEIGHT * lateral_answer**2 + HEADING_WEIGHT * heading_answer**2 + INPUT_WEIGHT
    )
    return acceleration, np.where(stopping, 0.0, steering_rate)
