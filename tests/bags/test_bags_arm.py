"""The docs' example: a simulated arm over real DDS, recorded, is what Gymnasium's environment was."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export.bags.conversion import BagOptions, recording_of_bag
from rosbags.rosbag2 import StoragePlugin, Writer
from written_bags import STORE

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ros2_ws/src/dipole_policy"))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
os.environ.setdefault("ROS_DOMAIN_ID", str(20 + os.getpid() % 80))

for module in ("rclpy", "std_srvs", "mujoco"):
    pytest.importorskip(module, reason=f"{module} is not installed: see the extra 'ros' or your ROS distribution")
import gymnasium  # noqa: E402
import rclpy  # noqa: E402

REWARD = "-hypot(next_observation[8], next_observation[9]) - action[0]**2 - action[1]**2"
STEPS = 130


class Noted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what Gymnasium said of every step."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("Reacher-v5", max_episode_steps=50))
        self.rows: list[tuple[np.ndarray, np.ndarray, float, np.ndarray]] = []

    def reset(self, **more: Any) -> Any:
        self._seen, info = self.env.reset(**more)
        return self._seen, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.rows.append((self._seen, np.array(action), float(result[1]), result[0]))
        self._seen = result[0]
        return result


def record(path: Path, noted: Noted) -> None:
    """Random efforts at every tick of the simulated time, and everything that is said as a recording."""
    from dipole_policy.session import COMMAND, REPORT
    from dipole_policy.simulated_arm import SimulatedArm
    from geometry_msgs.msg import PointStamped, Vector3Stamped
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.serialization import serialize_message
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Float64, Float64MultiArray

    # A wait of 5 s for the command: on a busy machine the arm must not step without one.
    overrides = [Parameter("simulated_time", value=True), Parameter("command_timeout_s", value=5.0)]
    arm = SimulatedArm(noted, parameter_overrides=overrides)
    robot = rclpy.create_node("recorder")
    random = np.random.default_rng(5)
    lock = threading.Lock()
    efforts = robot.create_publisher(Float64MultiArray, "effort_controller/commands", COMMAND)
    topics: dict[str, tuple[type, str, Any]] = {
        "/joint_states": (JointState, "sensor_msgs/msg/JointState", COMMAND),
        "/target": (PointStamped, "geometry_msgs/msg/PointStamped", COMMAND),
        "/fingertip_to_target": (Vector3Stamped, "geometry_msgs/msg/Vector3Stamped", COMMAND),
        "/simulated_arm/return": (Float64, "std_msgs/msg/Float64", REPORT),
        "/clock": (Clock, "rosgraph_msgs/msg/Clock", COMMAND),
    }
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(topic, name, typestore=STORE) for topic, (_, name, _) in topics.items()
        }
        answers = writer.add_connection(
            "/effort_controller/commands", "std_msgs/msg/Float64MultiArray", typestore=STORE
        )

        def answer() -> None:
            # Noted as it is sent: rclpy may hand a listener what came of it first.
            command = Float64MultiArray(data=random.uniform(-1, 1, 2).tolist())
            with lock:
                writer.write(answers, time.time_ns(), serialize_message(command))
            efforts.publish(command)

        def listener(topic: str) -> Any:
            def hear(data: bytes) -> None:
                with lock:
                    writer.write(connections[topic], time.time_ns(), data)
                if topic == "/clock":
                    answer()

            return hear

        for topic, (kind, _, profile) in topics.items():
            robot.create_subscription(kind, topic, listener(topic), profile, raw=True)
        executors = [SingleThreadedExecutor(), SingleThreadedExecutor()]
        for executor, node in zip(executors, (arm, robot), strict=True):
            executor.add_node(node)
        is_over = threading.Event()

        def spin(executor: SingleThreadedExecutor) -> None:
            while not is_over.is_set():
                executor.spin_once(timeout_sec=0.1)

        threads = [threading.Thread(target=spin, args=(executor,), daemon=True) for executor in executors]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60.0
        while len(noted.rows) < STEPS and time.monotonic() < end:
            time.sleep(0.01)
        is_over.set()
        for executor, thread in zip(executors, threads, strict=True):
            thread.join()
            executor.shutdown(timeout_sec=5.0)
        arm.destroy_node()
        robot.destroy_node()


def test_a_recorded_arm_is_what_gymnasium_says(tmp_path: Path) -> None:
    noted = Noted()
    rclpy.init()
    try:
        record(tmp_path / "arm", noted)
    finally:
        rclpy.try_shutdown()
    assert len(noted.rows) >= STEPS
    contract = ROOT / "ros2_ws/src/dipole_policy/contracts/simulated_arm.yaml"
    recording = recording_of_bag(
        tmp_path / "arm", contract, BagOptions(REWARD, set_back="/simulated_arm/return", use_sim_time=True)
    )
    arrays = recording.arrays
    # Each of the two resets costs its own step, and one more where the recorder heard of it late.
    assert STEPS - 8 <= len(arrays["rewards"]) <= len(noted.rows)
    assert recording.provenance["episode_ends"]["set back"] == 2
    by_action = {row[1].astype(np.float32).tobytes(): row for row in noted.rows}
    for index, action in enumerate(arrays["actions"]):
        seen, _, reward, following = by_action[action.tobytes()]
        np.testing.assert_allclose(arrays["observations"][index], seen, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(arrays["next_observations"][index], following, rtol=1e-6, atol=1e-7)
        assert arrays["rewards"][index] == pytest.approx(reward, rel=1e-5)
