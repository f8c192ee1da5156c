"""Makes one scene: a world of highway-env, a demonstration, what it is scored against, and its images."""

from __future__ import annotations

import hashlib
from pathlib import Path as FilePath

import numpy as np
import shapely

from dipole_sb3.driving.scene import COMMANDS, Ego, Floats, Roads, Surroundings, Tracks
from dipole_sb3.driving.scenes.demonstrations import Demonstration, demonstrate
from dipole_sb3.driving.scenes.logs import to_ego_frame
from dipole_sb3.driving.scenes.paths import Path
from dipole_sb3.driving.scenes.reference import with_reference
from dipole_sb3.driving.scenes.rendering import View, render
from dipole_sb3.driving.scenes.worlds import NOW, World, make_world
from dipole_sb3.driving.scenes.writing import Recording, kind_of, log_name, write_recording

_EPOCH = 1_600_000_000_000_000
"""µs; the time of the first log."""
_TURN = 2.0
"""Metres to the side, where the route leads, from which the command is left or right."""


def make_scene(folder: FilePath, split: str, index: int, seed: np.random.SeedSequence) -> None:
    """Writes one scene.

    :raises OSError: a file cannot be written.
    """
    write_recording(record_scene(split, index, seed), folder, split)


def record_scene(split: str, index: int, seed: np.random.SeedSequence) -> Recording:
    """One scene, not yet written.

    :param seed: the scene's own; the same gives the same scene.
    """
    log = log_name(split, index)
    worldly, personal = seed.spawn(2)
    random = np.random.default_rng(personal)
    world = make_world(kind_of(index), worldly)
    demonstration = demonstrate(world, random)
    place = _Placement(random.uniform(-np.pi, np.pi), random.uniform(-2000.0, 2000.0, 2))
    velocities = np.stack([demonstration.speeds, np.zeros_like(demonstration.speeds)], axis=1)
    path = Path(place.points(world.path.points))
    ego = place.poses(demonstration.poses)
    names, roads = _roads(world, place, path, float(world.progress[NOW]))
    surroundings = Surroundings(
        Ego(ego[NOW], velocities[NOW], demonstration.accelerations[NOW]), _tracks(world, place), roads, np.zeros((0, 3))
    )
    token = hashlib.sha256(f"{split} {index} {worldly.entropy} {worldly.spawn_key}".encode()).hexdigest()[:16]
    return Recording(
        token=token,
        log=log,
        kind=world.kind,
        start=_EPOCH + index * 100_000_000,
        ego=ego,
        velocities=velocities,
        accelerations=demonstration.accelerations,
        command=_command(world, demonstration),
        names=world.names,
        types=world.types,
        poses=place.poses(world.poses),
        sizes=world.sizes,
        object_velocities=place.vectors(world.velocities),
        surroundings=with_reference(surroundings, path, world.speed_limit),
        lane_names=names,
        images=render(_view(world, demonstration, roads, place)),
    )


class _Placement:
    """A rigid motion from the world's frame into the map frame.

    :param turn: rad.
    :param shift: [2], metres.
    """

    def __init__(self, turn: float, shift: Floats) -> None:
        self._turn, self._shift = turn, shift
        cosine, sine = np.cos(turn), np.sin(turn)
        self._rotation = np.array([[cosine, sine], [-sine, cosine]])

    def vectors(self, vectors: Floats) -> Floats:
        return np.asarray(vectors @ self._rotation)

    def points(self, points: Floats) -> Floats:
        return np.asarray(points @ self._rotation + self._shift)

    def poses(self, poses: Floats) -> Floats:
        heading = poses[..., 2:] + self._turn
        return np.concatenate([self.points(poses[..., :2]), np.arctan2(np.sin(heading), np.cos(heading))], axis=-1)


def _tracks(world: World, place: _Placement) -> Tracks:
    """From now on. As in a metric cache, an object has one velocity, that of now."""
    kinds = {"vehicle": "vehicle", "pedestrian": "pedestrian"}
    poses = place.poses(world.poses[:, NOW:])
    velocities = np.repeat(place.vectors(world.velocities[:, NOW : NOW + 1]), poses.shape[1], axis=1)
    return Tracks(
        tuple(kinds.get(name, "static") for name in world.types), poses, world.sizes[:, :2].copy(), velocities
    )


_CLOSING = 1.0
"""Metres: half of the widest gap between lanes of a junction that counts as road."""
_SHOULDER = 0.25
"""Metres of road beside its outer lanes. Neighbouring polygons overlap by it: their common edge would be no road."""
_APRON = 0.8
"""As much in roundabouts, where long cars need it."""


def _roads(world: World, place: _Placement, path: Path, now: float) -> tuple[tuple[str, ...], Roads]:
    """Names of the polygons, and the map in NAVSIM's order: road blocks, lanes, connectors, intersections."""
    roads: dict[str, list[shapely.Polygon]] = {}
    for name, lane in world.surface.lanes.items():
        if name not in world.surface.connectors:
            roads.setdefault(name.rpartition("-")[0], []).append(lane)
    blocks = {name: shapely.union_all(strips).buffer(_SHOULDER, join_style="mitre") for name, strips in roads.items()}
    lanes = {name: lane for name, lane in world.surface.lanes.items() if name not in world.surface.connectors}
    connectors = {name: lane for name, lane in world.surface.lanes.items() if name in world.surface.connectors}
    junctions = _junctions(world)
    listed = [*(("roadblock", *one) for one in blocks.items()), *(("lane", *one) for one in lanes.items())]
    listed += [
        *(("connector", *one) for one in connectors.items()),
        *(("intersection", *one) for one in junctions.items()),
    ]
    polygons = np.empty(len(listed), np.object_)
    polygons[:] = [polygon for _, _, polygon in listed]
    polygons = shapely.transform(polygons, place.points)
    on_route = [kind in ("lane", "connector") and name in world.route for kind, name, _ in listed]
    seen = (path.lengths > now - 20.0) & (path.lengths < now + 150.0)
    kinds = tuple(kind for kind, _, _ in listed)
    return tuple(name for _, name, _ in listed), Roads(kinds, polygons, np.array(on_route), path.points[seen][::2])


def _junctions(world: World) -> dict[str, shapely.Polygon]:
    strips = [lane for name, lane in world.surface.lanes.items() if name in world.surface.connectors]
    if world.kind == "roundabout":  # between the ring and its arms, cars cut the corner
        arms = {f"{side}es-{side}e-0" for side in "senw"} | {f"{side}x-{side}xs-0" for side in "senw"}
        strips += [lane for name, lane in world.surface.lanes.items() if name in arms]
    if not strips:
        return {}
    beside = _APRON if world.kind == "roundabout" else _SHOULDER
    wide = shapely.union_all(strips).buffer(_CLOSING, join_style="mitre")
    closed = wide.buffer(beside - _CLOSING, join_style="mitre")
    return {f"junction-{number}": part for number, part in enumerate(shapely.get_parts(closed))}


def _command(world: World, demonstration: Demonstration) -> int:
    """Where the route leads within four seconds at the allowed speed."""
    reach = np.asarray(world.progress[NOW] + np.clip(4.0 * world.speed_limit, 25.0, 60.0))
    aside = to_ego_frame(world.path.poses(reach), demonstration.poses[NOW])[1]
    return COMMANDS.index("left" if aside > _TURN else "right" if aside < -_TURN else "straight")


def _view(world: World, demonstration: Demonstration, roads: Roads, place: _Placement) -> View:
    here = demonstration.poses[NOW]
    there = place.poses(here)

    def local(points: Floats, origin: Floats) -> Floats:
        return to_ego_frame(np.concatenate([points, np.zeros((len(points), 1))], axis=1), origin)[:, :2]

    kinds = np.array(roads.kinds)
    drivable = roads.polygons[(kinds == "roadblock") | (kinds == "intersection")]
    return View(
        roads=[shapely.transform(polygon, lambda points: local(points, there)) for polygon in drivable],
        lines=[local(line, here) for line in world.surface.lines],
        boxes=to_ego_frame(world.poses[:, NOW], here),
        sizes=world.sizes,
        types=world.types,
    )
