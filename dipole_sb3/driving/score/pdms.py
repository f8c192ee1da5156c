"""NAVSIM's PDM score of plans (v1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import shapely

from dipole_sb3.driving.scene import ROAD_KINDS, TRACK_KINDS, Floats, Scores, Surroundings
from dipole_sb3.driving.score.collisions import Others, no_collision, time_to_collision
from dipole_sb3.driving.score.comfort import comfort
from dipole_sb3.driving.score.driving import MOMENTS, YAW, checked, drive, paths, start
from dipole_sb3.driving.score.places import Places, car_centres, car_corners

# NAVSIM's `PDMScorerConfig`.
PROGRESS_WEIGHT = 5.0
TIME_TO_COLLISION_WEIGHT = 5.0
COMFORT_WEIGHT = 2.0
SHORT_PROGRESS = 5.0

_TRACK_MOMENTS = 51


def score_plans(surroundings: Sequence[Surroundings], plans: Floats) -> Scores:
    """Scores of plans, each as if it were alone.

    :param surroundings: S scenes. What is worked out about one is kept as long as the object lives.
    :param plans: [S, g, 8, 3]; scene i has ``plans[i]``.
    :returns: float64 [S, g] each.
    :raises ValueError: another shape, a plan that is not finite, or surroundings that cannot be scored against.
    """
    plans = checked(plans, surroundings)
    worlds = [prepared(one) for one in surroundings]
    scenes, group = plans.shape[:2]
    if not plans.size:
        return Scores(*(np.ones((scenes, group)) for _ in fields(Scores)))

    starts = np.stack([start(one.ego) for one in surroundings]).repeat(group, axis=0)
    states = drive(starts, paths(starts[:, : YAW + 1], plans.reshape(-1, *plans.shape[2:])))
    comfortable = comfort(states).reshape(scenes, group)
    states = states.reshape(scenes, group, *states.shape[1:])
    parts = [one.parts(some) for one, some in zip(worlds, states, strict=True)]
    no_collisions, on_road, advance, in_time = (np.stack(part) for part in zip(*parts, strict=True))

    safe = no_collisions * on_road
    reference = np.array([one.reference_progress for one in worlds])[:, None]
    best = np.maximum(advance * safe, reference)
    far = best > SHORT_PROGRESS
    progress = np.where(far, advance * safe / np.where(far, best, 1), safe > 0)
    weighted = PROGRESS_WEIGHT * progress + TIME_TO_COLLISION_WEIGHT * in_time + COMFORT_WEIGHT * comfortable
    pdms = safe * (weighted / (PROGRESS_WEIGHT + TIME_TO_COLLISION_WEIGHT + COMFORT_WEIGHT))
    return Scores(no_collisions, on_road, progress, in_time, comfortable, pdms)


@dataclass
class Prepared:
    """A scene's geometry, and how far its reference plan gets (m, 0 where that plan fails)."""

    others: Others
    places: Places
    centreline: shapely.LineString
    reference_progress: float = 0.0

    def parts(self, states: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """No collision, drivable area, metres of progress and time to collision of driven plans [n, 41, 8]."""
        off_road = self.places.off_road(car_corners(states))
        return (
            no_collision(states, self.others, self.places, off_road),
            np.where(off_road.any(axis=1), 0.0, 1.0),
            self.advance(states),
            time_to_collision(states, self.others, self.places, off_road),
        )

    def advance(self, states: Floats) -> Floats:
        """Metres [n] that the car's middle gains along the route in driven plans [n, 41, 8], at least 0."""
        ends = shapely.points(car_centres(states[:, [0, -1]]))
        along: Floats = shapely.line_locate_point(self.centreline, ends)
        return np.maximum(along[:, 1] - along[:, 0], 0.0)


_cache: WeakKeyDictionary[Surroundings, Prepared] = WeakKeyDictionary()


def prepared(surroundings: Surroundings) -> Prepared:
    if surroundings not in _cache:
        check(surroundings)
        one = Prepared(
            Others(surroundings.tracks), Places(surroundings.roads), shapely.LineString(surroundings.roads.centreline)
        )
        followed = np.asarray(surroundings.reference, np.float64)[None, :MOMENTS]
        no_collisions, on_road, advance, _ = one.parts(drive(start(surroundings.ego)[None], followed))
        one.reference_progress = float((advance * no_collisions * on_road)[0])
        _cache[surroundings] = one
    return _cache[surroundings]


def check(surroundings: Surroundings) -> None:
    """Refuses surroundings that no plan can be scored against.

    :raises ValueError: in one sentence, what is wrong.
    """
    ego, tracks, roads = surroundings.ego, surroundings.tracks, surroundings.roads
    reference = surroundings.reference
    count, regions = len(tracks.kinds), len(roads.kinds)
    _shaped("ego.pose", ego.pose, (3,))
    _shaped("ego.velocity", ego.velocity, (2,))
    _shaped("ego.acceleration", ego.acceleration, (2,))
    _shaped("ego.steering_angle", ego.steering_angle, ())
    _shaped("tracks.poses", tracks.poses, (count, _TRACK_MOMENTS, 3), finite=False)
    _shaped("tracks.velocities", tracks.velocities, (count, _TRACK_MOMENTS, 2), finite=False)
    _shaped("tracks.sizes", tracks.sizes, (count, 2))
    if (np.isfinite(tracks.poses).all(axis=-1) & ~np.isfinite(tracks.velocities).all(axis=-1)).any():
        raise ValueError("tracks.velocities of the surroundings must be finite where tracks.poses are")
    _shaped("roads.polygons", roads.polygons, (regions,), finite=False)
    _shaped("roads.on_route", roads.on_route, (regions,))
    _shaped("roads.centreline", roads.centreline, (max(2, len(roads.centreline)), 2))
    _shaped("reference", reference, (max(MOMENTS, len(reference)), 3))
    for name, kinds, known in (("tracks", tracks.kinds, TRACK_KINDS), ("roads", roads.kinds, ROAD_KINDS)):
        if unknown := sorted(set(kinds) - set(known)):
            raise ValueError(f"{name}.kinds of the surroundings: expected {known}, found {unknown[0]!r}")


def _shaped(name: str, value: npt.ArrayLike, shape: tuple[int, ...], finite: bool = True) -> None:
    if np.shape(value) != shape:
        raise ValueError(f"{name} of the surroundings must have the shape {list(shape)}, not {list(np.shape(value))}")
    if finite and not np.isfinite(value).all():
        raise ValueError(f"{name} of the surroundings has numbers that are not finite")
