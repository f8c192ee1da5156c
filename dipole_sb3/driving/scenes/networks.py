"""Roads and routes from highway-env: its lanes, and what is made of them.

highway-env's y axis points down. Here it stays so; :mod:`~dipole_sb3.driving.scenes.worlds` mirrors what it records.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import shapely
from highway_env.envs.intersection_env import IntersectionEnv
from highway_env.envs.merge_env import MergeGenericEnv
from highway_env.envs.roundabout_env import RoundaboutGenericEnv
from highway_env.road.lane import AbstractLane, LineType, StraightLane
from highway_env.road.road import LaneIndex, RoadNetwork

from dipole_sb3.driving.scene import Floats
from dipole_sb3.driving.scenes.paths import Path, eased, smooth_path

_LANE_CHANGE = 45.0
"""Metres that changing to the next lane takes on fast roads."""


@dataclass(frozen=True)
class Route:
    """Where the own car is to go.

    :ivar path: of its rear axle.
    :ivar start: metres along the path at which it is now.
    :ivar speed_limit: m/s.
    :ivar lanes: lanes of the route.
    """

    path: Path
    start: float
    speed_limit: float
    lanes: tuple[LaneIndex, ...]


@lru_cache(maxsize=32)
def network(kind: str, lanes: int) -> RoadNetwork:
    """Roads of one kind.

    :param kind: of :data:`~dipole_sb3.driving.scenes.writing.KINDS`.
    :param lanes: lanes of the road, of the highway's direction, or of the ring; intersections have one.
    """
    if kind == "highway":
        return RoadNetwork.straight_road_network(lanes, length=600.0, speed_limit=18.0)
    if kind == "merge":
        made = MergeGenericEnv({"lanes_count": lanes, "before_merge_length": 100, "converge_merge_length": 60})
    elif kind == "intersection":
        made = IntersectionEnv()
    else:
        made = RoundaboutGenericEnv({"roundabout_lanes": lanes})
    roads: RoadNetwork = made.road.network
    for index, lane in roads.lanes_dict().items():
        lane.speed_limit = 15.0 if kind == "merge" else 9.0
        lane.priority = int(is_ring(index)) if kind == "roundabout" else getattr(lane, "priority", 0)
    return roads


@lru_cache(maxsize=2048)
def lanes_around(roads: RoadNetwork, index: LaneIndex) -> tuple[LaneIndex, ...]:
    """A lane, those of its road, and those that begin where its road ends."""
    start, end, _ = index
    following = [
        (end, after, number) for after, lanes in roads.graph.get(end, {}).items() for number in range(len(lanes))
    ]
    return (*((start, end, number) for number in range(len(roads.graph[start][end]))), *following)


def is_ring(index: LaneIndex) -> bool:
    """Whether a lane of a roundabout is part of its ring."""
    return bool(len(index[0]) == 2 and len(index[1]) == 2)


def is_connector(kind: str, index: LaneIndex) -> bool:
    """Whether a lane lies in a junction."""
    if kind == "intersection":
        return bool(index[0].startswith("ir"))
    return kind == "roundabout" and is_ring(index)


def lane_points(lane: AbstractLane, lateral: float = 0.0, step: float = 1.0) -> Floats:
    """Points [n, 2] along a lane, or beside its middle; ends included, straight lanes have no more."""
    count = 2 if type(lane) is StraightLane else max(int(lane.length / step), 4)
    return np.array([lane.position(along, lateral) for along in np.linspace(0.0, lane.length, count)])


@dataclass(frozen=True)
class Surface:
    """What lies on the ground, right-handed: y to the left of x.

    :ivar lanes: polygon of each lane, by its name.
    :ivar connectors: names of the lanes that lie in a junction.
    :ivar lines: [n, 2] points of each painted line; edges of the road stop where another lane crosses.
    """

    lanes: dict[str, shapely.Polygon]
    connectors: frozenset[str]
    lines: tuple[Floats, ...]


MIRROR = np.array([1.0, -1.0])
"""From highway-env's axes to right-handed ones, and back."""
_EDGES = (LineType.CONTINUOUS, LineType.CONTINUOUS_LINE)


def lane_name(index: LaneIndex) -> str:
    """A lane's name in a scene's map."""
    return f"{index[0]}-{index[1]}-{index[2]}"


@lru_cache(maxsize=32)
def surface(kind: str, lanes: int) -> Surface:
    """The ground of :func:`network`."""
    found = network(kind, lanes).lanes_dict()
    strips = {lane_name(index): _strip(lane) for index, lane in found.items()}
    lines: list[Floats] = []
    for index, lane in found.items():
        others = shapely.union_all([strip for name, strip in strips.items() if name != lane_name(index)])
        inside = others.buffer(-0.3)
        for side, line in zip((-1, 1), lane.line_types, strict=True):
            painted = shapely.LineString(lane_points(lane, side * lane.width / 2) * MIRROR)
            if line in _EDGES:
                painted = painted.difference(inside)
            if line:
                lines += [np.asarray(part.coords) for part in shapely.get_parts(painted) if part.length > 0]
    connectors = frozenset(lane_name(index) for index in found if is_connector(kind, index))
    return Surface(strips, connectors, tuple(lines))


def _strip(lane: AbstractLane) -> shapely.Polygon:
    left, right = (lane_points(lane, side * lane.width / 2) * MIRROR for side in (-1, 1))
    return shapely.Polygon(np.concatenate([right, left[::-1]]))


def plan_route(kind: str, roads: RoadNetwork, random: np.random.Generator) -> Route:
    """A route that is drawn at random, with a place on it."""
    if kind == "highway":
        return _highway_route(roads, random)
    if kind == "merge":
        return _merge_route(roads, random)
    if kind == "intersection":
        leg = int(random.integers(4))
        leave = (leg + int(random.integers(1, 4))) % 4
        lanes = [(f"o{leg}", f"ir{leg}", 0), (f"ir{leg}", f"il{leave}", 0), (f"il{leave}", f"o{leave}", 0)]
        # The junction is 22 m wide and begins after 100 m.
        return _along(roads, lanes, random.uniform(62.0, 112.0), 9.0)
    return _roundabout_route(roads, random)


def _along(roads: RoadNetwork, lanes: list[LaneIndex], start: float, limit: float, rounding: float = 2.0) -> Route:
    points = np.concatenate([lane_points(roads.get_lane(index), step=0.5) for index in lanes])
    return Route(smooth_path(points, rounding), start, limit, tuple(lanes))


def _highway_route(roads: RoadNetwork, random: np.random.Generator) -> Route:
    count = len(roads.graph["0"]["1"])
    lane = int(random.integers(count))
    other = int(np.clip(lane + random.choice([-1, 0, 0, 1]), 0, count - 1))
    start = 100.0
    change = start + random.uniform(-5.0, 15.0)
    along = np.arange(0.0, 400.0, 1.0)
    sideways = (other - lane) * StraightLane.DEFAULT_WIDTH * eased((along - change) / _LANE_CHANGE)
    middle = roads.get_lane(("0", "1", lane))
    points = np.array([middle.position(at, beside) for at, beside in zip(along, sideways, strict=True)])
    return Route(smooth_path(points), start, 18.0, tuple(dict.fromkeys((("0", "1", lane), ("0", "1", other)))))


def _merge_route(roads: RoadNetwork, random: np.random.Generator) -> Route:
    count = len(roads.graph["a"]["b"])
    if random.random() < 0.5:
        lane = int(random.integers(count))
        return _along(roads, [("a", "b", lane), ("b", "c", lane), ("c", "d", lane)], random.uniform(50.0, 190.0), 15.0)
    parallel = roads.get_lane(("b", "c", count))
    along = np.arange(0.0, parallel.length, 1.0)
    sideways = -StraightLane.DEFAULT_WIDTH * eased((along - 15.0) / _LANE_CHANGE)
    joining = np.array([parallel.position(at, beside) for at, beside in zip(along, sideways, strict=True)])
    lanes = [("j", "k", 0), ("k", "b", 0), ("b", "c", count), ("b", "c", count - 1), ("c", "d", count - 1)]
    ramp = [lane_points(roads.get_lane(index), step=0.5) for index in lanes[:2]]
    points = np.concatenate([*ramp, joining, lane_points(roads.get_lane(lanes[-1]))])
    return Route(smooth_path(points), random.uniform(70.0, 180.0), 15.0, tuple(lanes))


_RING = ("se", "ex", "ee", "nx", "ne", "wx", "we", "sx")


def _roundabout_route(roads: RoadNetwork, random: np.random.Generator) -> Route:
    outer = len(roads.graph["se"]["ex"]) - 1
    exits = int(random.integers(3))  # of the east, north and west
    lanes: list[LaneIndex] = [("ser", "ses", 0), ("ses", "se", 0)]
    nodes = _RING[: 2 + 2 * exits]
    lanes += [(first, second, outer) for first, second in pairwise(nodes)]
    leaving = nodes[-1]
    lanes += [(leaving, f"{leaving}s", 0), (f"{leaving}s", f"{leaving[0]}xr", 0)]
    ring = sum(roads.get_lane(index).length for index in lanes[2:-2])
    entry = sum(roads.get_lane(index).length for index in lanes[:2])
    return _along(roads, lanes, random.uniform(entry - 35.0, entry + ring), 9.0, rounding=3.5)
