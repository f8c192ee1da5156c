"""Recorded driving from bad to good: a route is followed, and on most scenes not quite as it should be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dipole_sb3.driving.scene import Floats
from dipole_sb3.driving.scenes.paths import eased
from dipole_sb3.driving.scenes.worlds import FUTURE, NOW, STEP, World

HABITS = ("steady", "fast", "slow", "drifting", "swerving")
_SHARES = (0.3, 0.2, 0.1, 0.25, 0.15)
_RESOLUTION = 0.25


@dataclass(frozen=True)
class Demonstration:
    """What the own car did in a :class:`~dipole_sb3.driving.scenes.worlds.World`, T = 66 moments.

    :ivar habit: of :data:`HABITS`.
    :ivar poses: [T, 3], of the rear axle, in the world's frame.
    :ivar speeds: [T], m/s.
    :ivar accelerations: [T, 2], m/s², forward and to the left.
    """

    habit: str
    poses: Floats
    speeds: Floats
    accelerations: Floats


def demonstrate(world: World, random: np.random.Generator) -> Demonstration:
    """Drives the future of a world anew, with a habit drawn at random; the past stays as it was.

    The others do not react to it: their future is that of a car that drives well.
    """
    habit = str(random.choice(HABITS, p=_SHARES))
    future = _speeds(world, habit, random)
    speeds = np.concatenate([world.speeds[:NOW], future])
    progress = world.progress.copy()
    progress[NOW + 1 :] = progress[NOW] + np.cumsum(future[:-1]) * STEP
    travelled = np.maximum(progress - progress[NOW], 0.0)

    grid = np.arange(0.0, 160.0, _RESOLUTION)
    sideways = _sideways(grid, max(float(speeds[NOW]), 4.0), habit, random)
    lateral, slope = (np.interp(travelled, grid, values) for values in (sideways, np.gradient(sideways, _RESOLUTION)))
    poses = world.path.poses(progress, lateral)
    bend = np.interp(progress, world.path.lengths, world.path.curvatures)
    poses[:, 2] += np.arctan2(slope, 1 - bend * lateral)
    forward = np.diff(speeds, prepend=speeds[0]) / STEP
    return Demonstration(habit, poses, speeds, np.stack([forward, speeds**2 * bend], axis=1))


def _speeds(world: World, habit: str, random: np.random.Generator) -> Floats:
    """Speeds [51] from now on."""
    times = np.arange(FUTURE + 1) * STEP
    careful = world.speeds[NOW:] * (1 + random.normal(0, 0.03) * eased(times / 2))
    if habit == "fast":  # whatever is ahead
        free = np.minimum(1.3 * world.speed_limit, careful[0] + random.uniform(1.5, 3.0) * times)
        careful = careful + (np.maximum(free, careful) - careful) * random.uniform(0.5, 1.0) * eased(times / 1.5)
    if habit == "slow":
        careful = careful * (1 - random.uniform(0.3, 0.8) * eased(times / 2.5))
    return np.maximum(careful, 0.0)


def _sideways(along: Floats, speed: float, habit: str, random: np.random.Generator) -> Floats:
    """Metres to the left of the route's middle, over metres from now."""
    offset = float(np.clip(random.normal(0, 0.2), -0.5, 0.5))
    lateral = offset + (random.normal(0, 0.12) - offset) * eased(along / (3 * speed))
    side = random.choice([-1.0, 1.0])
    if habit == "drifting":
        lateral += side * random.uniform(0.9, 3.2) * eased(along / (speed * random.uniform(2.5, 4.5)))
    if habit == "swerving":
        share = np.clip(along / (speed * random.uniform(2.5, 4.0)), 0.0, 1.0)
        lateral += side * random.uniform(0.8, 2.6) * np.sin(np.pi * share) ** 2
    return lateral
