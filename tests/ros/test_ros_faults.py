"""Whatever fails, the stop action is what goes over the wire."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from graph import CONTRACT, STOP, Robot, action, driving, pair, wait  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")


# ---- faults


def broken(found: Robot, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(found, name, value)


@pytest.mark.parametrize(
    ("fault", "repair", "cause"),
    [
        ({"speaks_speed": False}, {"speaks_speed": True}, "stale input: {}/speed is"),
        ({"speed": float("nan")}, {"speed": 0.3}, "non-finite input: {}/speed gives nan"),
        ({"position": [float("inf"), 0.2]}, {"position": [0.1, 0.2]}, "non-finite input: {}/joint_states gives inf"),
        ({"position": [0.1]}, {"position": [0.1, 0.2]}, "wrongly sized input: {}/joint_states has 1 elements"),
        (
            {"names": ["elbow", "finger"]},
            {"names": ["elbow", "wrist"]},
            "wrongly sized input: {}/joint_states has no 'wrist'",
        ),
    ],
)
def test_inputs_that_fail_stop_the_robot_until_they_are_well(
    bundle: Path, contract: Path, fault: dict[str, Any], repair: dict[str, Any], cause: str
):
    with driving(bundle, contract) as (_, found):
        broken(found, **fault)
        found.stops()
        values = found.told(cause.format(found.namespace))
        assert values["state"] == "stopped"
        assert all(command == STOP for command in found.silent(0.3)), "it keeps stopping"
        broken(found, **repair)
        found.drives()
        wait(lambda: found.diagnostics[-1][1]["state"] == "driving", "driving again")
        assert found.change("deactivate")
        time.sleep(0.2)
        assert found.commands[-1] == STOP


def test_a_topic_that_never_comes(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        found.speaks_speed = False
        assert found.change("configure")
        assert found.change("activate")
        found.stops()
        found.told(f"waiting for the first inputs: missing input: nothing has arrived on {found.namespace}/speed")
        assert set(map(tuple, found.commands)) == {tuple(STOP)}
        assert found.diagnostics[-1][1][f"age_s.{found.namespace}/speed"] == "never"
        found.speaks_speed = True
        found.drives()


def test_stale_by_the_headers_stamp(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        found.stamp = lambda: rclpy.time.Time(nanoseconds=time.time_ns() - 5_000_000_000).to_msg()
        found.stops()
        found.told(f"stale input: {found.namespace}/joint_states is 5.")
        found.stamp = lambda: found.node.get_clock().now().to_msg()
        found.drives()


class Nuisance:
    """Stands between the node and its policy."""

    def __init__(self, node: Any, before: Callable[[], None]) -> None:
        self._holder = node.session.loop.holder
        self._policy = self._holder.current.policy
        self._before: Callable[[], None] | None = before
        self.manifest, self.hash = self._policy.manifest, self._policy.hash
        object.__setattr__(self._holder.current, "policy", self)

    def act(self, *arguments: Any, **more: Any) -> Any:
        if self._before is not None:
            self._before()
        return self._policy.act(*arguments, **more)

    def end(self) -> None:
        object.__setattr__(self._holder.current, "policy", self._policy)


def test_an_exception_inside_of_inference(bundle: Path, contract: Path):
    def fail() -> None:
        raise RuntimeError("the accelerator is gone")

    with driving(bundle, contract) as (node, found):
        nuisance = Nuisance(node, fail)
        found.stops()
        found.told("exception: RuntimeError: the accelerator is gone")
        nuisance.end()
        found.drives()
        Nuisance(node, fail)
        found.stops()
        assert found.change("deactivate")
        time.sleep(0.2)
        assert found.commands[-1] == STOP


def test_a_missed_deadline(bundle: Path, contract: Path):
    contract.write_text(CONTRACT.replace("deadline_s: 1.0", "deadline_s: 0.3"))
    with driving(bundle, contract) as (node, found):
        nuisance = Nuisance(node, lambda: time.sleep(0.5))
        found.stops()
        values = found.told("missed deadline: the control period")
        assert int(values["deadline_misses"]) >= 1
        nuisance.end()
        found.drives()


def test_an_inference_that_hangs_is_stopped_meanwhile(bundle: Path, contract: Path):
    contract.write_text(CONTRACT.replace("deadline_s: 1.0", "deadline_s: 0.3"))
    with driving(bundle, contract) as (node, found):
        over: list[bool] = []

        def hang() -> None:
            wait(lambda: over, "the end of the hanging", 30.0)

        nuisance = Nuisance(node, hang)
        found.stops()
        found.told("missed deadline: the control period is still not over")
        assert found.change("deactivate"), "whatever hangs, the node can be deactivated"
        count = len(found.commands)
        nuisance.end()
        over.append(True)
        assert found.silent() == []
        assert found.commands[count - 1] == STOP
        assert found.commands[-1] == STOP


def test_a_control_loop_that_is_not_run(bundle: Path, contract: Path):
    with driving(bundle, contract, max_stall_s=0.5) as (node, found):
        with node.session.loop._one_at_a_time:
            found.stops()
            found.told("stalled control loop: no control period for")
        found.drives()


def test_resuming_by_command_only(bundle: Path, contract: Path):
    with driving(bundle, contract, recover_automatically=False) as (_, found):
        assert not found.trigger("resume").success
        found.speed = float("nan")
        found.stops()
        answer = found.trigger("resume")
        assert not answer.success
        assert "the cause is not over: non-finite input" in answer.message
        found.speed = 0.3
        time.sleep(0.6)
        assert all(command == STOP for command in found.silent(0.5))
        assert found.trigger("resume").success
        found.drives()


def test_hold_sends_the_last_command_again(bundle: Path, contract: Path):
    contract.write_text(CONTRACT.replace("on_stop: zero", "on_stop: hold"))
    with driving(bundle, contract) as (_, found):
        found.speed = 1.5
        wait(lambda: found.commands[-1] != found.commands[0], "another command")
        time.sleep(0.2)
        last = found.commands[-1]
        found.speed = float("nan")
        found.told("non-finite input")
        assert set(map(tuple, found.silent(0.3))) == {tuple(last)}
        assert found.change("deactivate")
        time.sleep(0.2)
        assert found.commands[-1] == last


def test_none_sends_nothing(bundle: Path, contract: Path):
    contract.write_text(CONTRACT.replace("on_stop: zero", "on_stop: none"))
    with driving(bundle, contract) as (_, found):
        found.speed = float("nan")
        found.told("non-finite input")
        assert found.silent(0.3) == []


def test_shadow_only_drives_nothing(bundle: Path, contract: Path):
    with pair(bundle, contract, shadow_only=True, shadow_omegas=[0.0, 0.5, 4.0]) as (_, found):
        assert found.change("configure")
        assert found.change("activate")
        shadow = wait(lambda: found.shadow, "a shadow")[-1]
        rows = np.array(shadow.data).reshape(3, 5)
        assert rows[:, 0].tolist() == [0.0, 0.5, 4.0]
        np.testing.assert_allclose(rows[2, 3:], action(bundle, 4.0), atol=1e-5)
        assert rows[1, 2] == pytest.approx(0.0, abs=1e-6)
        assert [dimension.size for dimension in shadow.layout.dim] == [3, 5]
        assert not found.set(shadow_only=False).successful, "not while it is configured"
        assert found.change("deactivate")
        assert found.silent(0.3) == []
        assert found.commands == []


def test_two_nodes_in_two_namespaces(bundle: Path, contract: Path, make_bundle: Callable[..., Path]):
    other = make_bundle(seed=11)
    with driving(bundle, contract) as (_, first), driving(other, contract) as (_, second):
        assert first.set(omega=2.0).successful
        first.speed = float("nan")
        first.stops()
        second.drives()
        assert all(command == STOP for command in first.silent(0.3))
        assert second.commands[-1] == action(other)
        assert second.get("omega") == 0.5
        assert second.diagnostics[-1][1]["state"] == "driving"


# ---- time


def test_a_simulations_clock_that_jumps_back(bundle: Path, contract: Path):
    from rclpy.clock import ClockType
    from rosgraph_msgs.msg import Clock

    with pair(bundle, contract, use_sim_time=True, max_stall_s=0.0) as (node, found):
        clock = found.node.create_publisher(Clock, "/clock", 1)
        now = [100.0]

        def tick(seconds: float, until: Callable[[], Any]) -> None:
            def step() -> Any:
                now[0] += seconds
                clock.publish(Clock(clock=rclpy.time.Time(nanoseconds=int(now[0] * 1e9)).to_msg()))
                return until()

            wait(step, "the simulation")

        assert found.change("configure")
        assert found.change("activate")
        time.sleep(0.3)
        assert all(command == STOP for command in found.commands), "no clock, no drive"
        tick(0.01, lambda: len(found.driven) >= 3)
        count = len(found.commands)
        now[0] = 50.0
        tick(0.01, lambda: STOP in found.commands[count:])
        found.told("clock: the clock jumped")
        count = len(found.driven)
        tick(0.01, lambda: len(found.driven) > count)
        assert found.driven[-1][1] < 60.0
        # Back and forth again before the next period: the periods alone would not see it.
        for seconds in (now[0] - 10.0, now[0]):
            stamp = rclpy.time.Time(nanoseconds=int(seconds * 1e9), clock_type=ClockType.ROS_TIME)
            node.get_clock().set_ros_time_override(stamp)
        wait(
            lambda: any(
                f"clock jumped by -{back}" in status.message for status, _ in found.diagnostics for back in "19"
            ),
            "the cause",
        )
        tick(0.01, lambda: node.session.loop.supervisor.state.value == "driving")
        assert found.change("deactivate")
        time.sleep(0.2)
        assert found.commands[-1] == STOP


def test_an_unforeseen_error_in_a_bundle_leaves_the_robot_driving(bundle: Path, patient_contract: Path):
    def prepare(path: str) -> None:
        raise ZeroDivisionError("float division by zero")

    with driving(bundle, patient_contract) as (node, found):
        node.session.prepare = prepare  # type: ignore[union-attr, method-assign]
        count = len(found.commands)
        answer = found.set(bundle=str(bundle))
        assert (answer.successful, answer.reason) == (False, "float division by zero")
        assert (
            found.told("reloading failed")["problem"] == "reloading failed: ZeroDivisionError: float division by zero"
        )
        time.sleep(0.5)
        assert len(found.commands) > count
        assert STOP not in found.commands[count:]
