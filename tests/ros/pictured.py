"""A policy that sees pictures: a small real bundle behind the mean of every channel. Contracts and messages for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
from cars import image
from dipole_runtime import GuidedPolicy
from dipole_runtime.manifest import Manifest, ObservationPart, ObservationSpec
from dipole_runtime.pictures import PictureSpec
from robots import TYPES

TYPES["sensor_msgs/msg/CompressedImage"] = {"header": "std_msgs/Header", "format": "string", "data": "sequence<uint8>"}

HEIGHT, WIDTH = 6, 8
FRONT = PictureSpec("front", HEIGHT, WIDTH, 9)
"""Three frames in colours."""
DEPTH = PictureSpec("depth", HEIGHT, WIDTH, 1)
ALONE = PictureSpec(None, HEIGHT, WIDTH, 3)
CONTRACT = """
rate_hz: 10
deadline_s: 1.0
observation:
  - {topic: camera, type: sensor_msgs/msg/Image, key: front, stack: 3, max_age_s: 0.65}
  - topic: joint_states
    type: sensor_msgs/msg/JointState
    field: position
    names: [elbow, wrist]
    key: joints
    max_age_s: 0.6
action: {topic: command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""


@dataclass(frozen=True)
class PicturedManifest(Manifest):
    pictures: tuple[PictureSpec, ...] = ()


class PicturedPolicy:
    """Acts by the mean of each channel, then by the numbers, in the manifest's order.

    :param policy: of as many elements.
    :param joints: number of elements under the key "joints"; 0: pictures are all.
    """

    def __init__(self, policy: GuidedPolicy, pictures: Sequence[PictureSpec], joints: int) -> None:
        self._policy, self._pictures = policy, pictures
        self.hash, self.deterministic_noise = policy.hash, policy.deterministic_noise
        known = {field.name: getattr(policy.manifest, field.name) for field in fields(Manifest)}
        parts = (ObservationPart("joints", (joints,), "float32", "Box", None),) if joints else ()
        known["observation"] = ObservationSpec(joints, tuple(f"joint_{at}" for at in range(joints)), parts)
        self.manifest = PicturedManifest(**known, pictures=tuple(pictures))

    def flat(self, observation: Any) -> np.ndarray:
        given = observation if isinstance(observation, Mapping) else {None: observation}
        means = []
        for one in self._pictures:
            picture = given[one.key]
            assert (picture.dtype, picture.shape) == (np.uint8, (one.height, one.width, one.channels))
            assert picture.flags.c_contiguous
            means.append(picture.mean(axis=(0, 1)) / 255)
        return np.concatenate([*means, given.get("joints", ())]).astype(np.float32)

    def act(self, observation: Any, *arguments: Any, **more: Any) -> Any:
        return self._policy.act(self.flat(observation), *arguments, **more)

    def sweep(self, observation: Any, *arguments: Any, **more: Any) -> Any:
        return self._policy.sweep(self.flat(observation), *arguments, **more)


def deep_image(values: Any, encoding: str = "16UC1", padding: int = 0, big: bool = False) -> Any:
    """Of values [height, width] with 16 bits, with bytes of padding behind each row."""
    rows = np.ascontiguousarray(values, ">u2" if big else "<u2").view(np.uint8).reshape(len(values), -1)
    message = image(rows, encoding, padding)
    return SimpleNamespace(**{**vars(message), "width": values.shape[1], "is_bigendian": int(big)})


def compressed_image(data: bytes, format_: str) -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="camera")
    return SimpleNamespace(header=header, format=format_, data=data)
