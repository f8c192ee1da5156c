"""A car on the wire: cameras and odometry in, ten paths a second out; a camera that falls silent stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from cars import CONTRACT, filled  # noqa: E402
from dipole_policy.command_watchdog import CommandWatchdog  # noqa: E402
from dipole_policy.history import placed  # noqa: E402
from dipole_runtime import GuidedPolicy  # noqa: E402
from geometry_msgs.msg import PoseStamped  # noqa: E402
from graph import ALL, Robot, namespace, policy, spin, wait  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from nav_msgs.msg import Path as Plan  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import LivelinessPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import Image, Imu  # noqa: E402
from std_msgs.msg import Int8  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")

TOPICS = ("left", "front", "right")
POSE = (12.0, -3.0, 0.7)


class Car(Robot):
    """Stands still and looks around."""

    def __init__(self, of: str, height: int, width: int) -> None:
        super().__init__(of)
        self.pictures = np.random.default_rng(3).integers(0, 256, (3, height, width, 3), np.uint8)
        self.pose: Any = POSE
        self.silent_cameras: set[str] = set()
        self.encoding = "rgb8"
        self.plans: list[Plan] = []
        self.node.create_subscription(Plan, "plan", self.plans.append, ALL)
        publish = self.node.create_publisher
        self._cameras = {topic: publish(Image, topic, 1) for topic in TOPICS}
        self._odom, self._imu, self._route = (
            publish(Odometry, "odom", 1),
            publish(Imu, "imu", 1),
            publish(Int8, "route", 1),
        )
        self._driving = threading.Thread(target=self._sense, daemon=True)
        self._driving.start()

    def _sense(self) -> None:
        while not self._ended.wait(0.04):
            stamp = self.node.get_clock().now()
            for topic, pixels in zip(TOPICS, self.pictures, strict=True):
                if topic not in self.silent_cameras:
                    picture = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=self.encoding)
                    picture.step, picture.data = pixels.shape[1] * 3, pixels.tobytes()
                    picture.header.stamp = stamp.to_msg()
                    self._cameras[topic].publish(picture)
            self._odom.publish(filled(Odometry(), self.pose, stamp_ns=stamp.nanoseconds))
            self._imu.publish(Imu())
            self._route.publish(Int8(data=1))

    def close(self) -> None:
        self._ended.set()
        self._driving.join()
        super().close()

    def seen(self) -> dict[str, Any]:
        return {
            "cameras": self.pictures,
            "history": np.zeros((4, 3), np.float32),
            "velocity": np.zeros(2, np.float32),
            "acceleration": np.zeros(2, np.float32),
            "command": 1,
        }

    def expected(self, bundle: Path, omega: float) -> Any:
        """[8, 3] in the odometry's frame."""
        loaded = GuidedPolicy.load(bundle)
        return placed(
            loaded.act(self.seen(), omega, loaded.deterministic_noise()).action.astype(np.float64), np.array(POSE)
        )

    def plans_at(self, expected: Any) -> Callable[[], bool]:
        return lambda: bool(
            self.plans and self.plans[-1].poses and np.abs(_poses(self.plans[-1]) - expected).max() < 2e-3
        )

    def is_stopped(self) -> bool:
        return bool(self.plans) and not self.plans[-1].poses


@contextmanager
def driving(bundle: Path, folder: Path) -> Iterator[Car]:
    """Node and car, under way."""
    path = folder / "car.yaml"
    path.write_text(CONTRACT)
    spec = GuidedPolicy.load(bundle).manifest.plan
    assert spec is not None
    of = namespace()
    car = Car(of, spec.height, spec.width)
    try:
        with policy(of, bundle, path):
            assert car.change("configure")
            assert car.change("activate")
            yield car
    finally:
        car.close()


@pytest.fixture(scope="module")
def plan_bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(form="plan")


def test_paths_come_ten_times_a_second_from_where_the_car_is(plan_bundle: Path, tmp_path: Path) -> None:
    with driving(plan_bundle, tmp_path) as car:
        assert wait(lambda: car.plans, "a stop, until there is a history")[0].poses == []
        assert "expected 1.5 s" in car.told("of history without a jump")["cause"]
        expected = car.expected(plan_bundle, 0.5)
        wait(car.plans_at(expected), "the plan")
        count = len(car.plans)
        wait(lambda: len(car.plans) >= count + 15, "fifteen more")
        some = car.plans[count:]
        begins = np.array([_seconds(plan.header.stamp) for plan in some])
        # The median: a busy machine may pause.
        assert np.median(np.diff(begins)) == pytest.approx(0.1, abs=0.045)
        for plan in some:
            assert plan.header.frame_id == "odom"
            after = [_seconds(pose.header.stamp) - _seconds(plan.header.stamp) for pose in plan.poses]
            assert after == pytest.approx(list(0.5 * np.arange(1, 9)), abs=1e-5)
        assert car.set(omega=2.0).successful
        wait(car.plans_at(car.expected(plan_bundle, 2.0)), "the plan of another ω")
        model = car.model[-1]
        assert (model["policy"], model["cameras"]) == ("plan", "CAM_L0, CAM_F0, CAM_R0: 8 × 6 pixels")
        assert np.isnan(car.driven[-1][3]), "nobody values a plan"
        assert {"age_s.front", "age_s.odom"} <= {key.replace(f"{car.namespace}/", "") for key in car.diagnostics[-1][1]}


def test_what_is_wrong_with_an_input_stops_it_until_it_is_over(plan_bundle: Path, tmp_path: Path) -> None:
    with driving(plan_bundle, tmp_path) as car:
        expected = car.expected(plan_bundle, 0.5)
        wait(car.plans_at(expected), "the plan")
        car.silent_cameras.add("front")
        wait(car.is_stopped, "the stop")
        assert f"stale input: {car.namespace}/front is" in car.told("stale")["cause"]
        car.silent_cameras.clear()
        wait(car.plans_at(expected), "the plan again")
        car.encoding = "32FC1"
        wait(car.is_stopped, "the stop")
        assert "left is encoded as '32FC1', expected rgb8, bgr8, mono8" in car.told("encoded")["cause"]
        car.encoding = "rgb8"
        wait(car.plans_at(expected), "the plan again")
        car.pose = (POSE[0] + 5.0, *POSE[1:])
        wait(car.is_stopped, "the stop of a jump")
        assert "of history without a jump, expected 1.5 s" in car.told("history")["cause"]
        wait(car.plans_at(expected + np.array([5.0, 0.0, 0.0])), "a plan from there")
        count = len(car.plans)
        assert car.change("deactivate")
        wait(lambda: len(car.plans) > count and car.is_stopped(), "the stop as the last")


@pytest.mark.skipif(find_spec("transformers") is None, reason="the extra 'driving' is not installed")
def test_an_exported_agent_drives(tmp_path: Path) -> None:
    from driving_agents import exported

    _, bundle = exported()
    with driving(bundle, tmp_path) as car:
        wait(car.plans_at(car.expected(bundle, 0.5)), "the agent's plan")
        count = len(car.plans)
        wait(lambda: sum(bool(plan.poses) for plan in car.plans[count:]) >= 10, "ten more")
        car.silent_cameras.add("right")
        wait(car.is_stopped, "the stop")
        assert f"stale input: {car.namespace}/right is" in car.told("stale")["cause"]


def test_the_watchdog_beside_it_sends_an_empty_path(tmp_path: Path) -> None:
    """When paths stay away, whoever published them."""
    (tmp_path / "car.yaml").write_text(CONTRACT)
    of, heard, ended = namespace(), [], threading.Event()
    watchdog = CommandWatchdog(
        namespace=of,
        parameter_overrides=[
            Parameter("contract", value=str(tmp_path / "car.yaml")),
            Parameter("deadline_s", value=1.0),
        ],
    )
    node = rclpy.create_node("planner", namespace=of)
    node.create_subscription(Plan, "plan", heard.append, ALL)
    half = Duration(seconds=0.5)
    offered = QoSProfile(depth=1, deadline=half, liveliness=LivelinessPolicy.AUTOMATIC, liveliness_lease_duration=half)
    publisher = node.create_publisher(Plan, "plan", offered)
    executor = SingleThreadedExecutor()
    for one in (watchdog, node):
        executor.add_node(one)
    thread = threading.Thread(target=spin, args=(executor, ended))
    thread.start()
    try:
        path = Plan(poses=[PoseStamped()])
        path.header.frame_id = "odom"

        def published() -> bool:
            publisher.publish(path)
            return watchdog._watched[0].is_alive is True

        wait(published, "a path that the watchdog hears")
        wait(lambda: any(not plan.poses for plan in heard), "the stop")
        assert {plan.header.frame_id for plan in heard} == {"odom"}
    finally:
        ended.set()
        thread.join()
        executor.shutdown(timeout_sec=5.0)
        for one in (watchdog, node):
            one.destroy_node()


def _seconds(stamp: Any) -> float:
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def _poses(plan: Plan) -> Any:
    return np.array(
        [
            (one.pose.position.x, one.pose.position.y, 2 * np.arctan2(one.pose.orientation.z, one.pose.orientation.w))
            for one in plan.poses
        ]
    )
