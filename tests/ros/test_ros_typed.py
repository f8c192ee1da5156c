"""The typed messages: their definitions, and what real decisions make of them, serialised as on the wire."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench import Bench
from dipole_policy import typed
from dipole_policy.loop import distance

pytest.importorskip("rosbags", reason="rosbags is not installed: see the extra 'bags'")

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

PACKAGE = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_msgs"
DEFINITIONS = {path.stem: path.read_text() for path in sorted((PACKAGE / "msg").glob("*.msg"))}
OMEGAS = (0.0, 2.0, 4.0)


@pytest.fixture(scope="module")
def store() -> Any:
    """A type store that knows the package, as one makes it for recordings without definitions."""
    found = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in DEFINITIONS.items():
        found.register(get_types_from_msg(text, f"dipole_msgs/msg/{name}"))
    return found


@pytest.fixture
def make(store: Any) -> typed.Make:
    """Messages of rosbags instead of rclpy's: its classes take every field, and arrays of NumPy."""

    def made(name: str, **fields: Any) -> Any:
        arrays = {key: np.array(value) for key, value in fields.items() if isinstance(value, array)}
        return store.types[name](**fields | arrays)

    return made


@pytest.fixture
def bench(bundle: Path) -> Bench:
    """It has driven twice, with three shadows."""
    found = Bench(bundle)
    found.loop.shadow_omegas = OMEGAS
    found.loop.omega.request(1.5, "parameter")
    found.period()
    found.period()
    return found


def through_the_wire(store: Any, message: Any) -> Any:
    name = message.__msgtype__
    return store.deserialize_cdr(store.serialize_cdr(message, name), name)


def test_driven(bench: Bench, store: Any, make: typed.Make) -> None:
    decision = bench.decisions[-1]
    message = through_the_wire(store, typed.driven(decision, make))
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == decision.time_ns
    assert message.number == 2
    assert message.names == ["joint_0", "joint_1"]
    assert message.command.tolist() == bench.sent[-1]
    assert message.action.tolist() == decision.action.action.tolist()
    assert message.omega == 1.5
    assert message.q.tolist() == decision.action.q.tolist()
    assert len(message.q) == decision.loaded.policy.manifest.guidance.num_candidates
    assert message.q[message.chosen] == max(message.q)
    assert message.bundle_hash == decision.loaded.policy.hash


def test_shadow(bench: Bench, store: Any, make: typed.Make) -> None:
    decision = bench.decisions[-1]
    message = through_the_wire(store, typed.shadow(decision, make))
    assert message.header.stamp == typed.driven(decision, make).header.stamp
    assert message.names == ["joint_0", "joint_1"]
    assert [one.omega for one in message.actions] == list(OMEGAS)
    for one, action in zip(message.actions, decision.shadow, strict=True):
        assert one.q == action.q[action.chosen]
        assert one.action.tolist() == action.action.tolist()
        assert one.distance == distance(action, decision.action, decision.loaded) > 0.0


def test_latency(bench: Bench, store: Any, make: typed.Make) -> None:
    first, second = (through_the_wire(store, typed.latency(decision, make)) for decision in bench.decisions)
    assert math.isnan(first.period_s)
    assert second.period_s == pytest.approx(0.05)
    assert second.inference_s == bench.decisions[-1].action.latency_s > 0.0
    assert second.command_s == bench.decisions[-1].elapsed_s


def test_omega_change(bench: Bench, store: Any, make: typed.Make) -> None:
    bench.loop.omega.request(9.0, "topic")
    accepted, refused = (through_the_wire(store, typed.omega_change(record, make)) for record in bench.audit)
    assert (accepted.number, accepted.source, accepted.previous, accepted.requested) == (1, "parameter", 0.5, 1.5)
    assert accepted.accepted
    assert accepted.reason == "accepted"
    assert (refused.number, refused.source, refused.previous, refused.requested) == (2, "topic", 1.5, 9.0)
    assert not refused.accepted
    assert "expected -1.0 to 4.0" in refused.reason
    sources = {value for key, value in vars(type(refused)).items() if key.startswith("SOURCE_")}
    assert sources == {"parameter", "topic", "configure", "reload"}


def test_a_policy_without_omega(deterministic_bundle: Path, store: Any, make: typed.Make) -> None:
    bench = Bench(deterministic_bundle)
    bench.period()
    message = through_the_wire(store, typed.driven(bench.decisions[-1], make))
    assert math.isnan(message.omega)
    assert len(message.q) == 1
    assert message.chosen == 0


def test_a_recording_explains_itself(bench: Bench, store: Any, make: typed.Make, tmp_path: Path) -> None:
    """As ros2 bag writes it: whoever reads it needs no dipole_msgs."""
    decision = bench.decisions[-1]
    message = typed.shadow(decision, make)
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/dipole_policy/typed/shadow", message.__msgtype__, typestore=store)
        writer.write(connection, decision.time_ns, store.serialize_cdr(message, message.__msgtype__))
    with AnyReader([tmp_path / "bag"]) as reader:
        ((connection, _, content),) = reader.messages()
        found = reader.deserialize(content, connection.msgtype)
    assert [one.omega for one in found.actions] == list(OMEGAS)


def test_the_package() -> None:
    manifest = ElementTree.parse(PACKAGE / "package.xml").getroot()
    node = ElementTree.parse(PACKAGE.parent / "dipole_policy/package.xml").getroot()
    assert manifest.findtext("version") == node.findtext("version")
    assert manifest.findtext("member_of_group") == "rosidl_interface_packages"
    assert manifest.findtext("export/build_type") == "ament_cmake"
    # colcon refuses to build a package without what it depends on, and this one is optional.
    assert "dipole_msgs" not in {element.text for element in node.iter() if element.tag.endswith("depend")}
    cmake = (PACKAGE / "CMakeLists.txt").read_text()
    assert {f'"msg/{name}.msg"' in cmake for name in DEFINITIONS} == {True}
    assert set(typed.TOPICS) <= set(DEFINITIONS)


def test_ros_own_parser_reads_them(tmp_path: Path) -> None:
    """What would fail in colcon's build fails here, where nothing can be compiled."""
    adapter = pytest.importorskip("rosidl_adapter.parser", reason="rosidl_adapter is not installed")
    for name, text in DEFINITIONS.items():
        specification = adapter.parse_message_string("dipole_msgs", name, text)
        for field in specification.fields:
            assert field.annotations.get("comment"), f"{name}.{field.name} says neither what it is nor its unit"
