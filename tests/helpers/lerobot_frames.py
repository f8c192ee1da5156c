"""The frames of the sets that ``tests/datasets/lerobot/write_sets.py`` has let LeRobot write."""

from __future__ import annotations

from typing import Any

import numpy as np

FPS = 10
LENGTHS = (6, 2, 4)
"""Frames of the episodes; the first one succeeds in its last frame, the others are cut off."""

FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["pan", "lift", "grip"]},
    "observation.environment_state": {"dtype": "float64", "shape": (2,), "names": None},
    "observation.grid": {"dtype": "float32", "shape": (2, 3), "names": None},
    "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["left", "right"]}},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
CAMERAS: dict[str, dict[str, Any]] = {
    "observation.images.wrist": {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channels"]},
    "observation.images.front": {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
}
TASKS = ("push the block", "push the block", "lift it")


def episode(number: int) -> dict[str, np.ndarray]:
    """The columns of an episode, [length, *shape] each; episode 0 is done for good, 2 by time."""
    random, length = np.random.default_rng(number), LENGTHS[number]
    columns = {
        key: random.uniform(-1, 1, (length, *feature["shape"])).astype(feature["dtype"])
        for key, feature in FEATURES.items()
    }
    for key in ("next.done", "next.success"):
        columns[key] = np.zeros((length, 1), bool)
    columns["next.done"][-1] = number != 1
    columns["next.success"][-1] = number == 0
    return columns


def image(number: int, frame: int, key: str) -> np.ndarray:
    """What a camera saw, uint8."""
    random = np.random.default_rng((number, frame))
    return random.integers(0, 256, CAMERAS[key]["shape"], np.uint8)
