"""Plans without ROS: pictures and past poses in, paths and trajectories out, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cars import AUTOWARE, CONTRACT, filled, image
from dipole_policy.cli import checked
from dipole_policy.command_watchdog import stopped
from dipole_policy.errors import ContractError, InputError, Kind
from dipole_policy.history import history, placed, unbroken
from dipole_policy.holder import Fitting, PolicyOptions
from dipole_policy.images import pixels
from dipole_policy.observation import Inputs
from dipole_policy.plan import PlanWriter
from robots import contract, describe, make, replaced
from small_plans import HEIGHT, WIDTH, SmallPlanner

NS = 1_000_000_000
AGO = 0.1 * np.arange(-20, 1)
"""Seconds of odometry at 10 Hz."""


@pytest.fixture(scope="module")
def plan_bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(form="plan")


def circle(seconds: Any, speed: float = 10.0, rate: float = 0.2, start: Any = (100.0, -50.0, 3.0)) -> Any:
    """Poses of a car that drives in a circle, closed form; headings wrapped."""
    yaw = rate * np.asarray(seconds)
    radius = speed / rate
    own = np.stack([radius * np.sin(yaw), radius * (1 - np.cos(yaw)), yaw], axis=1)
    return placed(own, np.array(start))


class TestHistory:
    def test_a_circle_looks_the_same_from_everywhere(self) -> None:
        """Also where the heading passes ±π, and between the poses."""
        expected = circle(np.array([-1.5, -1.0, -0.5, 0.0]), start=(0.0, 0.0, 0.0))
        for start in ((0.0, 0.0, 0.0), (100.0, -50.0, 3.13), (-7.0, 3.0, -3.13)):
            found = history(list(AGO), circle(AGO, start=start))
            assert found is not None
            # Straight lines between poses 0.1 s apart are off by v·rate·dt²/8.
            np.testing.assert_allclose(found, expected, atol=0.004)
            assert (found[-1] == 0.0).all()
        odd = AGO * 0.93
        np.testing.assert_allclose(history(list(odd), circle(odd)), expected, atol=0.004)

    def test_too_short(self) -> None:
        assert history(list(AGO[6:]), circle(AGO[6:])) is None
        assert history(list(AGO[5:]), circle(AGO[5:])) is not None

    def test_a_smooth_drive_has_no_break(self) -> None:
        seconds = np.cumsum(np.random.default_rng(0).uniform(0.04, 0.2, 30))
        assert unbroken(list(seconds), circle(seconds, speed=20.0, rate=0.4)) == 0
        standing = np.random.default_rng(1).normal(0, 0.02, (21, 3))
        assert unbroken(list(AGO), standing) == 0

    @pytest.mark.parametrize("jump", [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)])
    def test_a_jump_begins_it_anew(self, jump: Any) -> None:
        poses = circle(AGO)
        poses[8:] += jump
        assert unbroken(list(AGO), poses) == 8

    def test_gaps_and_times_that_do_not_grow(self) -> None:
        poses = circle(AGO, speed=2.0)
        assert unbroken([*AGO[:8], *(AGO[8:] + 0.45)], poses) == 8
        assert unbroken([*(AGO[:8] + 5.0), *AGO[8:]], poses) == 8
        assert unbroken([*AGO[:8], AGO[7], *AGO[9:]], poses) == 8

    def test_placed_is_the_way_back(self) -> None:
        poses = circle(AGO)
        found = history(list(AGO), poses)
        assert found is not None
        np.testing.assert_allclose(placed(found, poses[-1])[0], poses[5], atol=1e-9)


class TestPictures:
    PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)

    @pytest.mark.parametrize("padding", [0, 5])
    def test_encodings(self, padding: int) -> None:
        assert np.array_equal(pixels("/c", image(self.PIXELS, "rgb8", padding)), self.PIXELS)
        assert np.array_equal(pixels("/c", image(self.PIXELS[:, :, ::-1], "bgr8", padding)), self.PIXELS)
        grey = pixels("/c", image(self.PIXELS[:, :, 0], "mono8", padding))
        assert np.array_equal(grey, self.PIXELS[:, :, :1])

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"encoding": "yuv422"}, "/c is encoded as 'yuv422', expected rgb8, bgr8, mono8"),
            ({"height": HEIGHT + 1}, "/c has 144 bytes in rows of 24, expected 7 rows of at least 24 bytes (8 × 7"),
            ({"step": WIDTH * 3 - 1}, "in rows of 23"),
            ({"data": b""}, "/c has 0 bytes"),
        ],
        ids=str,
    )
    def test_what_is_no_picture(self, changes: dict[str, Any], words: str) -> None:
        message = SimpleNamespace(**{**vars(image(self.PIXELS)), **changes})
        with pytest.raises(InputError) as raised:
            pixels("/c", message)
        assert words in raised.value.cause.detail
        assert raised.value.cause.kind is Kind.WRONG_SIZE


class Car:
    """Inputs of the contract, filled by the test, and what the bundle makes of them."""

    def __init__(self, bundle: Path, text: str = CONTRACT) -> None:
        self.fitting = Fitting(contract(text), describe, PolicyOptions())
        self.loaded = self.fitting.load(str(bundle))
        self.inputs = Inputs(self.fitting.input_readers)
        self.pictures = np.random.default_rng(2).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
        self.now_ns = 100 * NS

    def hear(self, pose: Any, velocity: Any = (0.0, 0.0), stamp_ns: int | None = None) -> None:
        for topic, seen in zip(("left", "front", "right"), self.pictures, strict=True):
            self.inputs.receive(topic, image(seen), self.now_ns)
        odometry = filled(make("nav_msgs/msg/Odometry"), pose, velocity, stamp_ns or self.now_ns)
        self.inputs.receive("odom", odometry, self.now_ns)
        imu, route = make("sensor_msgs/msg/Imu"), make("std_msgs/msg/Int8")
        imu.linear_acceleration.x, imu.linear_acceleration.y, route.data = 0.5, -0.25, 2
        self.inputs.receive("imu", imu, self.now_ns)
        self.inputs.receive("route", route, self.now_ns)

    def drive(self, poses: Any, velocity: Any = (0.0, 0.0)) -> None:
        """At 10 Hz."""
        for pose in poses:
            self.now_ns += NS // 10
            self.hear(pose, velocity)

    def observation(self) -> dict[str, Any]:
        found: Any = self.loaded.layout.build(self.inputs.snapshot(), self.now_ns)
        return dict(found)

    def refusal(self) -> Any:
        with pytest.raises(InputError) as raised:
            self.observation()
        return raised.value.cause

    def plan(self) -> Any:
        """[24], of the default ω."""
        (found,) = self.loaded.decide(self.observation(), 0.5)
        return self.loaded.limits.apply(found.action, np.full(24, np.nan))

    @property
    def writer(self) -> PlanWriter:
        (writer,) = self.loaded.writers
        assert isinstance(writer, PlanWriter)
        return writer


class TestObservation:
    def test_everything_has_its_place(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        car.drive(circle(AGO), velocity=(10.0, 0.1))
        found = car.observation()
        assert np.array_equal(found["cameras"], car.pictures)
        np.testing.assert_allclose(found["history"], circle(np.array([-1.5, -1, -0.5, 0]), start=(0, 0, 0)), atol=0.004)
        assert found["velocity"].tolist() == pytest.approx([10.0, 0.1])
        assert found["acceleration"].tolist() == [0.5, -0.25]
        assert float(found["command"]) == 2
        policy = car.loaded.policy
        expected = SmallPlanner().of(found, policy.deterministic_noise(), 0.5)
        np.testing.assert_allclose(car.plan().reshape(8, 3), expected, atol=1e-4)

    def test_not_ready_before_there_is_a_history(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        car.drive(circle(AGO[-15:]))
        cause = car.refusal()
        assert (cause.kind, cause.detail) == (
            Kind.MISSING,
            "odom has 1.40 s of history without a jump, expected 1.5 s",
        )
        car.drive(circle(np.array([0.1])))
        car.observation()

    def test_a_jump_begins_it_anew(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        car.drive(circle(AGO))
        car.observation()
        car.drive(circle(AGO[:3], start=(0.0, 0.0, 0.0)))
        assert car.refusal().detail.startswith("odom has 0.20 s of history")

    def test_a_jump_of_the_clock_begins_it_anew(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        car.drive(circle(AGO))
        car.inputs.forget(car.now_ns)
        car.drive(circle(AGO[:2]))
        assert car.refusal().detail.startswith("odom has 0.10 s of history")
        car.drive(circle(AGO[2:]))
        car.observation()

    def test_fast_odometry_is_thinned_out(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        for seconds in np.arange(0.0, 4.0, 0.005):
            car.now_ns = 100 * NS + round(seconds * NS)
            car.hear(circle(np.array([seconds]))[0])
        assert 35 <= len(car.inputs.snapshot()["odom"].past) <= 60
        np.testing.assert_allclose(
            car.observation()["history"], circle(np.array([-1.5, -1, -0.5, 0]), start=(0, 0, 0)), atol=0.004
        )

    def test_what_stops_the_car(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        car.drive(circle(AGO))
        front = car.inputs.snapshot()["front"].message
        for name, value, kind, words in (
            ("encoding", "yuv422", Kind.WRONG_SIZE, "front is encoded as 'yuv422'"),
            ("height", 3, Kind.WRONG_SIZE, "front has 144 bytes in rows of 24"),
        ):
            car.inputs.receive("front", SimpleNamespace(**{**vars(front), name: value}), car.now_ns)
            assert (car.refusal().kind, words in car.refusal().detail) == (kind, True)
        car.inputs.receive("front", image(np.zeros((HEIGHT, WIDTH + 1, 3))), car.now_ns)
        assert car.refusal().detail == "front is 9 × 6 pixels, expected the bundle's 8 × 6"
        car.hear(circle(AGO)[-1])
        car.now_ns += NS
        assert (car.refusal().kind, car.refusal().detail) == (Kind.STALE, "left is 1.000 s old, expected at most 0.6 s")
        car = Car(plan_bundle)
        car.drive(circle(AGO))
        car.inputs.snapshot()["odom"].message.header.frame_id = ""
        assert "does not name its frames" in car.refusal().detail
        car.inputs.snapshot()["odom"].message.pose.pose.position.x = float("nan")
        assert car.refusal().kind is Kind.NON_FINITE


class TestPaths:
    @pytest.mark.parametrize("frame", ["odometry", "base"])
    def test_a_plan(self, plan_bundle: Path, frame: str) -> None:
        car = Car(plan_bundle, replaced("frame: odometry", f"frame: {frame}", CONTRACT))
        poses = circle(AGO)
        car.drive(poses)
        plan = car.plan()
        car.now_ns += NS // 20
        path = car.writer.message(plan, make, None)
        begins = car.now_ns - NS // 20
        expected = plan.reshape(8, 3) if frame == "base" else placed(plan.reshape(8, 3), poses[-1])
        assert path.header.frame_id == ("odom" if frame == "odometry" else "base_link")
        assert _stamp(path.header) == begins
        for index, (found, pose) in enumerate(zip(path.poses, expected, strict=True)):
            assert _stamp(found.header) == begins + (index + 1) * NS // 2
            assert found.header.frame_id == path.header.frame_id
            np.testing.assert_allclose(_pose(found.pose), pose, atol=1e-9)

    def test_a_stop_is_empty(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle)
        assert car.writer.message(np.full(24, np.nan), make, None).poses == []
        car.drive(circle(AGO))
        car.writer.message(car.plan(), make, None)
        stamp = SimpleNamespace(sec=7, nanosec=8)
        path = car.writer.message(np.full(24, np.nan), make, stamp)
        assert (path.poses, path.header.frame_id, path.header.stamp) == ([], "odom", stamp)
        assert stopped(car.writer.message(car.plan(), make, None)).poses == []


class TestTrajectories:
    def test_speeds_follow_from_the_poses(self, plan_bundle: Path) -> None:
        car = Car(plan_bundle, AUTOWARE)
        car.drive(circle(AGO))
        car.observation()
        ahead = circle(0.5 * np.arange(1, 9), speed=10.0, rate=0.2, start=(0, 0, 0))
        trajectory = car.writer.message(ahead.reshape(-1), make, None)
        assert len(trajectory.points) == 9
        np.testing.assert_allclose(_pose(trajectory.points[0].pose), circle(AGO)[-1], atol=1e-9)
        np.testing.assert_allclose(_pose(trajectory.points[-1].pose), circle(np.array([4.0]))[0], atol=1e-6)
        for index, point in enumerate(trajectory.points):
            assert (point.time_from_start.sec, point.time_from_start.nanosec) == divmod(index * NS // 2, NS)
            # A chord is shorter than its arc by 1 − (rate·dt)²/24.
            assert point.longitudinal_velocity_mps == pytest.approx(10.0, abs=0.01)
            assert point.heading_rate_rps == pytest.approx(0.2)
            assert point.acceleration_mps2 == pytest.approx(0.0, abs=0.01)
        braking = np.stack([8.0 * (t := 0.5 * np.arange(1, 9)) - t**2, 0 * t, 0 * t], axis=1)
        points = car.writer.message(braking.reshape(-1), make, None).points
        assert [point.longitudinal_velocity_mps for point in points[1:8]] == pytest.approx(list(8.0 - 2 * t[:7]))
        assert [point.acceleration_mps2 for point in points[2:7]] == pytest.approx([-2.0] * 5)

    def test_a_stop_is_the_last_one_without_speed(self, plan_bundle: Path) -> None:
        """Autoware's controllers ignore an empty trajectory, and would go on along the last one."""
        car = Car(plan_bundle, AUTOWARE)
        assert car.writer.message(np.full(24, np.nan), make, None) is None, "nothing was sent that could be followed"
        car.drive(circle(AGO))
        sent = car.writer.message(car.plan(), make, None)
        assert any(point.longitudinal_velocity_mps for point in sent.points)
        # Whichever bundle drives meanwhile.
        again = car.fitting.load(str(plan_bundle))
        stop = again.writers[0].message(np.full(24, np.nan), make, None)
        for stands in (stop, stopped(sent)):
            assert len(stands.points) == 9
            for point, before in zip(stands.points, sent.points, strict=True):
                assert _pose(point.pose) == _pose(before.pose)
                assert point.longitudinal_velocity_mps == point.acceleration_mps2 == point.heading_rate_rps == 0.0


class TestContracts:
    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("on_stop: empty", "on_stop: zero", "on_stop is 'zero', expected empty, none"),
            ("on_stop: empty", "on_stop: hold", "expected empty, none"),
            ("frame: odometry", "frame: map", "frame is 'map', expected odometry, base"),
            ("frame: odometry, ", "", "has no frame"),
            ("on_stop: empty", "on_stop: empty, max_rate: [1.0]", "unknown key 'max_rate'"),
            ("elements: [CAM_L0], ", "elements: [CAM_L0], field: data, ", "unknown key 'field'"),
            ("type: sensor_msgs/msg/Image, key: cameras, elements: [CAM_L0]", "type: sensor_msgs/msg/Image", "no key"),
            ("field: data, key: command", "field: data, key: command, function: history", "expected nav_msgs/msg/Odom"),
        ],
        ids=str,
    )
    def test_what_is_no_contract(self, old: str, new: str, words: str) -> None:
        with pytest.raises(ContractError, match=words):
            contract(replaced(old, new, CONTRACT))

    def test_autowares_stop_stands(self) -> None:
        with pytest.raises(ContractError, match="on_stop is 'empty', expected stand, none"):
            contract(replaced("on_stop: stand", "on_stop: empty", AUTOWARE))

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("elements: [CAM_L0]", "elements: [CAM_F0]", "left is to give CAM_F0, but the bundle has CAM_L0"),
            ("key: cameras, elements: [CAM_R0]", "key: views", "expected 'cameras'"),
            (
                "  - {topic: left, type: sensor_msgs/msg/Image, key: cameras, elements: [CAM_L0], max_age_s: 0.6}\n",
                "",
                "observation has 2 pictures, expected 3, of the bundle's cameras CAM_L0, CAM_F0, CAM_R0",
            ),
            ("fields: [twist.twist.linear.x, twist.twist.linear.y]", "field: twist.twist.linear.x", "has 1 = 1 elem"),
            (", function: history", ", field: pose.pose.position", "expected an observation with function: history"),
            (
                "{topic: plan, type: nav_msgs/msg/Path, frame: odometry, on_stop: empty}",
                "{topic: plan, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}",
                "expected nav_msgs/msg/Path or autoware_planning_msgs/msg/Trajectory: the bundle holds plans",
            ),
        ],
    )
    def test_what_does_not_fit_the_bundle(self, plan_bundle: Path, old: str, new: str, words: str) -> None:
        with pytest.raises(ContractError, match=words):
            Car(plan_bundle, replaced(old, new, CONTRACT))

    def test_plans_and_pictures_of_other_bundles(self, bundle: Path) -> None:
        with pytest.raises(ContractError, match="which takes plans: only plan bundles hold such"):
            Car(bundle)
        array = "{topic: plan, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}"
        with pytest.raises(ContractError, match="gives pictures, of which the bundle takes none"):
            Car(
                bundle,
                replaced("{topic: plan, type: nav_msgs/msg/Path, frame: odometry, on_stop: empty}", array, CONTRACT),
            )

    def test_check(self, plan_bundle: Path, tmp_path: Path) -> None:
        path = tmp_path / "car.yaml"
        path.write_text(CONTRACT)
        lines = checked(str(path), str(plan_bundle))
        assert "  left sensor_msgs/msg/Image → cameras, a picture of 8 × 6 pixels" in lines
        assert any("history(pose.pose.position.x" in line and "12 elements: history_0" in line for line in lines)
        assert "action: plan nav_msgs/msg/Path in the frame of odometry; on stop: empty" in lines
        assert "  x_0.5s: -20 to 20" in lines
        checked(str(path), None)


def _stamp(header: Any) -> int:
    return int(header.stamp.sec) * NS + int(header.stamp.nanosec)


def _pose(pose: Any) -> tuple[float, float, float]:
    return pose.position.x, pose.position.y, 2 * float(np.arctan2(pose.orientation.z, pose.orientation.w))
