"""A camera on the wire: Image messages at 30 Hz in, commands at 20 Hz out; what is wrong with it stops the robot."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed: see the extra 'ros'")

from dipole_runtime import GuidedPolicy  # noqa: E402
from dipole_runtime.pictures import PictureSpec  # noqa: E402
from graph import STOP, Robot, namespace, policy, wait  # noqa: E402
from pictured import bundle_in  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")

SIZE = (48, 64)
CONTRACT = """
rate_hz: 20
deadline_s: 1.0
observation:
  - topic: camera
    type: sensor_msgs/msg/Image
    key: front
    crop: {left: 8, top: 4, width: 64, height: 48}
    stack: 3
    frozen_after_s: 1.0
    max_age_s: 0.6
  - topic: joint_states
    type: sensor_msgs/msg/JointState
    field: position
    names: [elbow, wrist]
    key: joints
    max_age_s: 0.6
action: {topic: command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""


class Arm(Robot):
    """With a camera whose every frame is another one: its first pixel counts."""

    def __init__(self, of: str, kind: type) -> None:
        super().__init__(of)
        self.scene = np.random.default_rng(3).integers(0, 256, (56, 80, 3), np.uint8)
        self.is_silent = self.is_frozen = False
        self.encoding = "rgb8"
        self._kind, self._count = kind, 0
        self._camera = self.node.create_publisher(kind, "camera", 1)
        self._filming = threading.Thread(target=self._film, daemon=True)
        self._filming.start()

    def _film(self) -> None:
        while not self._ended.wait(1 / 30):
            if self.is_silent:
                continue
            frame = self.scene.copy()
            if not self.is_frozen:
                self._count += 1
            if frame.shape[0] > 4 and frame.any():
                frame[4, 8] = self._count % 256, self._count // 256, 0
            message = self._message(frame)
            message.header.stamp = self.node.get_clock().now().to_msg()
            self._camera.publish(message)

    def _message(self, frame: Any) -> Any:
        if self._kind is CompressedImage:
            data = io.BytesIO()
            PIL.fromarray(frame).save(data, "PNG")
            return CompressedImage(format=f"{self.encoding}; png compressed bgr8", data=data.getvalue())
        rows = np.pad(frame.reshape(len(frame), -1), [(0, 0), (0, 16)])
        message = Image(height=frame.shape[0], width=frame.shape[1], encoding=self.encoding, step=rows.shape[1])
        message.data = rows.tobytes()
        return message

    def close(self) -> None:
        self._ended.set()
        self._filming.join()
        super().close()


@contextmanager
def driving(folder: Path, monkeypatch: Any, kind: type = Image) -> Iterator[tuple[Arm, list[Any]]]:
    """The arm, and what the policy was shown."""
    path = folder / "arm.yaml"
    path.write_text(CONTRACT.replace("msg/Image", f"msg/{kind.__name__}"))
    bundle = bundle_in(folder, (PictureSpec("front", *SIZE, 9),), 2)
    seen: list[Any] = []
    act = GuidedPolicy.act

    def noted(self: GuidedPolicy, observation: Any, *given: Any, **more: Any) -> Any:
        if observation["joints"][0] == np.float32(0.1):  # else one of the test vectors
            seen.append(observation)
        return act(self, observation, *given, **more)

    monkeypatch.setattr(GuidedPolicy, "act", noted)
    of = namespace()
    arm = Arm(of, kind)
    try:
        with policy(of, str(bundle), path):
            assert arm.change("configure")
            assert arm.change("activate")
            arm.drives()
            yield arm, seen
    finally:
        arm.close()


def count(picture: Any) -> list[int]:
    """Which frames are in a stack, oldest first."""
    return [int(picture[0, 0, at]) + 256 * int(picture[0, 0, at + 1]) for at in range(0, 9, 3)]


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_frames_are_stacked_at_the_control_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    with driving(tmp_path, monkeypatch, kind) as (arm, shown):
        wait(lambda: len(shown) >= 40, "two seconds of driving")
        seen = list(shown)
        command, observation = arm.commands[-1], seen[-1]
        assert len(command) == 2
        assert command != STOP
        # What is beside the counting pixel is the crop of the scene.
        assert np.array_equal(observation["front"][1:, :, 6:], arm.scene[5:52, 8:72])
        np.testing.assert_allclose(observation["joints"], [0.1, 0.2])
        stacks = [count(one["front"]) for one in seen]
        assert len(set(stacks[0])) == 1, "the first frame is repeated before it"
        follows = [after[:2] == before[1:] for before, after in pairwise(stacks)]
        anew = [len(set(after)) == 1 for after in stacks[1:]]
        assert all(one or other for one, other in zip(follows, anew, strict=True)), stacks
        assert sum(follows) > len(follows) / 2, "a busy machine may pause, but not all the time"
        assert all(sorted(one) == one for one in stacks)
        assert f"{arm.namespace}/camera" in " ".join(arm.diagnostics[-1][1])


def test_what_is_wrong_with_it_stops_the_robot_until_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driving(tmp_path, monkeypatch) as (arm, _):
        assert "front: 64 × 48 pixels × 9" in arm.model[-1]["pictures"]
        scene = arm.scene
        for change, back, words in (
            ({"is_silent": True}, {"is_silent": False}, "stale input: {}/camera is"),
            (
                {"encoding": "yuv422"},
                {"encoding": "rgb8"},
                "{}/camera is encoded as 'yuv422', expected rgb8",
            ),
            (
                {"scene": scene[:40]},
                {"scene": scene},
                "{}/camera is 80 × 40 pixels, expected at least 72 × 52",
            ),
            ({"is_frozen": True}, {"is_frozen": False}, "blind camera: {}/camera shows the same picture for"),
            ({"scene": scene * 0}, {"scene": scene}, "blind camera: {}/camera is of one colour for"),
        ):
            for name, value in change.items():
                setattr(arm, name, value)
            arm.stops()
            said = words.format(arm.namespace)
            wait(lambda said=said: any(said in values.get("cause", "") for _, values in arm.diagnostics), said)
            for name, value in back.items():
                setattr(arm, name, value)
            arm.drives()


def test_what_cannot_be_decoded_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with driving(tmp_path, monkeypatch, CompressedImage) as (arm, _):
        whole = arm._message
        monkeypatch.setattr(arm, "_message", lambda frame: CompressedImage(format="jpeg", data=whole(frame).data[:200]))
        arm.stops()
        assert f"{arm.namespace}/camera cannot be decoded as JPEG or PNG" in arm.told("cannot be decoded")["cause"]
        monkeypatch.setattr(arm, "_message", whole)
        arm.drives()
