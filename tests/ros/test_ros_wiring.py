"""What the node and its graph show of each other: connections, quality of service, what is shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from diagnostic_msgs.msg import DiagnosticStatus
from dipole_policy.session import LATCHED
from graph import CONTRACT, STOP, action, driving, pair, wait
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64, Float64MultiArray, String

pytestmark = pytest.mark.usefixtures("ros")


@pytest.fixture
def latched(tmp_path: Path) -> Path:
    """The speed is published once."""
    path = tmp_path / "latched.yaml"
    path.write_text(
        CONTRACT.replace("field: data, max_age_s: 0.6", "field: data, max_age_s: 3600, durability: transient_local")
    )
    return path


@contextmanager
def publisher(found: Any, kind: Any, topic: str, qos: Any) -> Iterator[Any]:
    made = found.node.create_publisher(kind, topic, qos)
    try:
        yield made
    finally:
        found.node.destroy_publisher(made)


@contextmanager
def elsewhere(found: Any, kind: Any, topic: str) -> Iterator[None]:
    """A publisher of another process, as far as the middleware can tell: in one, a topic has one type."""
    context = Context()
    context.init()
    node = Node("stranger", namespace=found.namespace, context=context)
    node.create_publisher(kind, topic, 1)
    try:
        yield
    finally:
        node.destroy_node()
        context.shutdown()


def problem(found: Any, topic: str, text: str) -> None:
    """Waits until a diagnostic says this of a topic."""
    key = f"wiring.{found.namespace}/{topic}"

    def last() -> str:
        return found.diagnostics[-1][1].get(key, "") if found.diagnostics else ""

    wait(lambda: text in last(), f"{text!r} about {topic}, the last was {last()!r}")


# ---- connections


def test_a_topic_that_nobody_publishes_is_named(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        found.has_no_speed()
        assert found.change("configure")
        problem(found, "speed", f"nobody publishes on {found.namespace}/speed")
        assert found.diagnostics[-1][0].level == DiagnosticStatus.WARN
        assert f"wiring.{found.namespace}/joint_states" not in found.diagnostics[-1][1]


def test_a_topic_of_another_type_is_named(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        found.has_no_speed()
        with elsewhere(found, String, "speed"):
            assert found.change("configure")
            problem(
                found, "speed", f"{found.namespace}/stranger publishes std_msgs/msg/String on {found.namespace}/speed"
            )
            problem(found, "speed", "expected the contract's std_msgs/msg/Float64")


def test_qualities_that_do_not_connect_are_named(bundle: Path, contract: Path, tmp_path: Path):
    path = tmp_path / "reliable.yaml"
    path.write_text(CONTRACT.replace("field: data, max_age_s", "field: data, reliability: reliable, max_age_s"))
    with pair(bundle, path) as (_, found):
        found.has_no_speed()
        with publisher(found, Float64, "speed", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)):
            assert found.change("configure")
            problem(found, "speed", "incompatible QoS")


def test_a_topic_that_was_published_once_before_is_explained(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        found.has_no_speed()
        with publisher(found, Float64, "speed", LATCHED) as speed:
            speed.publish(Float64(data=0.3))
            assert found.change("configure")
            problem(found, "speed", "give the input durability: transient_local")


def test_commands_that_nobody_hears_and_a_second_publisher(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        assert found.change("configure")
        with publisher(found, Float64MultiArray, "command", 1):
            problem(found, "command", f"{found.namespace}/robot publishes on {found.namespace}/command, too")
        wait(lambda: f"wiring.{found.namespace}/command" not in found.diagnostics[-1][1], "one publisher again")
        for subscription in list(found.node.subscriptions):
            if subscription.topic_name == f"{found.namespace}/command":
                found.node.destroy_subscription(subscription)
        problem(found, "command", "nobody listens to")


# ---- quality of service


def test_what_was_published_once_before_the_node_arrives(bundle: Path, latched: Path):
    with pair(bundle, latched) as (_, found):
        found.has_no_speed()
        with publisher(found, Float64, "speed", LATCHED) as speed:
            speed.publish(Float64(data=0.3))
            assert found.change("configure")
            assert found.change("activate")
            found.drives()
            assert found.change("deactivate")
            assert found.change("activate")
            found.drives()


def test_qualities_by_parameter(bundle: Path, contract: Path):
    with pair(bundle, contract) as (node, found):
        of = found.namespace
        for topic, policy, value in (("speed", "durability", "transient_local"), ("speed", "reliability", "reliable")):
            name = f"qos_overrides.{of}/{topic}.subscription.{policy}"
            node._parameter_overrides[name] = Parameter(name, value=value)
        assert found.change("configure")
        assert found.get(f"qos_overrides.{of}/speed.subscription.durability") == "transient_local"
        (info,) = [
            info
            for info in found.node.get_subscriptions_info_by_topic(f"{of}/speed")
            if info.node_name == "dipole_policy"
        ]
        assert info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert found.change("cleanup")
        assert found.change("configure")


def test_qualities_of_topics_that_the_contract_has_not(bundle: Path, contract: Path):
    name = "qos_overrides./spede.subscription.reliability"
    with pair(bundle, contract, **{name: "reliable"}) as (_, found):
        assert not found.change("configure")
        found.told(f"parameter {name} is unknown, expected one of its contract's topics and their policies")


def test_whoever_asks_learns_that_commands_stay_away(bundle: Path, contract: Path):
    """A subscriber's deadline and liveliness, as the node offers them."""
    missed: list[Any] = []
    with driving(bundle, contract) as (_, found):
        asking = QoSProfile(
            depth=1,
            deadline=Duration(seconds=0.25),
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=Duration(seconds=2.0),
        )
        heard: list[Any] = []
        subscription = found.node.create_subscription(
            Float64MultiArray,
            "command",
            heard.append,
            asking,
            event_callbacks=SubscriptionEventCallbacks(deadline=missed.append),
        )
        wait(lambda: len(heard) > 5, "commands for a subscriber with a deadline")
        assert found.change("deactivate")
        wait(lambda: missed, "a missed deadline")
        found.node.destroy_subscription(subscription)


def test_an_override_of_a_latched_topic_keeps_what_came_before_activation(bundle: Path, contract: Path):
    with pair(bundle, contract) as (node, found):
        name = f"qos_overrides.{found.namespace}/speed.subscription.durability"
        node._parameter_overrides[name] = Parameter(name, value="transient_local")
        reliable = name.replace("durability", "reliability")
        node._parameter_overrides[reliable] = Parameter(reliable, value="reliable")
        found.has_no_speed()
        with publisher(found, Float64, "speed", LATCHED) as speed:
            speed.publish(Float64(data=0.3))
            assert found.change("configure")
            wait(lambda: node.session.inputs.snapshot().get(f"{found.namespace}/speed"), "the speed, before activating")
            assert node.session.inputs.latched == {f"{found.namespace}/speed"}


def test_another_contract_counts_when_configured_anew(bundle: Path, tmp_path: Path):
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    with pair(bundle, path) as (node, found):
        assert found.change("configure")
        assert found.change("cleanup")
        path.write_text(CONTRACT.replace("field: data, max_age_s", "field: data, reliability: reliable, max_age_s"))
        assert found.change("configure")
        subscription = node.session._intake.subscriptions[f"{found.namespace}/speed"]
        assert subscription.qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_a_depth_of_none(bundle: Path, contract: Path):
    with pair(bundle, contract) as (node, found):
        name = f"qos_overrides.{found.namespace}/speed.subscription.depth"
        node._parameter_overrides[name] = Parameter(name, value=0)
        assert not found.change("configure")
        found.told("depth is 0, expected at least 1")


def test_a_node_of_the_same_name_is_named(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        assert found.change("configure")
        twin = Node("dipole_policy", namespace=found.namespace)
        twin.create_publisher(Float64MultiArray, "command", 1)
        problem(found, "command", f"2 nodes called {found.namespace}/dipole_policy publish on")
        twin.destroy_node()


def test_unreadable_messages_stop_and_the_loop_goes_on(bundle: Path, contract: Path):
    """Truncated messages between valid ones; then driving resumes by itself."""
    with driving(bundle, contract) as (node, found):
        intake = node.session._intake
        original = intake._take

        def broken(topic: str, subscription: Any, now_ns: int) -> None:
            original(topic, subscription, now_ns)
            raise RuntimeError("truncated")

        intake._take = broken
        found.stops()
        found.told("wrongly sized input")
        assert "cannot be read (truncated)" in found.diagnostics[-1][1]["cause"]
        time.sleep(0.5)
        intake._take = original
        found.drives()


# ---- sensors faster than the control loop


def test_messages_that_nobody_looks_at_wake_nobody(bundle: Path, contract: Path):
    with driving(bundle, contract) as (node, found):
        intake = node.session._intake
        taken: list[str] = []
        receive = node.session.inputs.receive
        node.session.inputs.receive = lambda topic, *more: taken.append(topic) or receive(topic, *more)
        end = time.monotonic() + 2.0
        count = 0
        while time.monotonic() < end:
            found._speed.publish(Float64(data=0.3))
            count += 1
            time.sleep(0.001)
        # 20 periods a second, and diagnostics ten times: each looks once.
        assert count > 400
        assert 20 <= taken.count(f"{found.namespace}/speed") <= 100
        assert set(intake.subscriptions) == {f"{found.namespace}/{topic}" for topic in ("joint_states", "speed")}


def test_another_robots_joints_do_not_hide_ours(bundle: Path, contract: Path):
    from sensor_msgs.msg import JointState

    with driving(bundle, contract) as (_, found), publisher(found, JointState, "joint_states", 1) as other:
        end = time.monotonic() + 1.5
        count = len(found.commands)
        while time.monotonic() < end:
            other.publish(JointState(name=["wheel"], position=[1.0]))
            time.sleep(0.01)
        assert STOP not in found.commands[count:]


# ---- what is shown


def test_omega_before_there_is_a_policy(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        result = found.set(omega=77.0)
        assert (result.successful, result.reason) == (
            False,
            "omega is 77.0, expected -1.0 to 4.0, the bundle's range",
        )
        assert found.set(omega=2.0).successful
        found.turn(1.0)
        wait(lambda: len(found.audit) >= 3, "three records")
        assert [(record["source"], record["new"], record["accepted"]) for record in found.audit] == [
            ("parameter", "77.0", "false"),
            ("parameter", "2.0", "true"),
            ("topic", "1.0", "false"),
        ]
        assert found.change("configure")
        assert found.get("omega") == 2.0


def test_the_provenance_is_json(bundle: Path, contract: Path):
    with driving(bundle, contract) as (node, found):
        shown = wait(lambda: found.model, "the model's description")[-1]
        provenance = node.session.loop.holder.current.policy.manifest.provenance
        nested = {key: value for key, value in provenance.items() if not isinstance(value, str | float)}
        assert nested, "the case has none"
        for key, value in nested.items():
            assert json.loads(shown[f"provenance.{key}"]) == value


def test_an_empty_shadow_is_a_list_of_numbers(bundle: Path, contract: Path):
    with driving(bundle, contract) as (node, found):
        kind = Parameter.Type.DOUBLE_ARRAY
        assert node.get_parameter("shadow_omegas").type_ == kind
        assert found.set(shadow_omegas=[0.0, 1.0]).successful
        assert found.set(shadow_omegas=[]).successful
        assert node.get_parameter("shadow_omegas").type_ == kind
        assert list(found.get("shadow_omegas")) == []


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_a_simulation_whose_clock_never_speaks_is_named(bundle: Path, contract: Path, stall: float):
    with pair(bundle, contract, use_sim_time=True, max_stall_s=stall) as (_, found):
        assert found.change("configure")
        assert found.change("activate")
        found.told("clock: use_sim_time is true and nothing has arrived on /clock")


# ---- where motion begins, and several topics


def test_the_first_command_on_the_wire_is_where_the_arm_is(bundle: Path, tmp_path: Path):
    """Activation, a stop, a new activation from another place: never more than a step away from the measured state."""
    start = "start_from: {topic: joint_states, field: position, names: [elbow, wrist]}"
    path = tmp_path / "positions.yaml"
    path.write_text(CONTRACT.replace("on_stop: zero", f"on_stop: hold, max_rate: [0.2, 0.2], {start}"))
    step = 0.2 / 20 + 1e-9
    with pair(bundle, path) as (_, found):
        assert found.change("configure")
        for place in ([0.1, 0.2], [-0.5, 0.9]):
            found.position = place
            time.sleep(0.2)
            count = len(found.commands)
            assert found.change("activate")
            wait(lambda count=count: len(found.commands) > count + 5, "commands")
            commands = np.array([place, *found.commands[count : count + 5]])
            assert np.abs(np.diff(commands, axis=0)).max() <= step
            assert np.abs(commands[-1] - place).max() > step, "it does not move at all"
            assert found.change("deactivate")
            wait(lambda place=place: found.commands[-1] == place, "the measured place held as the last command")


def test_arm_and_gripper_from_one_decision(bundle: Path, tmp_path: Path):
    entries = [
        "{topic: command, type: std_msgs/msg/Float64MultiArray, field: data, size: 1, on_stop: zero}",
        "{topic: gripper, type: std_msgs/msg/Float64, field: data, on_stop: zero}",
    ]
    path = tmp_path / "several.yaml"
    path.write_text(CONTRACT[: CONTRACT.index("action:")] + "action:\n" + "".join(f"  - {one}\n" for one in entries))
    gripped: list[float] = []
    with pair(bundle, path) as (_, found):
        found.node.create_subscription(Float64, "gripper", lambda message: gripped.append(message.data), 10)
        assert found.change("configure")
        assert found.change("activate")
        arm, gripper = action(bundle)
        wait(lambda: [arm] in found.commands and gripper in gripped, "one decision on both topics")
        found.speaks_speed = False
        wait(lambda: found.commands[-1] == [0.0] and gripped[-1] == 0.0, "a stop on both topics")
