"""From camera to command: what is trained on a recording drives the node, and the node's drive shows what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export.cli import main
from dipole_policy.contract import Contract
from dipole_runtime import GuidedPolicy
from test_bags_node import Node
from test_bags_pictures import picture
from written_bags import COMMAND, JOINTS, Said, joints, numbers, write_bag

from dipole_sb3 import IQL, load_dataset

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed: see the extra 'bags'")

CAMERA, TRAINED = (24, 32), (10, 14)
"""Height and width of the camera's part that is seen, and of what the networks were trained on."""
PERIOD_S = 0.1
CONTRACT = """
rate_hz: 10
deadline_s: 10.0
observation:
  - topic: /camera
    type: sensor_msgs/msg/Image
    key: front
    stack: 3
    max_age_s: 0.3
    crop: {left: 2, top: 1, width: 32, height: 24}
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position, names: [elbow, wrist], key: joints,
     max_age_s: 0.3}
action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""


def sensors(random: np.random.Generator, count: int) -> list[Said]:
    """A camera whose pictures are larger than what the policy sees of them, and joints."""
    said: list[Said] = []
    for index in range(count):
        at = index * PERIOD_S
        said.append((at, "/camera", picture(at, random.integers(0, 256, (26, 36, 3), np.uint8))))
        said.append((at, JOINTS, joints(at, *map(float, random.normal(size=2)))))
    return said


def from_bag(bag: str, out: str) -> None:
    height, width = map(str, TRAINED)
    words = ["data", "from-bag", bag, "--contract", "robot.yaml", "--reward", "-abs(action[0])", "--out", out]
    assert main([*words, "--image-size", height, width, "--action-low", "-1", "--action-high", "1"]) == 0


def test_trained_exported_driven_and_recorded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are the training's to the bit all the way; commands are the model's own."""
    monkeypatch.chdir(tmp_path)
    Path("robot.yaml").write_text(CONTRACT)
    random = np.random.default_rng(5)
    commands = [(0.02 + at * PERIOD_S, COMMAND, numbers(random.uniform(-1, 1, 2).tolist())) for at in range(60)]
    write_bag(tmp_path / "recorded", [*sensors(random, 60), *commands])
    from_bag("recorded", "data")
    model = IQL(
        "MultiInputPolicy",
        dataset=load_dataset("data", device="cpu"),
        batch_size=16,
        seed=0,
        device="cpu",
        policy_kwargs={
            "net_arch": [16],
            "features_extractor_class": "impala-small",
            "features_extractor_kwargs": {"features_dim": 8, "stack_sizes": (4,)},
        },
    ).learn(10)
    model.save("model.zip")
    assert main(["export", "model.zip", "bundle", "--picture", *map(str, CAMERA)]) == 0

    node = Node(Path("bundle"), Contract.load(Path("robot.yaml")))
    heard = sensors(random, 80)
    node.live_through(write_bag(tmp_path / "heard", heard), 0.35 + PERIOD_S * np.arange(75))
    assert len(node.seen) > 70
    write_bag(tmp_path / "drive", [*heard, *node.commands])
    from_bag("drive", "again.npz")

    arrays, policy = np.load("again.npz"), GuidedPolicy.load(Path("bundle"))
    driven = {command.tobytes(): observation for _, observation, command in node.seen}
    steps = 0
    for front, angles, action in zip(
        arrays["observations/front"], arrays["observations/joints"], arrays["actions"], strict=True
    ):
        seen: Any = driven[action.tobytes()]
        assert seen["front"].shape == (*CAMERA, 9)
        frames = [PIL.fromarray(seen["front"][..., first : first + 3]) for first in (0, 3, 6)]
        small = [np.asarray(frame.resize(TRAINED[::-1], PIL.Resampling.BILINEAR)) for frame in frames]
        assert np.array_equal(front, np.concatenate(small, axis=2))
        assert policy.act(seen).action.astype(np.float32).tobytes() == action.tobytes()
        expected, _ = model.predict({"front": front, "joints": angles}, deterministic=True)
        np.testing.assert_allclose(action, expected, atol=1e-5)
        steps += 1
    assert steps > 70
    assert np.ptp(arrays["actions"], axis=0).min() > 0.01, "its commands follow what it sees"
