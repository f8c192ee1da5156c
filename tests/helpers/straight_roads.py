"""Driving scenes that can be worked out by hand: a straight road of two lanes along x, the car in the right one.

Lanes are 3.5 m wide; the right one's middle is y = 0. The car is 2.297 m wide; from its rear axle, at x = 0, it reaches
4.049 m ahead and 1.127 m back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from dipole_sb3.driving.scene import Ego, Roads, Surroundings, Tracks

TIMES = np.arange(1, 9) * 0.5
MOMENTS = np.arange(51) * 0.1
START, END = -60.0, 200.0
NOBODY = Tracks((), np.zeros((0, 51, 3)), np.zeros((0, 2)), np.zeros((0, 51, 2)))


def straight(speed, acceleration=0.0, across=0.0, until=2.0):
    """A plan [8, 3] along x; it stands once it has braked to a stop, and moves ``across`` by a time smoothly."""
    times = TIMES if acceleration >= 0 else np.minimum(TIMES, speed / -acceleration)
    x = speed * times + acceleration * times**2 / 2
    part = np.clip(TIMES / until, 0, 1)
    y = across * part**2 * (3 - 2 * part)
    slope = across * 6 * part * (1 - part) / until
    yaw = np.arctan2(slope, np.maximum(speed, 1e-9)) if across else np.zeros(8)
    return np.stack([x, y, yaw], axis=-1)


def track(
    kind="vehicle", x=0.0, y=0.0, yaw=0.0, speed=0.0, across=0.0, size=(4.5, 1.8), first=0, last=50, starts_at=None
):
    """Somebody who moves with a constant velocity along x and across it: kind, poses, size, velocities.

    :param first: the first moment, of 51, in which it is seen; ``last``: the last one.
    :param starts_at: s; it stands until then.
    """
    moved = MOMENTS if starts_at is None else np.maximum(MOMENTS - starts_at, 0)
    poses = np.stack([x + speed * moved, y + across * moved, np.full(51, yaw)], axis=-1)
    velocities = np.tile([speed, across], (51, 1)).astype(float)
    if starts_at is not None:
        velocities[starts_at >= MOMENTS] = 0
    absent = (np.arange(51) < first) | (np.arange(51) > last)
    poses[absent] = velocities[absent] = np.nan
    return kind, poses, size, velocities


def tracks(*several):
    """Tracks of the tuples that :func:`track` gives."""
    if not several:
        return NOBODY
    kinds, poses, sizes, velocities = zip(*several, strict=True)
    return Tracks(kinds, np.stack(poses), np.array(sizes, float), np.stack(velocities))


def rectangle(low, high, left=START, right=END):
    """A polygon from y = low to y = high."""
    return shapely.box(left, low, right, high)


def two_lanes(*more):
    """The road of two lanes; ``more`` are further (kind, polygon)."""
    shapes = [("roadblock", rectangle(-1.75, 5.25)), ("lane", rectangle(-1.75, 1.75)), ("lane", rectangle(1.75, 5.25))]
    kinds, polygons = zip(*shapes, *more, strict=True)
    holder = np.empty(len(polygons), object)
    holder[:] = polygons
    on_route = np.array([kind in ("lane", "connector") for kind in kinds])
    on_route[2] = False
    return Roads(kinds, holder, on_route, np.array([[START, 0.0], [END, 0.0]]))


def reference(plan):
    """A plan as a reference [41, 3] from the origin: linear between its poses, as the score follows plans too."""
    corners = np.concatenate([np.zeros((1, 3)), plan])
    at = np.arange(41) / 5
    return np.stack([np.interp(at, np.arange(9), corners[:, column]) for column in range(3)], axis=-1)


def scene(*others, speed=10.0, y=0.0, roads=None, follows=None, steering=0.0, acceleration=0.0):
    """Surroundings: the car at ``speed`` with the middle of its rear axle at (0, y).

    :param follows: the reference's plan, in the car's frame; None: straight on at the same speed.
    """
    ego = Ego(np.array([0.0, y, 0.0]), np.array([speed, 0.0]), np.array([acceleration, 0.0]), steering)
    followed = reference(straight(speed) if follows is None else follows)
    followed[:, 1] += y
    return Surroundings(ego, tracks(*others), two_lanes() if roads is None else roads, followed)


def moved(surroundings, angle, shift):
    """The same scene elsewhere: everything turned around the origin, then shifted."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])

    def poses(values):
        return np.concatenate([values[..., :2] @ turn.T + shift, values[..., 2:] + angle], axis=-1)

    ego, others, roads = surroundings.ego, surroundings.tracks, surroundings.roads
    polygons = shapely.transform(roads.polygons, lambda points: points @ turn.T + shift)
    return Surroundings(
        replace(ego, pose=poses(ego.pose)),
        replace(others, poses=poses(others.poses), velocities=others.velocities @ turn.T),
        replace(roads, polygons=polygons, centreline=roads.centreline @ turn.T + shift),
        poses(surroundings.reference),
    )
