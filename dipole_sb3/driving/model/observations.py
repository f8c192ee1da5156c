"""Observations are checked before a network sees them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from dipole_sb3.driving.scene import CAMERAS, COMMANDS, Observation

_SHAPES: dict[str, tuple[int, ...]] = {"history": (4, 3), "velocity": (2,), "acceleration": (2,), "command": ()}


def batched(observation: Observation) -> tuple[Observation, bool]:
    """An observation, or a batch of them, as a batch; and whether it was one.

    :raises ValueError: a wrong shape or type, a NaN, or a command that there is none of: one sentence.
    """
    arrays: dict[str, np.ndarray] = {
        field.name: np.asarray(getattr(observation, field.name)) for field in fields(Observation)
    }
    cameras = arrays["cameras"]
    one = cameras.ndim == 4
    if cameras.ndim not in (4, 5) or cameras.shape[-1] != 3 or 0 in cameras.shape:
        raise ValueError(
            f"observation.cameras has shape {list(cameras.shape)}, expected [3, height, width, 3], or that with a "
            "leading axis for a batch"
        )
    if cameras.shape[-4] != len(CAMERAS):
        raise ValueError(
            f"observation.cameras holds {cameras.shape[-4]} pictures, expected {len(CAMERAS)}: {', '.join(CAMERAS)}"
        )
    if cameras.dtype != np.uint8:
        raise ValueError(f"observation.cameras has type {cameras.dtype}, expected uint8")
    lead = () if one else cameras.shape[:1]
    for name, shape in _SHAPES.items():
        array = arrays[name]
        if array.shape != lead + shape:
            raise ValueError(f"observation.{name} has shape {list(array.shape)}, expected {list(lead + shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"observation.{name} holds a value that is not finite, expected numbers")
    command = arrays["command"]
    if not np.issubdtype(command.dtype, np.integer) or (command < 0).any() or (command >= len(COMMANDS)).any():
        raise ValueError(
            f"observation.command is {command.tolist()}, expected whole numbers from 0 to {len(COMMANDS) - 1} "
            f"({', '.join(COMMANDS)})"
        )
    return Observation(**{name: array[None] if one else array for name, array in arrays.items()}), one


def of_navsim(agent_input: Any) -> Observation:
    """The observation in a NAVSIM ``AgentInput``, whose last frame is now.

    :raises ValueError: too few frames, or a camera without a picture.
    """
    statuses, cameras = agent_input.ego_statuses, agent_input.cameras[-1]
    if len(statuses) < 4:
        raise ValueError(f"the agent input holds {len(statuses)} frames, expected 4 or more: 1.5 s at 2 Hz")
    pictures = []
    for name in CAMERAS:
        picture = getattr(cameras, name.lower()).image
        if picture is None:
            raise ValueError(f"the agent input has no picture of the camera {name}, expected {', '.join(CAMERAS)}")
        pictures.append(np.asarray(picture, np.uint8))
    now = statuses[-1]
    return Observation(
        cameras=np.stack(pictures),
        history=np.stack([np.asarray(each.ego_pose, np.float32) for each in statuses[-4:]]),
        velocity=np.asarray(now.ego_velocity, np.float32),
        acceleration=np.asarray(now.ego_acceleration, np.float32),
        command=np.asarray(np.argmax(now.driving_command), np.int64),
    )
