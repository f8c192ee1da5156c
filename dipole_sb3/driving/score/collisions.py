"""Collisions at fault, and those that would follow within a second at constant velocity (time to collision).

Both scores judge a track once for each plan: at the first moment in which its box meets the car's. A track that was
not the car's fault then is left alone for the rest of the plan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from dipole_sb3.driving.scene import Floats, Tracks
from dipole_sb3.driving.score.bicycle import LENGTH, STEP, WIDTH
from dipole_sb3.driving.score.driving import LATERAL_SPEED, SPEED, YAW
from dipole_sb3.driving.score.places import Places, box_corners, car_centres, car_corners

# NAVSIM's `get_collision_type`, `PDMScorerConfig` and `_calculate_ttc`; nuPlan's `is_agent_ahead`, `is_agent_behind`.
STANDING = 0.05
STANDING_TTC = 0.005
AHEAD = np.deg2rad(30)
BEHIND = np.deg2rad(150)
LOOK_AHEAD = (0, 3, 6, 9)
STATIC_SCORE = 0.5


class Others:
    """The tracks of a scene, prepared to be met by many plans."""

    def __init__(self, tracks: Tracks) -> None:
        self.centres = tracks.poses[..., :2].astype(np.float64)
        self.static = np.asarray(tracks.kinds, dtype=np.str_) == "static"
        self._reach = np.hypot(*tracks.sizes.astype(np.float64).T) / 2
        there = np.isfinite(tracks.poses).all(axis=-1)
        self._yaw = np.where(there, tracks.poses[..., 2], 0.0)
        self._sizes = tracks.sizes.astype(np.float64)
        corners = box_corners(self.centres, self._yaw, self._sizes[:, None, 0], self._sizes[:, None, 1])
        self.polygons = np.full(there.shape, None, np.object_)
        self.polygons[there] = shapely.polygons(corners[there])
        # NAVSIM keeps the first object of a track: one that stood then counts as standing for all of the plan.
        first = there.argmax(axis=1)
        speeds = np.hypot(*tracks.velocities[np.arange(len(first)), first].T)
        self.standing = self.static | (speeds <= STANDING)

    def near(self, centres: Floats, look_ahead: int) -> npt.NDArray[np.bool_]:
        """Which tracks [n, T, K] may meet cars with these centres [n, T, 2], so many steps later."""
        others = self.centres[:, look_ahead : look_ahead + centres.shape[1]]
        reach = self._reach + np.hypot(LENGTH, WIDTH) / 2
        across = others[..., 0].T - centres[..., 0, None]
        along = others[..., 1].T - centres[..., 1, None]
        # A little more than touching, whatever rounding does; NaN, where there is nobody, is not near.
        near: npt.NDArray[np.bool_] = across * across + along * along <= (reach * 1.001) ** 2
        return near

    def beside(
        self, centres: Floats, yaw: Floats, track: npt.NDArray[np.int64], moment: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Which boxes overlap with cars along both of the cars' axes, to a millimetre; the others cannot meet.

        Cheap beside an intersection of polygons, which then settles it.

        :param centres: [m, 2], of the cars; ``yaw``, ``track`` and ``moment`` [m].
        """
        offset = self.centres[track, moment] - centres
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = self._yaw[track, moment] - yaw
        length, width = self._sizes[track].T
        square, skew = np.abs(np.cos(turn)), np.abs(np.sin(turn))
        along = np.abs(cos * offset[:, 0] + sin * offset[:, 1]) - (LENGTH + square * length + skew * width) / 2
        across = np.abs(cos * offset[:, 1] - sin * offset[:, 0]) - (WIDTH + square * width + skew * length) / 2
        overlap: npt.NDArray[np.bool_] = np.maximum(along, across) < 1e-3
        return overlap


def no_collision(states: Floats, others: Others, places: Places, off_road: npt.NDArray[np.bool_]) -> Floats:
    """0 where a plan hits somebody and is at fault, 0.5 where only static things were hit so, else 1.

    :param states: [n, 41, 8]
    :param off_road: [n, 41], whether a corner of the car is off the road.
    :returns: [n]
    """
    corners, centres = car_corners(states), car_centres(states)
    plan, moment, track = np.nonzero(others.near(centres, 0))
    beside = others.beside(centres[plan, moment], states[plan, moment, YAW], track, moment)
    plan, moment, track = plan[beside], moment[beside], track[beside]
    cars, theirs = _boxes(corners, plan, moment), others.polygons[track, moment]
    plan, moment, track, theirs = _first(shapely.intersects(cars, theirs), plan, track, moment, track, theirs)

    state, corner = states[plan, moment], corners[plan, moment]
    moving = np.hypot(state[:, SPEED], state[:, LATERAL_SPEED]) > STANDING
    _, behind = _ahead_behind(state, others.centres[track, moment])
    front = shapely.linestrings(corner[:, [0, 3]]) if len(corner) else np.empty(0, np.object_)
    frontal = shapely.intersects(front, theirs)
    spread = places.in_several_lanes(corner) | off_road[plan, moment]
    at_fault = moving & (others.standing[track] | (~behind & (frontal | spread)))

    scores = np.ones(len(states))
    np.minimum.at(scores, plan[at_fault], np.where(others.static[track[at_fault]], STATIC_SCORE, 0.0))
    return scores


def time_to_collision(states: Floats, others: Others, places: Places, off_road: npt.NDArray[np.bool_]) -> Floats:
    """0 where a plan would hit something ahead within 0.9 s if the car kept its velocity, else 1.

    Ahead is within 30° of the car's direction, seen from the rear axle; where the car covers several lanes, is off the
    road or in an intersection, it is everything that is not behind (beyond 150°).

    :param states: [n, T, 8], with T from 1 to 41.
    :param off_road: [n, T], whether a corner of the car is off the road.
    :returns: [n]
    """
    speed = np.hypot(states[..., SPEED], states[..., LATERAL_SPEED])
    yaw = np.ascontiguousarray(states[..., YAW])
    velocity = np.stack([np.cos(yaw) * speed, np.sin(yaw) * speed], axis=-1)
    later = np.array(LOOK_AHEAD)
    shifts = velocity[:, :, None] * (later[:, None] * STEP)
    centres = car_centres(states)[:, :, None] + shifts
    corners = car_corners(states)[:, :, None] + shifts[..., None, :]

    near = np.stack([others.near(centres[:, :, step], ahead) for step, ahead in enumerate(LOOK_AHEAD)], axis=2)
    near &= (speed >= STANDING_TTC)[:, :, None, None]
    plan, moment, step, track = np.nonzero(near)
    beside = others.beside(centres[plan, moment, step], yaw[plan, moment], track, moment + later[step])
    plan, moment, step, track = plan[beside], moment[beside], step[beside], track[beside]
    cars, theirs = _boxes(corners, plan, moment, step), others.polygons[track, moment + later[step]]
    plan, moment, step, track = _first(shapely.intersects(cars, theirs), plan, track, moment, step, track)

    state = states[plan, moment]
    ahead, behind = _ahead_behind(state, others.centres[track, moment + later[step]])
    wary = places.in_several_lanes(corners[plan, moment, 0]) | off_road[plan, moment]
    wary |= places.in_intersection(state[:, :YAW])
    scores = np.ones(len(states))
    scores[plan[ahead | (wary & ~behind)]] = 0
    return scores


def _boxes(corners: Floats, *index: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    """The cars' polygons at these indices; each is made once, though several tracks may be near it."""
    if not len(index[0]):
        return np.empty(0, np.object_)
    flat = np.ravel_multi_index(index, corners.shape[:-2])
    # The indices are sorted, as np.nonzero gives them.
    fresh = np.concatenate([[True], np.diff(flat) != 0])
    boxes: npt.NDArray[np.object_] = shapely.polygons(corners.reshape(-1, 4, 2)[flat[fresh]])
    repeated: npt.NDArray[np.object_] = boxes[np.cumsum(fresh) - 1]
    return repeated


def _first(
    met: npt.NDArray[np.bool_], plan: npt.NDArray[np.int64], track: npt.NDArray[np.int64], *values: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], ...]:
    """Plans, and the other values, of the first meeting of each plan with each track; input is sorted by time."""
    plan, track = plan[met], track[met]
    pairs = plan * (1 + track.max(initial=0)) + track
    first = np.unique(pairs, return_index=True)[1]
    return plan[first], *(value[met][first] for value in values)


def _ahead_behind(state: Floats, points: Floats) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether points [n, 2] lie ahead of and behind the rear axles of states [n, 8].

    NAVSIM takes the arc cosine, which is undefined when rounding lifts its argument above 1 for a point exactly ahead;
    the comparison of cosines gives the same answer without that accident.
    """
    offset = points - state[:, :YAW]
    yaw = np.ascontiguousarray(state[:, YAW])
    along = np.cos(yaw) * offset[:, 0] + np.sin(yaw) * offset[:, 1]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    return along > np.cos(AHEAD) * distance, along < np.cos(BEHIND) * distance
