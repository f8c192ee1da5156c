"""A robot for tests and demos: Gymnasium's two-joint Reacher arm behind ROS topics, as a real arm would have."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped, Vector3Stamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.time import Time
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Float64MultiArray

from dipole_policy import small_node
from dipole_policy.errors import one_line
from dipole_policy.session import COMMAND, REPORT

JOINTS = ("joint0", "joint1")
_SETTLE_S = 0.003
_POLL_S = 0.001


class SimulatedArm(Node):  # type: ignore[misc]  # rclpy is not typed
    """Publishes joints and target, receives efforts, sums the reward of every episode.

    In real time the arm moves by itself, 50 times a second, as robots do. In simulated time it publishes /clock and
    waits for a command before each step, so a run can be repeated whatever the load of the machine.

    :param environment: an existing Gymnasium Reacher; None: Reacher-v5.
    :raises RuntimeError: Gymnasium or MuJoCo is not installed.
    """

    def __init__(self, environment: Any = None, **kwargs: Any) -> None:
        super().__init__("simulated_arm", **kwargs)

        def given(name: str, default: Any, description: str) -> Any:
            descriptor = ParameterDescriptor(description=description, read_only=True)
            return self.declare_parameter(name, default, descriptor).value

        seed = given("seed", 0, "Of the targets and the starting positions.")
        targets = given("targets", 0, "After so many episodes the targets come again in the same order; 0: never.")
        steps = given("episode_steps", 50, "Steps of 0.02 s after which the arm starts anew.")
        self._simulated = given("simulated_time", False, "Publish /clock, and wait for a command before each step.")
        self._timeout_s = given("command_timeout_s", 0.2, "Seconds of the wall after which a command no longer counts.")
        size = given("camera_size", 0, "Pixels of a side of what its camera publishes; 0: it has none.")
        self._environment = _make_environment(steps, size) if environment is None else environment
        self._arm = self._environment.unwrapped
        self._seed, self._targets = seed, targets
        self._efforts = np.zeros(2, np.float32)
        self._heard_at = -math.inf
        self._heard = 0
        self._answered = 0
        self._phase_began = 0.0
        self._phase = self._show
        self._now_ns = 0
        self._return = 0.0
        self.returns: list[float] = []
        """Of the episodes that are over."""
        self.starts: list[tuple[Any, Any]] = []
        """Positions and velocities that episodes began with."""
        self._joints = self.create_publisher(JointState, "joint_states", COMMAND)
        self._target = self.create_publisher(PointStamped, "target", COMMAND)
        self._remaining = self.create_publisher(Vector3Stamped, "fingertip_to_target", COMMAND)
        self._camera = self.create_publisher(Image, "camera/image_raw", COMMAND) if size else None
        self._distance_topic = self.create_publisher(Float64, "~/distance", REPORT)
        self._return_topic = self.create_publisher(Float64, "~/return", REPORT)
        self.create_subscription(Float64MultiArray, "effort_controller/commands", self._on_efforts, COMMAND)
        if self._simulated:
            self._clock_topic = self.create_publisher(ClockMessage, "/clock", COMMAND)
        self._environment.reset(seed=seed)
        self._begin_episode()
        period = _POLL_S if self._simulated else float(self._arm.dt)
        self.create_timer(period, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_efforts(self, message: Float64MultiArray) -> None:
        if len(message.data) != 2 or not np.isfinite(message.data).all():
            self.get_logger().error(f"efforts are {one_line(list(message.data))}, expected 2 finite numbers")
            return
        # A motor limits its effort, whatever the command.
        self._efforts = np.clip(np.array(message.data, np.float32), -1.0, 1.0)
        self._heard_at = monotonic()
        self._heard += 1

    def _tick(self) -> None:
        if self._simulated:
            self._phase()
        else:
            self._step()
            self._publish()

    def _show(self) -> None:
        """In simulated time: publishes the observation before the clock, so that it has arrived when the node acts."""
        self._now_ns += round(float(self._arm.dt) * 1e9)
        self._publish()
        self._phase, self._phase_began = self._turn_clock, monotonic()

    def _turn_clock(self) -> None:
        if monotonic() - self._phase_began < _SETTLE_S:
            return
        self._answered = self._heard
        self._clock_topic.publish(ClockMessage(clock=self._stamp()))
        self._phase, self._phase_began = self._await_command, monotonic()

    def _await_command(self) -> None:
        if self._heard == self._answered and monotonic() - self._phase_began < self._timeout_s:
            return
        self._step()
        self._phase = self._show
        self._show()

    def _step(self) -> None:
        # The robot's own watchdog: a command that is not renewed is dropped.
        is_fresh = monotonic() - self._heard_at <= self._timeout_s
        _, reward, terminated, truncated, _ = self._environment.step(
            self._efforts if is_fresh else np.zeros(2, np.float32)
        )
        self._return += float(reward)
        if terminated or truncated:
            self.returns.append(self._return)
            self._return_topic.publish(Float64(data=self._return))
            self.get_logger().info(f"episode {len(self.returns)}: return {self._return:.3f}")
            number = len(self.returns)
            self._environment.reset(seed=self._seed + number % self._targets if self._targets > 0 else None)
            self._begin_episode()

    def _begin_episode(self) -> None:
        self._return = 0.0
        self.starts.append((self._arm.data.qpos.copy(), self._arm.data.qvel.copy()))

    def _stamp(self) -> Any:
        return Time(nanoseconds=self._now_ns).to_msg() if self._simulated else self.get_clock().now().to_msg()

    def _publish(self) -> None:
        stamp, data = self._stamp(), self._arm.data
        joints = JointState(name=list(JOINTS), position=data.qpos[:2].tolist(), velocity=data.qvel[:2].tolist())
        target, remaining = PointStamped(), Vector3Stamped()
        target.point.x, target.point.y = data.qpos[2:4].tolist()
        difference = self._arm.get_body_com("fingertip") - self._arm.get_body_com("target")
        remaining.vector.x, remaining.vector.y = difference[:2].tolist()
        for message in (joints, target, remaining):
            message.header.stamp = stamp
        if self._camera is not None:
            picture = self._arm.render()
            height, width, _ = picture.shape
            image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
            image.data = picture.tobytes()
            image.header.stamp = stamp
            self._camera.publish(image)
        self._joints.publish(joints)
        self._target.publish(target)
        self._remaining.publish(remaining)
        self._distance_topic.publish(Float64(data=float(np.linalg.norm(difference))))


def _make_environment(steps: int, size: int) -> Any:
    try:
        import gymnasium

        if size:
            from dipole_policy.camera_arm import make_reacher

            return make_reacher(size, steps)
        return gymnasium.make("Reacher-v5", max_episode_steps=steps)
    except Exception as error:
        raise RuntimeError(f"Reacher-v5 cannot be made ({one_line(error)}): pip install 'gymnasium[mujoco]'") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the arm until a signal ends it."""
    return small_node.run(SimulatedArm, RuntimeError, arguments)


if __name__ == "__main__":
    sys.exit(main())
