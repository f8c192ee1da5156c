"""The reference plan: like PDM-Closed, IDM along the route at five speeds and three offsets, and the best is taken.

Constants are those of NAVSIM's metric caching. As there, others are expected to keep their velocity.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dipole_sb3.driving.scene import PLAN_INTERVAL, PLAN_POSES, Ego, Floats, Surroundings, Tracks
from dipole_sb3.driving.scenes.logs import to_ego_frame
from dipole_sb3.driving.scenes.metric_caches import STEPS
from dipole_sb3.driving.scenes.paths import Path
from dipole_sb3.driving.scenes.worlds import EGO_SIZE, STEP
from dipole_sb3.driving.score import score_plans

SPEED_FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
LATERAL_OFFSETS = (0.0, -1.0, 1.0)
_GAP = 1.0
_HEADWAY = 1.5
_ACCELERATION = 1.5
_BRAKING = 3.0
_EXPONENT = 10
_FRONT = 4.049
"""Metres from the rear axle to the front of nuPlan's car."""


def with_reference(surroundings: Surroundings, path: Path, speed_limit: float) -> Surroundings:
    """The surroundings with the plan of the best of 15 proposals.

    :param surroundings: in which the reference is ignored.
    :param path: the route's middle, in the map frame.
    :param speed_limit: m/s.
    """
    expected = _forecast(surroundings.tracks)
    proposals = np.concatenate(
        [_proposals(surroundings.ego, expected, path, speed_limit, offset) for offset in LATERAL_OFFSETS]
    )
    every = round(PLAN_INTERVAL / STEP)
    plans = to_ego_frame(proposals[:, every : PLAN_POSES * every + 1 : every], surroundings.ego.pose)
    # Progress is measured against the fastest proposal, so that the order among them is NAVSIM's.
    fastest = proposals[len(SPEED_FRACTIONS) - 1]
    scores = score_plans([replace(surroundings, tracks=expected, reference=fastest)], plans[None])
    return replace(surroundings, reference=proposals[int(scores.pdms[0].argmax())])


def _forecast(tracks: Tracks) -> Tracks:
    """Everybody keeps the velocity of now; who is not there now does not come."""
    poses = np.repeat(tracks.poses[:, :1], STEPS, axis=1)
    velocities = np.repeat(tracks.velocities[:, :1], STEPS, axis=1)
    poses[..., :2] += velocities * (np.arange(STEPS) * STEP)[:, None]
    return replace(tracks, poses=poses, velocities=velocities)


def _proposals(ego: Ego, others: Tracks, path: Path, speed_limit: float, offset: float) -> Floats:
    """Poses [5, 51, 3] along the path and an offset to its left, one proposal for each speed."""
    along, beside, pace = _frenet(others, path)
    half_length, half_width = (others.sizes / 2).T
    in_way = np.abs(beside - offset) < (half_width[:, None] + EGO_SIZE[1] / 2)
    target = speed_limit * np.array(SPEED_FRACTIONS)
    progress = np.full(len(target), path.project(ego.pose[:2]))
    speed = np.full(len(target), max(float(ego.velocity[0]), 0.0))
    states = [progress]
    for step in range(1, STEPS):
        gaps = along[:, step, None] - half_length[:, None] - (progress + _FRONT)
        ahead = in_way[:, step, None] & (along[:, step, None] > progress)
        gaps = np.where(ahead, gaps, np.inf)
        nearest = gaps.argmin(axis=0) if len(gaps) else None
        gap = path.length - progress if nearest is None else np.minimum(gaps.min(axis=0), path.length - progress)
        lead = 0.0 if nearest is None else np.where(np.isfinite(gaps.min(axis=0)), pace[nearest, step], 0.0)
        wanted = _GAP + speed * _HEADWAY + speed * (speed - lead) / (2 * np.sqrt(_ACCELERATION * _BRAKING))
        change = _ACCELERATION * (1 - (speed / target) ** _EXPONENT - (wanted / np.maximum(gap, _GAP)) ** 2)
        progress = progress + STEP * speed
        speed = np.maximum(speed + STEP * np.clip(change, -_BRAKING, _ACCELERATION), 0.0)
        states.append(progress)
    return path.poses(np.stack(states, axis=1), offset)


def _frenet(others: Tracks, path: Path) -> tuple[Floats, Floats, Floats]:
    """Of each object at each moment [K, 51]: metres along the path, to its left, and m/s along it."""
    places = others.poses[..., :2]
    nearest = np.empty(places.shape[:2], np.intp)
    for row in range(len(places)):
        nearest[row] = np.sum((places[row, :, None] - path.points) ** 2, axis=2).argmin(axis=1)
    heading = path.headings[nearest]
    away = places - path.points[nearest]
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    along = path.lengths[nearest] + (away * ahead).sum(axis=-1)
    beside = ahead[..., 0] * away[..., 1] - ahead[..., 1] * away[..., 0]
    return along, beside, (others.velocities * ahead).sum(axis=-1)
