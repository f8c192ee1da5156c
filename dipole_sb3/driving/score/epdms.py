"""NAVSIM v2's extended score (EPDMS) of plans in one frame, without its comfort between two frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from dipole_sb3.driving.scene import Floats, RedLights, Surroundings
from dipole_sb3.driving.score.collisions import LOOK_AHEAD, no_collision, time_to_collision
from dipole_sb3.driving.score.comfort import history_comfort
from dipole_sb3.driving.score.driving import MOMENTS, YAW, checked, drive, paths, start
from dipole_sb3.driving.score.pdms import SHORT_PROGRESS, Prepared, prepared
from dipole_sb3.driving.score.places import car_centres, car_corners

# NAVSIM v2's `PDMScorerConfig`.
WEIGHTS = {"progress": 5.0, "time_to_collision": 5.0, "lane_keeping": 2.0, "history_comfort": 2.0}
ONCOMING_HORIZON = 10
ONCOMING_ALLOWED, ONCOMING_VIOLATION = 2.0, 6.0
LANE_DEVIATION = 0.5
LANE_HORIZON = 20


@dataclass(frozen=True, eq=False)
class ExtendedScores:
    """Sub-scores of plans; arrays of one shape, values in [0, 1].

    ``epdms = no_collision · drivable_area · driving_direction · traffic_light
    · (5·progress + 5·time_to_collision + 2·lane_keeping + 2·history_comfort) / 14``
    """

    no_collision: Floats
    drivable_area: Floats
    driving_direction: Floats
    traffic_light: Floats
    progress: Floats
    time_to_collision: Floats
    lane_keeping: Floats
    history_comfort: Floats
    epdms: Floats


def extended_scores(surroundings: Sequence[Surroundings], plans: Floats) -> ExtendedScores:
    """Extended scores of plans, each as if it were alone.

    :param surroundings: S scenes, with their ``past`` and ``red_lights``.
    :param plans: [S, g, 8, 3]; scene i has ``plans[i]``.
    :returns: float64 [S, g] each.
    :raises ValueError: as :func:`score_plans`, or a scene does not say its past or its traffic lights.
    """
    plans = checked(plans, surroundings)
    rows = [_scene(one, some) for one, some in zip(surroundings, plans, strict=True)]
    return ExtendedScores(*(np.stack(part) for part in zip(*rows, strict=True)))


def _scene(surroundings: Surroundings, plans: Floats) -> tuple[Floats, ...]:
    past, lights = surroundings.past, surroundings.red_lights
    if past is None or lights is None:
        raise ValueError("the extended score needs the surroundings' past and red_lights, which are None here")
    if np.shape(past) != (4, 3) or not np.isfinite(past).all():
        raise ValueError(f"past of the surroundings must be finite and have the shape [4, 3], not {list(past.shape)}")
    if lights.red.shape != (len(lights.polygons), MOMENTS):
        raise ValueError(
            f"red_lights.red of the surroundings must have the shape {[len(lights.polygons), MOMENTS]}, "
            f"not {list(lights.red.shape)}"
        )
    world = prepared(surroundings)
    starts = np.repeat(start(surroundings.ego)[None], len(plans) + 1, axis=0)
    followed = np.concatenate([surroundings.reference[None, :MOMENTS], paths(starts[1:, : YAW + 1], plans)])
    states = drive(starts, followed)

    corners, centres = car_corners(states), car_centres(states)
    off_road = world.places.off_road(corners)
    crossing = world.places.in_intersection(centres)
    multipliers = (
        no_collision(states, world.others, world.places, off_road),
        np.where(off_road.any(axis=1), 0.0, 1.0),
        _driving_direction(centres, ~world.places.on_route(centres) & ~crossing),
        _traffic_light(corners, lights),
    )
    allowed = np.prod(multipliers, axis=0)
    advance = world.advance(states)
    best = np.maximum(advance * allowed, (advance * allowed)[0])
    far = best > SHORT_PROGRESS
    # The last second of time to collision would look beyond the plan's end.
    short = MOMENTS - LOOK_AHEAD[-1]
    weighted = {
        "progress": np.where(far, np.minimum(advance / np.where(far, best, 1), 1), 1.0),
        "time_to_collision": time_to_collision(states[:, :short], world.others, world.places, off_road[:, :short]),
        "lane_keeping": _lane_keeping(centres, crossing, world),
        "history_comfort": history_comfort(past, states),
    }
    total = sum((WEIGHTS[name] * weighted[name] for name in WEIGHTS), np.zeros(len(states)))
    scores = (*multipliers, *weighted.values(), allowed * (total / sum(WEIGHTS.values())))
    return tuple(score[1:] for score in scores)


def _driving_direction(centres: Floats, oncoming: npt.NDArray[np.bool_]) -> Floats:
    """1, 0.5 from 2 m, 0 from 6 m driven within a second outside the route's lanes and intersections."""
    moved = np.zeros(oncoming.shape)
    moved[:, 1:] = np.hypot(*np.moveaxis(np.diff(centres, axis=1), -1, 0))
    moved[~oncoming] = 0
    longest = np.zeros(len(moved))
    for moment in range(MOMENTS):
        within = np.zeros(len(moved))
        for one in range(max(0, moment - ONCOMING_HORIZON), moment + 1):
            within += moved[:, one]
        longest = np.maximum(longest, within)
    return np.select([longest < ONCOMING_ALLOWED, longest < ONCOMING_VIOLATION], [1.0, 0.5], 0.0)


def _traffic_light(corners: Floats, lights: RedLights) -> Floats:
    """0 where the car ever touches a connector while its light is red, else 1."""
    cars = shapely.polygons(corners)
    passed = np.zeros(len(corners), np.bool_)
    for polygon, red in zip(lights.polygons, lights.red, strict=True):
        passed |= shapely.intersects(polygon, cars[:, red]).any(axis=1)
    return np.where(passed, 0.0, 1.0)


def _lane_keeping(centres: Floats, crossing: npt.NDArray[np.bool_], world: Prepared) -> Floats:
    """0 where the car is over 0.5 m beside the centreline for 2 s on end, intersections not counted, else 1."""
    beside = shapely.distance(world.centreline, shapely.points(centres)) > LANE_DEVIATION
    kept, count = np.ones(len(centres)), np.zeros(len(centres))
    for moment in range(MOMENTS):
        count = np.where(crossing[:, moment], count, np.where(beside[:, moment], count + 1, 0))
        kept[count >= LANE_HORIZON] = 0
    return kept
