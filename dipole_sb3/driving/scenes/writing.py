"""Writes a scene as NAVSIM's tools would: its log, its images, its metric cache."""

from __future__ import annotations

import io
import lzma
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image

from dipole_sb3.driving.scene import COMMANDS, HISTORY_POSES, Floats, Surroundings, Tracks
from dipole_sb3.driving.scenes.logs import SCENE_FRAMES, to_ego_frame
from dipole_sb3.driving.scenes.metric_caches import KIND_OF_LAYER, OBJECT_TYPES, STEP_MICROSECONDS, STEPS
from dipole_sb3.driving.scenes.records import Record, called, pickled, stored, stored_in_slots
from dipole_sb3.driving.scenes.rendering import camera

KINDS = ("highway", "merge", "intersection", "roundabout")
OPENSCENE_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")
FRAME_MICROSECONDS = 500_000
_FRAME_STEPS = FRAME_MICROSECONDS // STEP_MICROSECONDS
_NOW = HISTORY_POSES - 1


@dataclass(frozen=True, eq=False)
class Recording:
    """One scene as it is to be written. T = 66 moments every 0.1 s, from 1.5 s ago to 5 s from now.

    :ivar token: of the frame of now, 16 hexadecimal digits.
    :ivar log: the log's name.
    :ivar kind: the type of scenario.
    :ivar start: the first frame's time, µs.
    :ivar ego: [T, 3], poses of the rear axle in the map frame.
    :ivar velocities: [T, 2], of the ego, m/s, in the ego frame.
    :ivar accelerations: [T, 2], m/s², in the ego frame.
    :ivar command: index into :data:`~dipole_sb3.driving.scene.COMMANDS`.
    :ivar names: [K], of the objects, unique.
    :ivar types: [K], of the objects, as in the annotations of logs.
    :ivar poses: [K, T, 3], of their boxes' middles in the map frame.
    :ivar sizes: [K, 3].
    :ivar object_velocities: [K, T, 2], m/s, in the map frame.
    :ivar surroundings: of now.
    :ivar lane_names: [M], of the polygons of the surroundings' map.
    :ivar images: of now, by camera.
    """

    token: str
    log: str
    kind: str
    start: int
    ego: Floats
    velocities: Floats
    accelerations: Floats
    command: int
    names: Sequence[str]
    types: Sequence[str]
    poses: Floats
    sizes: Floats
    object_velocities: Floats
    surroundings: Surroundings
    lane_names: Sequence[str]
    images: dict[str, npt.NDArray[np.uint8]]


def kind_of(index: int) -> str:
    """What kind of scene a split's scene is; they take turns."""
    return KINDS[index % len(KINDS)]


def log_name(split: str, index: int) -> str:
    """Name of the log of a split's scene; sorted by name, the kinds take turns."""
    return f"{split}-{index:06d}-{kind_of(index)}"


def is_written(folder: Path, split: str, index: int) -> bool:
    """Whether a scene is complete."""
    return _log_file(folder, split, log_name(split, index)).is_file()


def remove_others(folder: Path, counts: dict[str, int]) -> None:
    """Removes what is no part of the first scenes of each split: others, and what killed processes left half-written.

    :param counts: scenes of each split.
    """
    kept = {log_name(split, index) for split, count in counts.items() for index in range(count)}
    for split in counts:
        for log in (folder / "navsim_logs" / split).iterdir():
            if log.name.removesuffix(".pkl") not in kept:
                log.unlink()
    for logs in (*(folder / "sensor_blobs" / split for split in counts), folder / "metric_cache"):
        for log in logs.iterdir():
            if log.name not in kept:
                shutil.rmtree(log)
    for half in folder.rglob(".*.tmp"):
        half.unlink()


def _log_file(folder: Path, split: str, log: str) -> Path:
    return folder / "navsim_logs" / split / f"{log}.pkl"


def write_recording(recording: Recording, folder: Path, split: str) -> None:
    """Writes all files of a scene; the log comes last: where it is, all is.

    :raises OSError: a file cannot be written.
    """
    blobs = folder / "sensor_blobs" / split
    for name, image in recording.images.items():
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        _write(blobs / _image_path(recording, name, recording.token), content.getvalue())
    cache = Path(recording.log) / recording.kind / recording.token / "metric_cache.pkl"
    _write(folder / "metric_cache" / cache, lzma.compress(pickled(_metric_cache(recording, cache)), preset=0))
    _write(_log_file(folder, split, recording.log), pickled([_frame(recording, n) for n in range(SCENE_FRAMES)]))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.tmp")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _image_path(recording: Recording, name: str, token: str) -> str:
    return f"{recording.log}/{name}/{token}.png"


def _frame_token(recording: Recording, number: int) -> str:
    return recording.token if number == _NOW else f"{(int(recording.token, 16) + number - _NOW) % 2**64:016x}"


def _frame(recording: Recording, number: int) -> dict[str, Any]:
    """A frame of the log, with the keys that NAVSIM reads."""
    step = number * _FRAME_STEPS
    pose = recording.ego[step]
    token = _frame_token(recording, number)
    return {
        "token": token,
        "frame_idx": number,
        "timestamp": recording.start + number * FRAME_MICROSECONDS,
        "log_name": recording.log,
        "log_token": recording.token,
        "scene_name": recording.log,
        "scene_token": recording.token,
        "map_location": "highway-env",
        "vehicle_name": recording.kind,
        "roadblock_ids": _route_blocks(recording),
        "traffic_lights": [],
        "lidar_path": f"{recording.log}/MergedPointCloud/{token}.pcd",
        "lidar2ego_translation": np.zeros(3),
        "lidar2ego_rotation": np.array([1.0, 0.0, 0.0, 0.0]),
        "ego2global_translation": np.array([pose[0], pose[1], 0.0]),
        "ego2global_rotation": np.array([math.cos(pose[2] / 2), 0.0, 0.0, math.sin(pose[2] / 2)]),
        "ego_dynamic_state": [float(value) for value in (*recording.velocities[step], *recording.accelerations[step])],
        "driving_command": np.eye(len(COMMANDS), dtype=np.int64)[recording.command],
        "cams": {name: _camera(recording, name, token) for name in OPENSCENE_CAMERAS},
        "anns": _annotations(recording, step, token),
    }


def _route_blocks(recording: Recording) -> list[str]:
    roads = recording.surroundings.roads
    route = {name.rpartition("-")[0] for name, used in zip(recording.lane_names, roads.on_route, strict=True) if used}
    return [name for name in recording.lane_names if name in route]


def _camera(recording: Recording, name: str, token: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"data_path": _image_path(recording, name, token)}
    if name not in recording.images:
        return shown | dict.fromkeys(
            ("sensor2lidar_rotation", "sensor2lidar_translation", "cam_intrinsic", "distortion")
        )
    eye = camera(name)
    return shown | {
        "sensor2lidar_rotation": eye.rotation,
        "sensor2lidar_translation": eye.position,
        "cam_intrinsic": eye.intrinsics,
        "distortion": np.zeros(5),
    }


def _annotations(recording: Recording, step: int, token: str) -> dict[str, Any]:
    ego = recording.ego[step]
    local = to_ego_frame(recording.poses[:, step], ego)
    turn = np.array([[np.cos(ego[2]), -np.sin(ego[2])], [np.sin(ego[2]), np.cos(ego[2])]])
    flat = np.zeros((len(local), 1))
    height = recording.sizes[:, 2:]
    boxes = np.concatenate([local[:, :2], height / 2, recording.sizes, local[:, 2:]], axis=1)
    velocity = np.concatenate([recording.object_velocities[:, step] @ turn, flat], axis=1)
    return {
        "gt_boxes": boxes.astype(np.float32),
        "gt_names": list(recording.types),
        "gt_velocity_3d": velocity.astype(np.float32),
        "instance_tokens": [f"{token}-{name}" for name in recording.names],
        "track_tokens": [_track_token(recording, name) for name in recording.names],
    }


def _track_token(recording: Recording, name: str) -> str:
    return f"{recording.token}-{name}"


_VEHICLE = called("VehicleParameters", 2.297, 4.049, 1.127, 1.67, 3.089, "pacifica", "gen1", 1.777)
_LENGTH, _WIDTH, _HEIGHT, _TO_CENTRE = 5.176, 2.297, 1.777, 1.461


def _metric_cache(recording: Recording, path: Path) -> Record:
    scene = recording.surroundings
    now = recording.start + _NOW * FRAME_MICROSECONDS
    times = [now + step * STEP_MICROSECONDS for step in range(len(scene.reference))]
    # NAVSIM's generator of proposals knows where they are, and leaves their motion at zero.
    still = _motion(np.zeros(2), np.zeros(2))
    states = [_ego_state(pose, still, 0.0, time) for pose, time in zip(scene.reference, times, strict=True)]
    motion = _motion(scene.ego.velocity, scene.ego.acceleration)
    layers = {kind: number for number, kind in KIND_OF_LAYER.items()}
    route = [name for name, used in zip(recording.lane_names, scene.roads.on_route, strict=True) if used]
    centreline = np.concatenate([scene.roads.centreline, _headings(scene.roads.centreline)[:, None]], axis=1)
    return stored(
        "MetricCache",
        file_path=called("PosixPath", *path.parts),
        trajectory=called("InterpolatedTrajectory", states),
        ego_state=_ego_state(scene.ego.pose, motion, scene.ego.steering_angle, now),
        observation=_observation(recording, now),
        centerline=called("PDMPath", [_pose(pose) for pose in centreline]),
        route_lane_ids=route,
        drivable_area_map=called(
            "PDMDrivableMap",
            list(recording.lane_names),
            [called("SemanticMapLayer", layers[kind]) for kind in scene.roads.kinds],
            _geometries(scene.roads.polygons),
            10,
        ),
    )


def _headings(points: Floats) -> Floats:
    steps = np.diff(points, axis=0)
    headings = np.arctan2(steps[:, 1], steps[:, 0])
    return np.append(headings, headings[-1])


def _pose(pose: Floats) -> Record:
    x, y, heading = pose.tolist()
    return stored_in_slots("StateSE2", x=x, y=y, heading=heading)


def _vector(vector: Floats) -> Record:
    x, y = vector.tolist()
    return stored_in_slots("StateVector2D", _x=x, _y=y, _array=np.array([x, y]))


def _geometries(polygons: npt.NDArray[np.object_]) -> list[Record]:
    return [called("from_wkb", raw) for raw in shapely.to_wkb(polygons)]


def _motion(velocity: Floats, acceleration: Floats) -> Record:
    return stored(
        "DynamicCarState",
        _rear_axle_to_center_dist=_TO_CENTRE,
        _angular_velocity=0.0,
        _angular_acceleration=0.0,
        _rear_axle_velocity_2d=_vector(velocity),
        _rear_axle_acceleration_2d=_vector(acceleration),
        _tire_steering_rate=0.0,
    )


def _ego_state(pose: Floats, motion: Record, steering_angle: float, time: int) -> Record:
    ahead = _TO_CENTRE * np.array([np.cos(pose[2]), np.sin(pose[2]), 0.0])
    return stored(
        "EgoState",
        _car_footprint=stored(
            "CarFootprint",
            _center=_pose(pose + ahead),
            _length=_LENGTH,
            _width=_WIDTH,
            _height=_HEIGHT,
            _vehicle_parameters=_VEHICLE,
        ),
        _tire_steering_angle=steering_angle,
        _is_in_auto_mode=True,
        _time_point=stored_in_slots("TimePoint", time_us=time),
        _dynamic_car_state=motion,
    )


def _observation(recording: Recording, now: int) -> Record:
    tracks = recording.surroundings.tracks
    tokens = [_track_token(recording, name) for name in recording.names]
    boxes = shapely.polygons(box_corners(tracks)).reshape(len(tokens), STEPS)
    maps = [called("PDMOccupancyMap", tokens, _geometries(boxes[:, step]), 10) for step in range(STEPS)]
    return stored(
        "PDMObservation",
        _sample_interval=STEP_MICROSECONDS / 1e6,
        _observation_samples=STEPS - 1,
        _map_radius=100,
        _observation_sample_res=1,
        _global_to_local_idcs=list(range(STEPS)),
        _collided_track_ids=[],
        _red_light_token="red_light",
        _occupancy_maps=maps,
        _unique_objects={token: _object(recording, row, token, now) for row, token in enumerate(tokens)},
        _initialized=True,
    )


def box_corners(tracks: Tracks) -> Floats:
    """Corners [K, 51, 4, 2] of boxes: front left, rear left, rear right, front right."""
    heading = tracks.poses[..., 2]
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    left = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    forward, sideways = (half[:, None, None] for half in (tracks.sizes / 2).T)
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    corners = [tracks.poses[..., :2] + front * forward * ahead + side * sideways * left for front, side in signs]
    return np.stack(corners, axis=2)


def _object(recording: Recording, row: int, token: str, now: int) -> Record:
    tracks = recording.surroundings.tracks
    moving = tracks.kinds[row] != "static"
    length, width, height = recording.sizes[row].tolist()
    fields: dict[str, Any] = {
        "_metadata": stored(
            "SceneObjectMetadata",
            timestamp_us=now,
            token=f"{recording.token}-{recording.names[row]}",
            track_id=None,
            track_token=token,
            category_name=None,
        ),
        "instance_token": None,
        "_tracked_object_type": called("TrackedObjectType", OBJECT_TYPES[recording.types[row].upper()]),
        "_box": stored(
            "OrientedBox", _center=_pose(tracks.poses[row, 0]), _length=length, _width=width, _height=height
        ),
        "past_trajectory": None,
    }
    if moving:
        return stored(
            "Agent",
            _initial_time_stamp=stored_in_slots("TimePoint", time_us=now),
            _predictions=[],
            _velocity=_vector(tracks.velocities[row, 0]),
            _angular_velocity=None,
            **fields,
        )
    return stored("StaticObject", predictions=None, velocity=_vector(np.zeros(2)), **fields)
