"""NAVSIM's metric caches: what a plan is scored against, ``metric_cache/<log>/<kind>/<token>/metric_cache.pkl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scene import Ego, Floats, Roads, Surroundings, Tracks
from dipole_sb3.driving.scenes.records import (
    Record,
    array_of,
    bytes_of,
    describe,
    enum_value,
    is_record,
    read_pickle,
    record_of,
)

STEPS = 51
"""Moments of a cache, every 0.1 s from now to 5.0 s."""
STEP_MICROSECONDS = 100_000
OBJECT_TYPES = {
    "VEHICLE": 0,
    "PEDESTRIAN": 1,
    "BICYCLE": 2,
    "TRAFFIC_CONE": 3,
    "BARRIER": 4,
    "CZONE_SIGN": 5,
    "GENERIC_OBJECT": 6,
    "EGO": 7,
}
"""nuPlan's ``TrackedObjectType``."""
MAP_LAYERS = {
    "LANE": 0,
    "INTERSECTION": 1,
    "DRIVABLE_AREA": 5,
    "LANE_CONNECTOR": 11,
    "CARPARK_AREA": 15,
    "ROADBLOCK": 17,
}
"""Those of nuPlan's ``SemanticMapLayer`` that a cache's map holds."""
_KIND_OF_OBJECT = ("vehicle", "pedestrian", "bicycle", "static", "static", "static", "static", "vehicle")
KIND_OF_LAYER = {0: "lane", 1: "intersection", 5: "drivable", 11: "connector", 15: "carpark", 17: "roadblock"}


def find_metric_caches(folder: Path) -> dict[str, Path]:
    """Files of all caches below a folder, by the token of their scene."""
    return {path.parent.name: path for path in sorted(folder.glob("*/*/*/metric_cache.pkl"))}


def read_metric_cache(path: Path) -> Surroundings:
    """One scene's surroundings.

    :raises DatasetError: one sentence; see :func:`~dipole_sb3.driving.scenes.records.read_pickle`.
    """
    content = read_pickle(path, compressed=True)
    try:
        cache = record_of(content, "MetricCache")
        return Surroundings(
            ego=_ego(record_of(cache["ego_state"], "EgoState")),
            tracks=_tracks(record_of(cache["observation"], "PDMObservation")),
            roads=_roads(
                record_of(cache["drivable_area_map"], "PDMDrivableMap"),
                record_of(cache["centerline"], "PDMPath"),
                _list(cache["route_lane_ids"]),
            ),
            reference=_reference(record_of(cache["trajectory"], "InterpolatedTrajectory")),
        )
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}; expected a metric cache of NAVSIM v1.1") from None
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, shapely.errors.ShapelyError) as error:
        raise DatasetError(f"{path}: is no metric cache of NAVSIM v1.1 ({type(error).__name__}: {error})") from error


def _ego(state: Record) -> Ego:
    motion = record_of(state["_dynamic_car_state"], "DynamicCarState")
    return Ego(
        pose=_rear_axle(state),
        velocity=_finite("velocity", _vector(motion["_rear_axle_velocity_2d"])),
        acceleration=_finite("acceleration", _vector(motion["_rear_axle_acceleration_2d"])),
        steering_angle=float(_finite("steering angle", array_of(state["_tire_steering_angle"]))),
    )


def _rear_axle(state: Record) -> Floats:
    """Pose of the rear axle; nuPlan stores that of the box's centre."""
    box = record_of(state["_car_footprint"], "CarFootprint")
    _, front, rear = _arguments(record_of(box["_vehicle_parameters"], "VehicleParameters"), 8)[:3]
    pose = _pose(box["_center"])
    behind = float(array_of(front) - array_of(rear)) / 2
    pose[:2] -= behind * np.array([np.cos(pose[2]), np.sin(pose[2])])
    return _finite("ego pose", pose)


def _tracks(observation: Record) -> Tracks:
    """Poses from the boxes of every moment.

    A cache stores an object's type, size and velocity as they are when it first appears; NAVSIM scores with those.
    """
    maps = _list(observation["_occupancy_maps"])
    if len(maps) != STEPS:
        raise DatasetError(f"it knows {len(maps)} moments; expected {STEPS}")
    objects = observation["_unique_objects"]
    if not isinstance(objects, dict):
        raise DatasetError(f"it has {describe(objects)} where a dict of objects is expected")
    rows = {token: row for row, token in enumerate(objects)}
    corners = np.full((len(rows), STEPS, 4, 2), np.nan)
    for step, one in enumerate(maps):
        tokens, boxes = _arguments(record_of(one, "PDMOccupancyMap"), 2)[:2]
        polygons = _polygons(boxes)
        tokens = _list(tokens)
        if len(tokens) != len(polygons) or not set(tokens) <= set(rows):
            raise DatasetError(f"its moment {step} has boxes without an object")
        for token, polygon in zip(tokens, polygons, strict=True):
            outline = shapely.get_coordinates(polygon)
            if outline.shape != (5, 2):
                raise DatasetError(f"its moment {step} has a box of {len(outline) - 1} corners")
            corners[rows[token], step] = outline[:4]
    # Corners are front left, rear left, rear right, front right.
    ahead = corners[:, :, 0] - corners[:, :, 1]
    poses = np.concatenate([corners.mean(axis=2), np.arctan2(ahead[..., 1], ahead[..., 0])[..., None]], axis=2)
    kinds, sizes, velocities = [], np.zeros((len(rows), 2)), np.zeros((len(rows), STEPS, 2))
    for row, one in enumerate(objects.values()):
        known = record_of(one, "Agent", "StaticObject", "AgentState", "SceneObject")
        number = enum_value(known["_tracked_object_type"], OBJECT_TYPES)
        if number not in range(len(_KIND_OF_OBJECT)):
            raise DatasetError(f"it has an object of type {number}; expected {', '.join(OBJECT_TYPES)}")
        kinds.append(_KIND_OF_OBJECT[number])
        box = record_of(known["_box"], "OrientedBox")
        sizes[row] = _finite("box", np.array([array_of(box["_length"]), array_of(box["_width"])], np.float64))
        if kinds[-1] != "static":
            velocities[row] = _finite("velocity of an object", _vector(known["_velocity"]))
    velocities[np.isnan(poses[..., 0])] = np.nan
    return Tracks(tuple(kinds), poses, sizes, velocities)


def _roads(drivable: Record, centreline: Record, route: list[Any]) -> Roads:
    tokens, layers, geometries = _arguments(drivable, 3)[:3]
    numbers = [enum_value(layer, MAP_LAYERS) for layer in _list(layers)]
    tokens, polygons = _list(tokens), _polygons(geometries)
    if not len(tokens) == len(numbers) == len(polygons):
        raise DatasetError(f"its map has {len(tokens)} names, {len(numbers)} types and {len(polygons)} polygons")
    unknown = set(numbers) - set(KIND_OF_LAYER)
    if unknown:
        raise DatasetError(f"its map has polygons of type {min(unknown)}; expected {', '.join(MAP_LAYERS)}")
    kinds = tuple(KIND_OF_LAYER[number] for number in numbers)
    on_route = [token in route and kind in ("lane", "connector") for token, kind in zip(tokens, kinds, strict=True)]
    points = np.array([_pose(pose)[:2] for pose in _list(_arguments(centreline, 1)[0])], np.float64)
    if len(points) < 2:
        raise DatasetError(f"its centreline has {len(points)} points")
    return Roads(kinds, polygons, np.array(on_route, np.bool_), _finite("centreline", points))


def _reference(trajectory: Record) -> Floats:
    states = [record_of(state, "EgoState") for state in _list(_arguments(trajectory, 1)[0])]
    times = [int(array_of(record_of(state["_time_point"], "TimePoint")["time_us"])) for state in states]
    if len(states) < STEPS - 10 or set(np.diff(times)) != {STEP_MICROSECONDS}:
        raise DatasetError(
            f"its reference plan has {len(states)} states; expected {STEPS - 10} or more, one every 0.1 s"
        )
    return np.stack([_rear_axle(state) for state in states])


def _arguments(record: Record, least: int) -> tuple[Any, ...]:
    if len(record.arguments) < least:
        raise DatasetError(f"its {record.name} has {len(record.arguments)} arguments; expected {least} or more")
    return record.arguments


def _list(value: Any) -> list[Any]:
    """A list, or NumPy's array of objects as one."""
    if is_record(value, "_reconstruct") and isinstance(value.state, tuple) and isinstance(value.state[-1], list):
        value = value.state[-1]
    if not isinstance(value, list | tuple):
        raise DatasetError(f"it has {describe(value)} where a list is expected")
    return list(value)


def _polygons(geometries: Any) -> npt.NDArray[np.object_]:
    raw = []
    for geometry in _list(geometries):
        made = record_of(geometry, "from_wkb", "Polygon")
        raw.append(bytes_of(made.arguments[0] if made.name == "from_wkb" else made.state))
    polygons = np.asarray(shapely.from_wkb(np.array(raw, np.object_)), np.object_).reshape(len(raw))
    if not np.isin(shapely.get_type_id(polygons), (3, 6)).all() or not np.isfinite(shapely.bounds(polygons)).all():
        raise DatasetError("it has geometries that are no finite polygons")
    return polygons


def _pose(value: Any) -> Floats:
    state = record_of(value, "StateSE2")
    return np.array([array_of(state[key]) for key in ("x", "y", "heading")], np.float64)


def _vector(value: Any) -> Floats:
    vector = record_of(value, "StateVector2D")
    return np.array([array_of(vector["_x"]), array_of(vector["_y"])], np.float64)


def _finite(what: str, values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise DatasetError(f"its {what} is {values.tolist()}; expected finite numbers")
    return values
