"""The whole chain: a bundle drives Gymnasium's arm over ROS, and gets the return that it gets without ROS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "disable")
rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
pytest.importorskip("mujoco", reason="mujoco is not installed")

from dipole_policy.simulated_arm import SimulatedArm  # noqa: E402
from dipole_runtime import GuidedPolicy  # noqa: E402
from graph import Robot, namespace, policy, robot, spin, wait  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")
CONTRACT = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy/contracts/simulated_arm.yaml"


@pytest.fixture
def arm_contract(tmp_path: Path) -> Path:
    """The shipped one, with time for a machine that is busy."""
    path = tmp_path / "arm.yaml"
    text = CONTRACT.read_text().replace("max_age_s: 0.1", "max_age_s: 1.0")
    path.write_text(text.replace("deadline_s: 0.2", "deadline_s: 1.0"))
    return path


@contextmanager
def arm(of: str, **parameters: Any) -> Iterator[SimulatedArm]:
    node = SimulatedArm(
        namespace=of, parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()]
    )
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = threading.Event()
    thread = threading.Thread(target=spin, args=(executor, ended), daemon=True)
    thread.start()
    try:
        yield node
    finally:
        ended.set()
        thread.join()
        executor.shutdown(timeout_sec=5.0)
        node.destroy_node()


@contextmanager
def chain(
    bundle: Path, contract: Path, simulated: bool, **parameters: Any
) -> Iterator[tuple[Any, SimulatedArm, Robot]]:
    of = namespace()
    with (
        robot(of) as found,
        policy(of, bundle, contract, use_sim_time=simulated, max_stall_s=0.0) as node,
        arm(of, simulated_time=simulated, episode_steps=20, command_timeout_s=2.0) as moving,
    ):
        found.speaks_joints = found.speaks_speed = False
        assert found.change("configure")
        assert found.change("activate")
        yield node, moving, found


def without_ros(bundle: Path, start: tuple[Any, Any], omega: float) -> float:
    """The return of an episode of 20 steps from this start."""
    loaded, environment = GuidedPolicy.load(bundle), gymnasium.make("Reacher-v5")
    environment.reset(seed=0)
    environment.unwrapped.set_state(*start)
    observation, total = environment.unwrapped._get_obs(), 0.0
    for _ in range(20):
        action = loaded.act(observation.astype(np.float32), omega, loaded.deterministic_noise()).action
        observation, reward, *_ = environment.step(np.clip(action, -1.0, 1.0))
        total += float(reward)
    return total


def test_the_return_is_the_same_as_without_ros(make_bundle: Callable[..., Path], arm_contract: Path):
    bundle = make_bundle(observation=10)
    with chain(bundle, arm_contract, simulated=True) as (node, moving, found):
        wait(lambda: node.session.loop.supervisor.state.value == "driving", "the drive")
        first = len(moving.starts)
        wait(lambda: len(moving.returns) > first, "an episode", 60.0)
        assert moving.returns[first] == pytest.approx(without_ros(bundle, moving.starts[first], 0.5), abs=1e-4)
        assert found.set(omega=4.0).successful
        second = len(moving.starts)
        wait(lambda: len(moving.returns) > second, "another episode", 60.0)
        assert moving.returns[second] == pytest.approx(without_ros(bundle, moving.starts[second], 4.0), abs=1e-4)
        different = without_ros(bundle, moving.starts[second], 0.5)
        assert moving.returns[second] != pytest.approx(different, abs=1e-4), "ω makes a difference"
        faults = node.session.loop.statistics.faults()
        assert faults.keys() <= {"missing input", "clock"}, "those of the start"


def test_the_arm_moves_in_wall_time(make_bundle: Callable[..., Path], arm_contract: Path):
    with chain(make_bundle(observation=10), arm_contract, simulated=False) as (_, moving, found):
        wait(lambda: len(moving.returns) >= 2, "two episodes", 60.0)
        found.told("driving")
        assert found.change("deactivate")
        time.sleep(0.2)
        np.testing.assert_array_equal(moving._efforts, 0.0)
