"""Traffic of highway-env around a car that follows its route, recorded every 0.1 s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from highway_env.road.regulation import RegulatedRoad
from highway_env.road.road import Road, RoadNetwork
from highway_env.vehicle.behavior import IDMVehicle
from highway_env.vehicle.kinematics import Vehicle
from highway_env.vehicle.objects import Obstacle

from dipole_sb3.driving.scene import Floats
from dipole_sb3.driving.scenes.networks import (
    MIRROR,
    Route,
    Surface,
    is_connector,
    lane_name,
    lanes_around,
    network,
    plan_route,
    surface,
)
from dipole_sb3.driving.scenes.paths import Path

REAR_AXLE_TO_CENTRE = 1.461
"""Metres from the rear axle to the middle of nuPlan's car, 5.176 × 2.297 m."""
EGO_SIZE = (5.176, 2.297)
STEP = 0.1
WARM_UP, HISTORY, FUTURE = 10, 15, 50
"""Steps before the record, of its past, and of its future; now is step 15 of the record."""
NOW = HISTORY
_NEAR = 90.0
"""Metres within which others are recorded."""
_ATTEMPTS = 12


@dataclass(frozen=True)
class World:
    """One recorded scene, right-handed: y to the left of x. T = 66 moments, from 1.5 s ago to 5 s from now.

    :ivar kind: of :data:`~dipole_sb3.driving.scenes.writing.KINDS`.
    :ivar path: the route of the rear axle.
    :ivar speed_limit: m/s.
    :ivar progress: [T], metres along the path.
    :ivar speeds: [T], m/s.
    :ivar names: [K], each object's name, unique.
    :ivar types: [K], names of OpenScene's annotations: vehicle, pedestrian, traffic_cone, barrier.
    :ivar poses: [K, T, 3], of the boxes' middles.
    :ivar sizes: [K, 3], length, width and height.
    :ivar velocities: [K, T, 2].
    :ivar surface: the ground.
    :ivar route: names of the route's lanes.
    """

    kind: str
    path: Path
    speed_limit: float
    progress: Floats
    speeds: Floats
    names: tuple[str, ...]
    types: tuple[str, ...]
    poses: Floats
    sizes: Floats
    velocities: Floats
    surface: Surface
    route: tuple[str, ...]


class _Traffic(IDMVehicle):  # type: ignore[misc]
    """highway-env's driver; its environments change the parameters of IDMVehicle for the whole process."""

    ACC_MAX = 5.0
    COMFORT_ACC_MAX = 2.5
    COMFORT_ACC_MIN = -4.0
    DISTANCE_WANTED = 7.0
    speed: float
    lane_index: Any
    MAX_STEERING_ANGLE = 0.55  # not 1.05: a car that begins to change lanes would jump aside

    def step(self, dt: float) -> None:
        super().step(dt)
        self.speed = max(self.speed, 0.0)  # nobody reverses

    def on_state_update(self) -> None:
        """The nearest lane, among those that can be reached from the last one; searching all lanes takes long."""
        lanes = [
            (index, self.road.network.get_lane(index)) for index in lanes_around(self.road.network, self.lane_index)
        ]
        far = [lane.distance_with_heading(self.position, self.heading) for _, lane in lanes]
        self.lane_index, self.lane = lanes[int(np.argmin(far))]


class _Ego(_Traffic):
    """The own car: its rear axle stays on the path; IDM behind others, slow in bends."""

    LENGTH, WIDTH = EGO_SIZE

    def __init__(self, road: Road, route: Route, progress: float, speed: float) -> None:
        self._path = route.path
        self._allowed = route.path.speeds(route.speed_limit, lateral_acceleration=2.0, braking=1.5)
        self.progress = progress
        x, y, heading = self._at(progress)
        super().__init__(road, (x, y), heading, speed, target_speed=route.speed_limit, enable_lane_change=False)
        self.speed = min(speed, self._allowed_at(progress))
        self._lanes: dict[int, Any] = {}

    def _at(self, progress: float) -> Floats:
        pose = self._path.poses(np.asarray(progress))
        pose[:2] += REAR_AXLE_TO_CENTRE * np.array([np.cos(pose[2]), np.sin(pose[2])])
        return pose

    def _allowed_at(self, progress: float) -> float:
        return float(np.interp(progress, self._path.lengths, self._allowed))

    def act(self, action: Any = None) -> None:
        self.target_lane_index = self._lane_at(self.progress + max(8.0, 1.5 * self.speed))
        accelerations = [(self._allowed_at(self.progress + 0.5 * self.speed) - self.speed) / 0.8]
        for lane in dict.fromkeys((self._lane_at(self.progress), self.target_lane_index)):
            front, _ = self.road.neighbour_vehicles(self, lane)
            accelerations.append(self.acceleration(ego_vehicle=self, front_vehicle=front))
        self.action = {"steering": 0.0, "acceleration": float(np.clip(min(accelerations), -3.5, 1.8))}

    def step(self, dt: float) -> None:
        self.progress += self.speed * dt
        self.speed = max(0.0, self.speed + self.action["acceleration"] * dt)
        x, y, self.heading = self._at(self.progress)
        self.position = np.array([x, y])
        self.impact = None
        self.lane_index = self._lane_at(self.progress)
        self.lane = self.road.network.get_lane(self.lane_index)

    def _lane_at(self, progress: float) -> Any:
        """The lane at a place of the path, to a metre; searching all lanes takes long."""
        metre = round(progress)
        if metre not in self._lanes:
            x, y, heading = self._at(float(metre))
            self._lanes[metre] = self.road.network.get_closest_lane_index(np.array([x, y]), heading)
        return self._lanes[metre]

    def predict_trajectory_constant_speed(self, times: Floats) -> tuple[list[Floats], list[float]]:
        poses = [self._at(self.progress + self.speed * time) for time in times]
        return [pose[:2] for pose in poses], [float(pose[2]) for pose in poses]


class _Pedestrian(Obstacle):  # type: ignore[misc]
    """Someone who crosses the road at a constant speed."""

    LENGTH, WIDTH = 0.8, 0.8

    def walk(self, dt: float) -> None:
        self.position += self.velocity * dt


def make_world(kind: str, seed: np.random.SeedSequence) -> World:
    """Records one scene; worlds in which somebody crashes by himself are drawn anew.

    :param kind: of :data:`~dipole_sb3.driving.scenes.writing.KINDS`.
    """
    for attempt in seed.spawn(_ATTEMPTS):
        random = np.random.default_rng(attempt)
        count = int(random.integers(*_LANES[kind]))
        roads = network(kind, count)
        route = plan_route(kind, roads, random)
        road, ego = _populated(kind, roads, route, random)
        record = _simulated(road, ego)
        if not any(one.crashed for one in (*road.vehicles, *road.objects)):
            break
    return _world(kind, surface(kind, count), route, road, record, random)


_LANES = {"highway": (2, 5), "merge": (2, 4), "intersection": (1, 2), "roundabout": (1, 3)}
"""Lanes to draw from, the last excluded."""
_CARS = {"highway": (6, 14), "merge": (6, 12), "intersection": (4, 11), "roundabout": (3, 8)}


def _populated(kind: str, roads: RoadNetwork, route: Route, random: np.random.Generator) -> tuple[Road, _Ego]:
    regulated = kind in ("intersection", "roundabout")
    road = (RegulatedRoad if regulated else Road)(
        network=roads,
        np_random=random,
        neighbour_vehicles_connected_lanes=True,
    )
    before = route.speed_limit * (WARM_UP + HISTORY) * STEP
    speed = route.speed_limit * random.uniform(0.6, 1.0)
    ego = _Ego(road, route, max(2.0, route.start - before), speed)
    road.vehicles.append(ego)
    if kind == "merge":
        end = roads.graph["b"]["c"][-1]
        road.objects.append(Obstacle(road, end.position(end.length, 0), heading=end.heading_at(end.length)))
    if random.random() < 0.6:
        _add_leader(road, ego, route, random)
    for _ in range(int(random.integers(*_CARS[kind]))):
        _add_car(kind, road, ego, route, random)
    if regulated and random.random() < 0.35:
        _add_pedestrian(road, route, random)
    return road, ego


def _add_car(kind: str, road: Road, ego: _Ego, route: Route, random: np.random.Generator) -> None:
    """One more car, if there is room where it is to be."""
    roads = road.network
    choices = sorted(index for index in roads.lanes_dict() if _begins_here(kind, index))
    index = choices[int(random.integers(len(choices)))]
    lane = roads.get_lane(index)
    if kind == "highway":
        along = lane.local_coordinates(ego.position)[0] + random.uniform(-35.0, 85.0)
    else:
        along = random.uniform(0.0, lane.length)
    limit = route.speed_limit
    speed = limit * random.uniform(0.45, 0.95)
    car = _Traffic.make_on_lane(road, index, along, speed)
    truck = kind in ("highway", "merge") and random.random() < 0.15
    car.LENGTH = random.uniform(7.0, 9.0) if truck else random.uniform(4.2, 5.0)
    car.WIDTH = 2.4 if truck else random.uniform(1.8, 2.0)
    car.diagonal = float(np.hypot(car.LENGTH, car.WIDTH))
    car.target_speed = limit * random.uniform(0.5, 1.0)
    if any(np.hypot(*(other.position - car.position)) < 14.0 for other in road.vehicles):
        return
    goals = {
        "intersection": [f"o{leg}" for leg in range(4) if leg != int(index[0][-1])] if kind == "intersection" else [],
        "roundabout": ["exr", "nxr", "wxr", "sxr"],
    }.get(kind)
    if goals:
        car.plan_route_to(goals[int(random.integers(len(goals)))])
        # highway-env loses count where a route does not say which lane and the roads have unequal numbers of them.
        car.route = [(start, end, min(index[2], len(roads.graph[start][end]) - 1)) for start, end, _ in car.route]
    car.randomize_behavior()
    road.vehicles.append(car)


def _add_leader(road: Road, ego: _Ego, route: Route, random: np.random.Generator) -> None:
    """A slow car ahead on the same lane."""
    place = route.path.poses(np.asarray(ego.progress + random.uniform(14.0, 35.0)))
    speed = ego.speed * random.uniform(0.6, 1.0)
    car = _Traffic(road, place[:2], place[2], speed, target_speed=route.speed_limit * random.uniform(0.3, 0.8))
    car.plan_route_to(route.lanes[-1][1])
    car.route = [index for index in route.lanes if index in car.route or index == car.lane_index] or [car.lane_index]
    road.vehicles.append(car)


def _begins_here(kind: str, index: tuple[str, str, int]) -> bool:
    if kind == "intersection":
        return index[0].startswith("o")
    if kind == "roundabout":
        return is_connector(kind, index) or (len(index[0]) == 3 and index[0].endswith("er"))
    return index[:2] not in (("b", "c"), ("c", "d")) or index[2] < 2


def _add_pedestrian(road: Road, route: Route, random: np.random.Generator) -> None:
    """Someone crossing the route 12 to 40 m ahead of where the car is now, at about that moment."""
    x, y, heading = route.path.poses(np.asarray(route.start + random.uniform(12.0, 40.0)))
    side = random.choice([-1.0, 1.0])
    across = heading + side * np.pi / 2
    speed = random.uniform(0.9, 1.6)
    delay = WARM_UP * STEP + HISTORY * STEP + random.uniform(0.0, 4.0)
    away = np.array([np.cos(across), np.sin(across)])
    road.objects.append(_Pedestrian(road, np.array([x, y]) - away * speed * delay, across, speed))


def _simulated(road: Road, ego: _Ego) -> list[dict[int, tuple[float, ...]]]:
    """(x, y, heading) of everybody at each recorded moment; of the own car, number 0, progress and speed."""
    record = []
    for step in range(WARM_UP + HISTORY + FUTURE + 1):
        if step >= WARM_UP:
            moment: dict[int, tuple[float, ...]] = {0: (ego.progress, ego.speed)}
            for number, one in enumerate((*road.vehicles[1:], *road.objects), start=1):
                moment[number] = (*one.position, one.heading)
            record.append(moment)
        road.act()
        road.step(STEP)
        for one in road.objects:
            if isinstance(one, _Pedestrian):
                one.walk(STEP)
    return record


def _world(
    kind: str,
    ground: Surface,
    route: Route,
    road: Road,
    record: list[dict[int, tuple[float, ...]]],
    random: np.random.Generator,
) -> World:
    path = Path(route.path.points * MIRROR)
    progress, speeds = np.array([moment[0] for moment in record]).T
    others = [*road.vehicles[1:], *road.objects]
    listed = [[moment[number] for moment in record] for number in range(1, len(others) + 1)]
    states = np.array(listed).reshape(-1, len(record), 3)
    poses = states * [1.0, -1.0, -1.0]
    # Not highway-env's velocity, which knows no slip: cars that change lanes would move aside without one.
    velocities = np.diff(poses[..., :2], axis=1, append=2 * poses[:, -1:, :2] - poses[:, -2:-1, :2]) / STEP
    types = [_type_of(one) for one in others]
    sizes = [(one.LENGTH, one.WIDTH, _HEIGHTS[name]) for one, name in zip(others, types, strict=True)]
    cones = _cones(kind, road.network, path, float(progress[NOW]), random)
    poses = np.concatenate([poses.reshape(-1, len(record), 3), np.repeat(cones[:, None], len(record), axis=1)])
    velocities = np.concatenate([velocities.reshape(-1, len(record), 2), np.zeros((len(cones), len(record), 2))])
    types += ["traffic_cone"] * len(cones)
    sizes += [(0.5, 0.5, 0.9)] * len(cones)
    origin = path.poses(progress)[None, :, :2]
    near = (np.hypot(*np.moveaxis(poses[..., :2] - origin, -1, 0)) < _NEAR).any(axis=1)
    kept = np.flatnonzero(near)
    return World(
        kind=kind,
        path=path,
        speed_limit=route.speed_limit,
        progress=progress,
        speeds=speeds,
        names=tuple(f"{types[row]}-{row:02d}" for row in kept),
        types=tuple(types[row] for row in kept),
        poses=poses[kept],
        sizes=np.array(sizes, np.float64).reshape(-1, 3)[kept],
        velocities=velocities[kept],
        surface=ground,
        route=tuple(lane_name(index) for index in route.lanes),
    )


_HEIGHTS = {"vehicle": 1.6, "pedestrian": 1.75, "barrier": 1.0}


def _type_of(one: Any) -> str:
    if isinstance(one, Vehicle):
        return "vehicle"
    return "pedestrian" if isinstance(one, _Pedestrian) else "barrier"


def _cones(kind: str, roads: RoadNetwork, path: Path, now: float, random: np.random.Generator) -> Floats:
    """Poses [n, 3] of cones along one edge of a fast road, some metres ahead; often none."""
    if kind not in ("highway", "merge") or random.random() > 0.4:
        return np.zeros((0, 3))
    name = ("0", "1") if kind == "highway" else ("a", "b")
    count = len(roads.graph[name[0]][name[1]])
    outer = int(random.integers(2)) * (count - 1)
    lane = roads.get_lane((*name, outer))
    ahead = path.poses(np.asarray(now + random.uniform(15.0, 45.0)))[:2] * MIRROR
    first = lane.local_coordinates(ahead)[0]
    beside = 1.85 if outer else -1.85
    places = np.array([lane.position(first + 6.0 * number, beside) for number in range(int(random.integers(3, 7)))])
    return np.concatenate([places * MIRROR, np.zeros((len(places), 1))], axis=1)
