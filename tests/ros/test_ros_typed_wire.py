"""The typed messages on the wire, where dipole_msgs is built, and a node that drives where it is not."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_policy.announcements import AUDIT
from dipole_policy.fields import message_class
from dipole_policy.typed import TOPICS
from graph import ALL, STOP, Robot, driving, wait

pytestmark = pytest.mark.usefixtures("ros")
built = pytest.mark.skipif(
    find_spec("dipole_msgs") is None, reason="dipole_msgs is not built: source a workspace that colcon has built"
)
OMEGAS = [0.0, 2.0, 4.0]


def listen(robot: Robot, *names: str) -> dict[str, list[Any]]:
    """What arrives on the typed topics from now on, by the message's name."""
    heard: dict[str, list[Any]] = defaultdict(list)
    for name in names or TOPICS:
        qos = AUDIT if name == "OmegaChange" else ALL
        topic = TOPICS[name].replace("~", robot.name)
        robot.node.create_subscription(message_class(f"dipole_msgs/msg/{name}"), topic, heard[name].append, qos)
    return heard


@built
def test_they_say_what_the_arrays_say(bundle: Path, patient_contract: Path):
    with driving(bundle, patient_contract, shadow_omegas=OMEGAS) as (node, robot):
        heard = listen(robot)
        wait(lambda: all(len(heard[name]) > 3 for name in ("Driven", "Shadow", "Latency")), "a typed message of each")
        robot.turn(9.0)
        wait(lambda: len(heard["OmegaChange"]) == 2, "the change of configuring, heard late, and the refused one")
        driven = heard["Driven"][2]
        (row,) = wait(lambda: [row for row in robot.driven if row[0] == driven.number], "the array of the same number")
        loaded = node.session.loop.holder.current
        assert list(driven.names) == list(loaded.policy.manifest.action.names)
        stamp = driven.header.stamp
        assert stamp.sec + stamp.nanosec * 1e-9 == pytest.approx(row[1], abs=1e-5)
        assert [driven.omega, driven.q[driven.chosen], *driven.command] == row[2:]
        assert driven.bundle_hash == loaded.policy.hash
        (shadow,) = [one for one in heard["Shadow"] if one.header.stamp == stamp]
        assert [one.omega for one in shadow.actions] == OMEGAS
        (latency,) = [one for one in heard["Latency"] if one.header.stamp == stamp]
        assert [latency.inference_s, latency.command_s, latency.period_s] in robot.latency
        configured, refused = heard["OmegaChange"]
        assert (configured.source, configured.accepted) == (configured.SOURCE_CONFIGURE, True)
        assert (refused.source, refused.accepted, refused.requested) == (refused.SOURCE_TOPIC, False, 9.0)
        for change, told in zip(heard["OmegaChange"], robot.audit, strict=True):
            assert change.reason == told["reason"]
            assert str(change.number) == told["number"]


@built
def test_what_rosbags_reads_is_what_ros_writes(bundle: Path, patient_contract: Path):
    from rclpy.serialization import deserialize_message, serialize_message

    store_of = pytest.importorskip("rosbags.typesys", reason="rosbags is not installed: see the extra 'bags'")
    store = store_of.get_typestore(store_of.Stores.ROS2_HUMBLE)
    for path in (Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_msgs/msg").glob("*.msg"):
        store.register(store_of.get_types_from_msg(path.read_text(), f"dipole_msgs/msg/{path.stem}"))
    with driving(bundle, patient_contract, shadow_omegas=OMEGAS) as (_, robot):
        heard = listen(robot)
        wait(lambda: all(heard[name] for name in TOPICS) and len(heard["Latency"]) > 1, "a typed message of each")
    for name in TOPICS:
        message = heard[name][-1]
        found = store.deserialize_cdr(serialize_message(message), f"dipole_msgs/msg/{name}")
        assert found.header.stamp.nanosec == message.header.stamp.nanosec
        # And back: what differs then is the padding between fields, which means nothing.
        content = bytes(store.serialize_cdr(found, f"dipole_msgs/msg/{name}"))
        assert deserialize_message(content, type(message)) == message


@built
def test_one_that_fails_falls_silent_and_the_robot_drives_on(
    bundle: Path, patient_contract: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> None:
        raise TypeError("no such field")

    with driving(bundle, patient_contract) as (node, robot):
        heard = listen(robot, "Driven", "Latency")
        wait(lambda: heard["Driven"] and heard["Latency"], "a typed message of both")
        monkeypatch.setattr(node.session._typed_driven, "_fill", fail)
        time.sleep(0.2)
        count, commands, latencies = len(heard["Driven"]), len(robot.commands), len(heard["Latency"])
        wait(lambda: len(robot.commands) > commands + 20, "twenty commands")
        assert len(heard["Driven"]) == count
        assert len(heard["Latency"]) > latencies
        assert STOP not in robot.commands[commands:]


@built
def test_nothing_is_made_for_nobody(bundle: Path, patient_contract: Path):
    made = []
    with driving(bundle, patient_contract) as (node, robot):
        topic = node.session._typed_driven
        fill = topic._fill
        topic._fill = lambda *given: made.append(1) or fill(*given)
        robot.drives()
        robot.drives()
        assert not made
        heard = listen(robot, "Driven")
        wait(lambda: heard["Driven"], "a typed message for somebody")
        assert made


def test_a_broken_package_does_not_keep_the_node_from_driving(
    bundle: Path, contract: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As one that was built for another Python."""
    if find_spec("dipole_msgs") is not None:
        pytest.skip("dipole_msgs is built, and sound")
    (tmp_path / "dipole_msgs/msg").mkdir(parents=True)
    (tmp_path / "dipole_msgs/__init__.py").write_text("")
    (tmp_path / "dipole_msgs/msg/__init__.py").write_text("raise ImportError('built for Python 3.8')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with driving(bundle, contract) as (_, robot):
        # It was imported; other tests must not find it.
        del sys.modules["dipole_msgs"]
        topics = {name for name, _ in robot.node.get_topic_names_and_types() if name.startswith(robot.namespace)}
        assert not [name for name in topics if "/typed/" in name]
        assert f"{robot.namespace}/dipole_policy/driven" in topics
