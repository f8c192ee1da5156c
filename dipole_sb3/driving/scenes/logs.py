"""OpenScene's logs: ``navsim_logs/<split>/<log>.pkl``, lists of frames every 0.5 s, cut into scenes as NAVSIM does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.driving.scene import CAMERAS, COMMANDS, HISTORY_POSES, PLAN_POSES, Floats
from dipole_sb3.driving.scenes.records import array_of, describe, read_pickle

FUTURE_FRAMES = 10
"""Frames after now that a scene needs: 4 s of plan, and the second that time to collision looks ahead."""
SCENE_FRAMES = HISTORY_POSES + FUTURE_FRAMES


@dataclass(frozen=True, eq=False)
class LoggedScene:
    """What a log tells of one scene.

    :ivar token: of the frame of now.
    :ivar log: the log's name.
    :ivar cameras: image files in the order of :data:`~dipole_sb3.driving.scene.CAMERAS`.
    :ivar history: float32 [4, 3], as in :class:`~dipole_sb3.driving.scene.Observation`; so are the next three.
    :ivar expert: float32 [8, 3], where the car really went: poses in the ego frame of now.
    """

    token: str
    log: str
    cameras: tuple[Path, ...]
    history: npt.NDArray[np.float32]
    velocity: npt.NDArray[np.float32]
    acceleration: npt.NDArray[np.float32]
    command: int
    expert: npt.NDArray[np.float32]


def read_log(path: Path, images: Path) -> list[LoggedScene]:
    """The scenes of one log: each frame with a route, 3 frames before and 10 after it; none in a log that is too short.

    :param path: the log.
    :param images: folder that the paths of its images are relative to.
    :raises DatasetError: one sentence: the file is damaged, empty, or a frame of it is malformed.
    """
    frames = read_pickle(path)
    try:
        if not isinstance(frames, list) or not frames:
            found = "no frames" if isinstance(frames, list) else describe(frames)
            raise DatasetError(f"has {found} in it; expected a list of one or more frames")
        poses = np.array([_in_frame(number, frame, _pose) for number, frame in enumerate(frames)])
        scenes = []
        for first in range(len(frames) - SCENE_FRAMES + 1):
            now = first + HISTORY_POSES - 1
            if _in_frame(now, frames[now], _has_route):
                window = poses[first : now + PLAN_POSES + 1]
                scenes.append(_in_frame(now, frames[now], lambda frame, seen=window: _scene(frame, seen, images)))
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
    return scenes


def _in_frame(number: int, frame: Any, read: Any) -> Any:
    try:
        return read(frame)
    except DatasetError as error:
        raise DatasetError(f"frame {number} {error}") from None


def _field(frame: Any, *keys: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(frame, dict) or key not in frame:
            raise DatasetError(f"has no {'/'.join(keys[: depth + 1])}; expected the keys of OpenScene's logs")
        frame = frame[key]
    return frame


def _numbers(frame: Any, key: str, count: int) -> Floats:
    try:
        found = array_of(_field(frame, key))
    except DatasetError as error:
        text = str(error)
        raise DatasetError(text if text.startswith("has no") else f"has a {key} that is damaged: {text}") from None
    if found.shape != (count,) or found.dtype.kind not in "biuf" or not np.isfinite(found).all():
        raise DatasetError(f"has {key} {found.tolist()}; expected {count} finite numbers")
    return found.astype(np.float64)


def _text(frame: Any, *keys: str) -> str:
    found = _field(frame, *keys)
    if not isinstance(found, str):
        raise DatasetError(f"has {'/'.join(keys)} {describe(found)}; expected a text")
    return found


def _pose(frame: Any) -> Floats:
    """(x, y, yaw) of the rear axle in the map frame, with the yaw of pyquaternion, which NAVSIM uses."""
    x, y, _ = _numbers(frame, "ego2global_translation", 3)
    turn = _numbers(frame, "ego2global_rotation", 4)
    length = np.linalg.norm(turn)
    if length < 0.5:
        raise DatasetError(f"has ego2global_rotation {turn.tolist()}; expected a quaternion of length 1")
    q0, q1, q2, q3 = turn / length
    yaw = np.arctan2(2 * (q0 * q3 - q1 * q2), 1 - 2 * (q2**2 + q3**2))
    return np.array([x, y, yaw])


def _has_route(frame: Any) -> bool:
    found = _field(frame, "roadblock_ids")
    if not isinstance(found, list | tuple):
        raise DatasetError(f"has roadblock_ids {describe(found)}; expected a list")
    return bool(found)


def _scene(frame: Any, poses: Floats, images: Path) -> LoggedScene:
    local = to_ego_frame(poses, poses[HISTORY_POSES - 1]).astype(np.float32)
    motion = _numbers(frame, "ego_dynamic_state", 4).astype(np.float32)
    command = _numbers(frame, "driving_command", len(COMMANDS))
    if sorted(command) != [0, 0, 0, 1]:
        names = ", ".join(COMMANDS)
        raise DatasetError(f"has driving_command {command.tolist()}; expected one 1 and three 0, for {names}")
    return LoggedScene(
        token=_text(frame, "token"),
        log=_text(frame, "log_name"),
        cameras=tuple(images / _inside(_text(frame, "cams", camera, "data_path")) for camera in CAMERAS),
        history=local[:HISTORY_POSES],
        velocity=motion[:2],
        acceleration=motion[2:],
        command=int(command.argmax()),
        expert=local[HISTORY_POSES:],
    )


def _inside(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise DatasetError(f"has the image path {path!r}; expected one below the folder of the images")
    return path


def to_ego_frame(poses: Floats, origin: Floats) -> Floats:
    """Poses [..., 3] of the map frame in the frame of one of them."""
    cosine, sine = np.cos(origin[2]), np.sin(origin[2])
    moved = poses - origin
    x = cosine * moved[..., 0] + sine * moved[..., 1]
    y = cosine * moved[..., 1] - sine * moved[..., 0]
    return np.stack([x, y, np.arctan2(np.sin(moved[..., 2]), np.cos(moved[..., 2]))], axis=-1)
