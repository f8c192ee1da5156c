"""Cameras in recordings: what the node saw is what training sees, to the bit; frames are stored once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export.bags import rows
from dipole_export.bags.conversion import BagOptions, recording_of_bag
from dipole_export.cli import main
from dipole_policy.contract import Contract
from dipole_runtime.pictures import PictureSpec
from pictured import bundle_in
from test_bags_node import Node
from written_bags import COMMAND, JOINTS, STORE, Said, empty, header, joints, number, numbers, write_bag

from dipole_sb3 import load_dataset

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed: see the extra 'bags'")

PERIOD_S = 0.1
CONTRACT = """
rate_hz: 10
deadline_s: 10.0
observation:
  - {topic: /camera, type: sensor_msgs/msg/Image, key: front, stack: 3, max_age_s: 0.15}
  - topic: /depth/compressed
    type: sensor_msgs/msg/CompressedImage
    key: depth
    crop: {left: 1, top: 2, width: 5, height: 4}
    range: [300, 3000]
    frozen_after_s: 0.6
    max_age_s: 0.3
  - topic: /joint_states
    type: sensor_msgs/msg/JointState
    field: position
    names: [elbow, wrist]
    key: joints
    max_age_s: 0.2
action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""
ALONE = """
rate_hz: 10
observation: [{topic: /camera, type: sensor_msgs/msg/Image, stack: 3, max_age_s: 0.3}]
action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""


def picture(time_s: float, pixels: Any, encoding: str = "bgr8", padding: int = 3) -> Any:
    height, width, channels = pixels.shape
    data = np.pad(pixels.reshape(height, -1), [(0, 0), (0, padding)]).reshape(-1)
    step = width * channels + padding
    return STORE.types["sensor_msgs/msg/Image"](header(time_s), height, width, encoding, 0, step, data)


def depth(time_s: float, values: Any) -> Any:
    data = io.BytesIO()
    PIL.fromarray(values).save(data, "PNG")
    whole = np.frombuffer(bytes(12) + data.getvalue(), np.uint8)
    return STORE.types["sensor_msgs/msg/CompressedImage"](header(time_s), "16UC1; compressedDepth png", whole)


def sensors(random: np.random.Generator, seconds: float) -> list[Said]:
    """Cameras and joints at rates of their own: late, lost, cut, still, not finite."""
    said: list[Said] = []
    still = random.integers(1, 5000, (6, 7), np.uint16)
    for topic, period in (("/camera", 1 / 30), ("/depth/compressed", 1 / 15), (JOINTS, 0.02)):
        at = 0.0
        while at < seconds:
            at += period * float(random.uniform(0.7, 1.3))
            if random.random() < 0.01:
                at += float(random.uniform(0.05, 0.5))
            stamped = at - float(random.uniform(0.0, 0.02))
            if topic == "/camera":
                height = 5 if random.random() < 0.005 else 6
                said.append((at, topic, picture(stamped, random.integers(0, 256, (height, 8, 3), np.uint8))))
            elif topic == JOINTS:
                value = float("nan") if random.random() < 0.02 else float(random.normal())
                said.append((at, topic, joints(stamped, value, 0.5)))
            else:
                is_still = 8.0 < at < 10.0
                said.append(
                    (at, topic, depth(stamped, still if is_still else random.integers(1, 5000, (6, 7), np.uint16)))
                )
    return sorted(said, key=lambda one: one[0])


def test_the_recording_shows_what_the_node_saw(tmp_path: Path) -> None:
    contract_path = tmp_path / "robot.yaml"
    contract_path.write_text(CONTRACT)
    pictures = (PictureSpec("front", 6, 8, 9), PictureSpec("depth", 4, 5, 1))
    bundle = bundle_in(tmp_path, pictures, 2, seed=3)
    random = np.random.default_rng(7)
    said = sensors(random, 40.0)
    node = Node(bundle, Contract.load(contract_path))
    heard = write_bag(tmp_path / "heard", said)
    periods = np.cumsum(PERIOD_S + random.uniform(-0.02, 0.02, 380) * np.tile([1, -1], 190)) + 0.3
    node.live_through(heard, periods)
    assert 200 < len(node.seen) < 360, "it was to drive most of the time, and to be stopped by faults"
    kinds = node.loop.statistics.faults()
    assert {"blind camera", "stale input", "wrongly sized input", "non-finite input"} <= kinds.keys()
    bag = write_bag(tmp_path / "drive", [*said, *node.commands])

    arrays = recording_of_bag(
        bag, contract_path, BagOptions("-abs(action[0])", action_low=(-9,), action_high=(9,))
    ).arrays
    driven = {as_bytes(observation): command for _, observation, command in node.seen}
    steps = 0
    for at, action in enumerate(arrays["actions"]):
        if np.any(action):
            seen = {key: arrays[f"observations/{key}"][at] for key in ("front", "depth", "joints")}
            assert driven[as_bytes(seen)].tobytes() == action.tobytes()
            steps += 1
    assert steps > 0.9 * len(node.seen)
    assert arrays["observations/front"].dtype == arrays["observations/depth"].dtype == np.uint8
    begins = np.flatnonzero(arrays["terminals"][:-1]) + 1
    repeated = arrays["observations/front"][begins]
    assert (repeated[..., :3] == repeated[..., 6:]).all(axis=(1, 2, 3)).mean() > 0.5, "stacks begin anew after a stop"


def as_bytes(observation: Any) -> bytes:
    return b"".join(np.ascontiguousarray(observation[key]).tobytes() for key in ("front", "depth", "joints"))


FRAMES = np.random.default_rng(1).integers(0, 256, (120, 12, 16, 3), np.uint8)


def drive(count: int, start_s: float = 0.0, first: int = 0, frames: Any = FRAMES) -> list[Said]:
    """One frame and one command each period."""
    said: list[Said] = []
    for index in range(count):
        at = start_s + index * PERIOD_S
        said.append((at, "/camera", picture(at, frames[first + index], "rgb8")))
        said.append((at, "/reward", number(float(first + index))))
        said.append((at + 0.001, COMMAND, numbers([0.001 * index, 0.0])))
    return said


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robot.yaml").write_text(ALONE)
    return tmp_path


def from_bag(*arguments: str, out: str = "drive.npz", reward: str = "/reward") -> None:
    words = ["data", "from-bag", "bag", "--contract", "robot.yaml", "--reward", reward, "--out", out, *arguments]
    assert main(words) == 0


def stacks(*indices: tuple[int, int, int]) -> Any:
    return np.stack([np.concatenate(FRAMES[list(one)], axis=2) for one in indices])


def test_episodes_begin_with_a_frame_repeated(alone: Path) -> None:
    """After a gap and after a reset."""
    reset = (1.4995, "/reset", empty())
    write_bag(alone / "bag", [*drive(5), *drive(10, 1.0, 5), reset])
    from_bag("--reset", "/reset")
    arrays = np.load("drive.npz")
    assert arrays["terminals"].nonzero()[0].tolist() == [4, 8, 12]
    expected = stacks(
        *((0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)),
        *((5, 5, 5), (5, 5, 6), (5, 6, 7), (6, 7, 8)),
        *((10, 10, 10), (10, 10, 11), (10, 11, 12), (11, 12, 13)),
    )
    assert np.array_equal(arrays["observations"], expected)
    assert np.array_equal(arrays["next_observations"][3], stacks((2, 3, 4))[0])


def test_a_folder_holds_every_frame_once(alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """However many of them are handed over at a time."""
    write_bag(alone / "bag", [*drive(60), *drive(60, 20.0, 60)])
    from_bag()
    monkeypatch.setattr(rows, "_LARGEST", 50_000)
    from_bag("--image-size", "12", "16", out="stored")
    assert "stored: 119 transitions in 2 episodes" in capsys.readouterr().out
    stored, whole = load_dataset("stored", device="cpu"), load_dataset("drive.npz", device="cpu")
    assert stored.checksum == whole.checksum
    assert stored.metadata["image_size"] == [12, 16]
    assert stored.metadata["command"].endswith("--out stored --image-size 12 16")
    assert sorted(np.load("stored/observations.npy", mmap_mode="r").shape) == [9, 12, 16, 120]


def test_pictures_are_made_smaller_before_they_are_stacked(alone: Path) -> None:
    write_bag(alone / "bag", drive(20))
    from_bag("--image-size", "6", "4", reward="abs(action[0])")
    arrays = np.load("drive.npz")
    assert arrays["observations"].shape == (19, 6, 4, 9)
    small = [np.asarray(PIL.fromarray(one).resize((4, 6), PIL.Resampling.BILINEAR)) for one in FRAMES[:20]]
    assert np.array_equal(arrays["observations"][5], np.concatenate(small[3:6], axis=2))


def test_what_cannot_be_read_is_said_at_once(alone: Path, capsys: Any) -> None:
    write_bag(alone / "bag", [(0.0, "/camera", picture(0.0, FRAMES[0], "yuv422")), *drive(5, 0.1)])
    words = ["data", "from-bag", "bag", "--contract", "robot.yaml", "--reward", "/reward", "--out", "drive.npz"]
    assert main(words) == 1
    assert "the first picture cannot be read: /camera is encoded as 'yuv422', expected rgb8" in capsys.readouterr().err
    assert not (alone / "drive.npz").exists()
