"""Bundles, contracts and messages for policies that see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cars import image
from dipole_runtime.manifest import ObservationPart
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


def bundle_in(folder: Path, pictures: Sequence[PictureSpec], joints: int, seed: int = 0) -> Path:
    """A small one, whose policy takes the mean of every channel, and numbers under the key "joints"."""
    from small_bundles import Sizes, files_of, make_policy
    from small_pictures import seeing_files

    path = folder / "seeing"
    path.mkdir()
    if pictures:
        files = seeing_files("pair", pictures, joints, seed)
    else:
        parts = (ObservationPart("joints", (joints,), "float64", "Box", None),)
        files = files_of("pair", make_policy(Sizes(joints), parts, seed))
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def deep_image(values: Any, encoding: str = "16UC1", padding: int = 0, big: bool = False) -> Any:
    """Of values [height, width] with 16 bits, with bytes of padding behind each row."""
    rows = np.ascontiguousarray(values, ">u2" if big else "<u2").view(np.uint8).reshape(len(values), -1)
    message = image(rows, encoding, padding)
    return SimpleNamespace(**{**vars(message), "width": values.shape[1], "is_bigendian": int(big)})


def compressed_image(data: bytes, format_: str) -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="camera")
    return SimpleNamespace(header=header, format=format_, data=data)
