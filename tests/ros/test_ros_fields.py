"""Fields by name, and the observation that is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dipole_policy.errors import ContractError, InputError, Kind
from dipole_policy.fields import describe_installed, describe_recorded, leaves, parse_path, reader, size
from dipole_policy.layout import ObservationLayout
from dipole_policy.observation import Inputs, entry_readers
from dipole_runtime.manifest import ObservationPart, ObservationSpec
from robots import CONTRACT, contract, describe, joint_state, make, number, replaced

SECOND = 1_000_000_000
NOW = 100 * SECOND


def spec(size: int = 3, **parts: int) -> ObservationSpec:
    names = tuple(f"o{index}" for index in range(size))
    found = tuple(ObservationPart(key, (count,), "float32", "Box", None) for key, count in parts.items())
    return ObservationSpec(size, names, found or (ObservationPart(None, (size,), "float32", "Box", None),))


class Robot:
    """Inputs and layout of a contract."""

    def __init__(self, text: str = CONTRACT, of: ObservationSpec | None = None) -> None:
        readers = entry_readers(contract(text), describe)
        self.inputs = Inputs(readers)
        self.layout = ObservationLayout(readers, of or spec())

    def hear(self, topic: str, message: Any, at: int = NOW) -> None:
        self.inputs.receive(topic, message, at)

    def build(self, now: int = NOW) -> np.ndarray:
        return self.layout.build(self.inputs.snapshot(), now)

    def cause(self, now: int = NOW) -> tuple[Kind, str]:
        with pytest.raises(InputError) as caught:
            self.build(now)
        return caught.value.cause.kind, caught.value.cause.detail


def heard(text: str = CONTRACT, **joints: float) -> Robot:
    robot = Robot(text)
    robot.hear("/joint_states", joint_state(joints or {"elbow": 1.0, "wrist": 2.0}))
    robot.hear("/speed", number(3.0))
    return robot


# ---- fields


def test_paths_and_their_values():
    odometry = make("geometry_msgs/msg/PoseWithCovariance")
    odometry.pose.position.y = 2.0
    odometry.covariance[35] = 7.0
    whole = reader("geometry_msgs/msg/PoseWithCovariance", parse_path("pose.position"), describe)
    np.testing.assert_array_equal(whole(odometry), [0.0, 2.0, 0.0])
    one = reader("geometry_msgs/msg/PoseWithCovariance", parse_path("covariance[35]"), describe)
    np.testing.assert_array_equal(one(odometry), [7.0])
    found = leaves("geometry_msgs/msg/PoseWithCovariance", parse_path("covariance"), describe)
    assert size(found) == 36
    assert size(leaves("sensor_msgs/msg/JointState", parse_path("position"), describe)) is None


@pytest.mark.parametrize(
    ("type_name", "path", "message"),
    [
        (
            "geometry_msgs/msg/Twist",
            "linear.w",
            "linear of geometry_msgs/msg/Twist has no field w",
        ),
        ("geometry_msgs/msg/Twist", "linear.x.y", "has no field y: it is double"),
        ("geometry_msgs/msg/Twist", "linear[0]", r"is geometry_msgs/msg/Vector3, expected an array for \[0\]"),
        ("geometry_msgs/msg/PoseWithCovariance", "covariance[36]", "has 36 elements"),
        ("sensor_msgs/msg/JointState", "name", "is an array of string, expected numbers"),
        ("sensor_msgs/msg/JointState", "header", "is string, expected numbers"),
        ("geometry_msgs/msg/PoseArray", "poses", "is an array of geometry_msgs/msg/Pose, expected numbers"),
    ],
)
def test_fields_that_are_not_there(type_name: str, path: str, message: str):
    with pytest.raises(ContractError, match=message):
        reader(type_name, parse_path(path), describe)


def test_an_index_beyond_a_sequence_is_a_wrong_size():
    read = reader("geometry_msgs/msg/PoseArray", parse_path("poses[1].position.x"), describe)
    message = make("geometry_msgs/msg/PoseArray")
    message.poses = [make("geometry_msgs/msg/Pose")]
    with pytest.raises(InputError, match="poses has 1 elements, expected more than 1"):
        read(message)


def test_a_recordings_types_describe_themselves_the_same():
    rosbags = pytest.importorskip("rosbags.typesys", reason="needs the rosbags package")
    recorded = describe_recorded(rosbags.get_typestore(rosbags.Stores.ROS2_HUMBLE).fielddefs)
    for path, type_name in (
        ("position", "sensor_msgs/msg/JointState"),
        ("covariance", "geometry_msgs/msg/PoseWithCovariance"),
        ("pose", "geometry_msgs/msg/PoseWithCovariance"),
    ):
        theirs = leaves(type_name, parse_path(path), recorded)
        ours = leaves(type_name, parse_path(path), describe)
        assert [(leaf, kind.length) for leaf, kind in theirs] == [(leaf, kind.length) for leaf, kind in ours]


def test_messages_of_a_recording_make_the_same_observation():
    rosbags = pytest.importorskip("rosbags.typesys", reason="needs the rosbags package")
    store = rosbags.get_typestore(rosbags.Stores.ROS2_HUMBLE)
    readers = entry_readers(contract(CONTRACT), describe_recorded(store.fielddefs))
    inputs, layout = Inputs(readers), ObservationLayout(readers, spec())
    types = store.types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](100, 0), "")
    numbers = [np.array(values, np.float64) for values in ([2.0, 9.0, 1.0], [], [])]
    joints = types["sensor_msgs/msg/JointState"](header, ["wrist", "gripper", "elbow"], *numbers)
    for topic, message in (("/joint_states", joints), ("/speed", types["std_msgs/msg/Float64"](3.0))):
        recorded = store.serialize_cdr(message, message.__msgtype__)
        inputs.receive(topic, store.deserialize_cdr(recorded, message.__msgtype__), NOW)
    np.testing.assert_array_equal(layout.build(inputs.snapshot(), NOW), [1.0, 2.0, 3.0])


# ---- observations


def test_joints_come_by_name_in_any_order():
    robot = heard(wrist=2.0, gripper=9.0, elbow=1.0)
    np.testing.assert_array_equal(robot.build(), np.array([1.0, 2.0, 3.0], np.float32))
    assert robot.build().dtype == np.float32


def test_a_message_about_other_joints_only_is_not_taken():
    robot = heard()
    robot.hear("/joint_states", joint_state({"gripper": 5.0}), NOW + SECOND // 10)
    np.testing.assert_array_equal(robot.build(), [1.0, 2.0, 3.0])
    assert robot.inputs.ages_s(NOW + SECOND // 10)["/joint_states"] == pytest.approx(0.1)


def test_missing_topics():
    robot = Robot()
    assert robot.cause() == (Kind.MISSING, "nothing has arrived on /joint_states")
    robot.hear("/joint_states", joint_state({"elbow": 1.0, "wrist": 2.0}))
    assert robot.cause() == (Kind.MISSING, "nothing has arrived on /speed")


def test_age_counts_from_the_arrival_without_a_stamp():
    robot = heard()
    assert len(robot.build(NOW + 200_000_000)) == 3
    kind, detail = robot.cause(NOW + 200_000_001)
    assert kind is Kind.STALE
    assert detail == "/joint_states is 0.200 s old, expected at most 0.2 s"


def test_age_counts_from_the_stamp_where_there_is_one():
    robot = heard()
    late = joint_state({"elbow": 1.0, "wrist": 2.0}, NOW - 300_000_000)
    robot.hear("/joint_states", late)
    assert robot.cause() == (Kind.STALE, "/joint_states is 0.300 s old, expected at most 0.2 s")
    received = Robot(
        replaced("max_age_s: 0.2}\n  - {topic: /speed", "max_age_s: 0.2, stamp: received}\n  - {topic: /speed")
    )
    received.hear("/joint_states", late)
    received.hear("/speed", number(3.0))
    assert len(received.build()) == 3


def test_a_stamp_in_the_future_is_a_clock_that_is_wrong():
    robot = heard()
    robot.hear("/joint_states", joint_state({"elbow": 1.0, "wrist": 2.0}, NOW + 2 * SECOND))
    assert robot.cause() == (Kind.CLOCK, "/joint_states is stamped 2.000 s in the future of this clock")


def test_a_header_that_must_be_stamped_is():
    text = replaced("names: [elbow, wrist], ", "names: [elbow, wrist], stamp: header, ")
    assert heard(text).cause() == (Kind.STALE, "/joint_states has no stamp in its header")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_not_finite(value: float):
    robot = heard()
    robot.hear("/speed", number(value))
    kind, detail = robot.cause()
    assert kind is Kind.NON_FINITE
    assert detail.startswith("/speed gives ")
    assert "'o2' (element 2)" in detail


def test_wrong_sizes():
    robot = heard()
    message = joint_state({"elbow": 1.0, "wrist": 2.0})
    message.position = [1.0]
    robot.hear("/joint_states", message)
    assert robot.cause() == (Kind.WRONG_SIZE, "/joint_states has 1 elements in position for 2 names")
    robot.hear("/joint_states", joint_state({"elbow": 1.0}))
    assert robot.cause() == (Kind.WRONG_SIZE, "/joint_states has no 'wrist' among its 1 names")
    array = CONTRACT.replace("type: std_msgs/msg/Float64,", "type: std_msgs/msg/Float64MultiArray, size: 1,")
    robot = heard(array)
    several = make("std_msgs/msg/Float64MultiArray")
    several.data = [1.0, 2.0]
    robot.hear("/speed", several)
    assert robot.cause() == (Kind.WRONG_SIZE, "/speed has 2 elements, expected 1")


def test_what_cannot_be_read_at_all_is_a_cause_too():
    robot = heard()
    robot.hear("/speed", number("fast"))  # type: ignore[arg-type]
    assert robot.cause()[0] is Kind.WRONG_SIZE


def test_a_snapshot_does_not_change():
    robot = heard()
    snapshot = robot.inputs.snapshot()
    robot.hear("/speed", number(9.0))
    assert robot.layout.build(snapshot, NOW)[2] == 3.0
    robot.inputs.forget(0)
    assert robot.cause()[0] is Kind.MISSING


def test_functions():
    text = """
rate_hz: 20
observation:
  - {topic: /j, type: sensor_msgs/msg/JointState, field: position, names: [a, b], function: cos, max_age_s: 1}
  - {topic: /j, type: sensor_msgs/msg/JointState, field: position, names: [a, b], function: sin, max_age_s: 1}
  - {topic: /q, type: geometry_msgs/msg/Quaternion, fields: [x, y, z, w], function: yaw, max_age_s: 1}
action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""
    robot = Robot(text, spec(5))
    robot.hear("/j", joint_state({"b": 0.5, "a": -2.0}))
    turned = make("geometry_msgs/msg/Quaternion")
    turned.z, turned.w = np.sin(0.6), np.cos(0.6)
    robot.hear("/q", turned)
    expected = [np.cos(-2.0), np.cos(0.5), np.sin(-2.0), np.sin(0.5), 1.2]
    np.testing.assert_allclose(robot.build(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("quaternion", "length"), [((0, 0, 0, 0), "0"), ((0, 0, 0.354, 0.354), "0.501"), ((0, 0, 0, 1.02), "1.02")]
)
def test_a_quaternion_that_is_no_rotation(quaternion: tuple[float, ...], length: str):
    text = replaced(
        "{topic: /speed, type: std_msgs/msg/Float64, field: data, max",
        "{topic: /q, type: geometry_msgs/msg/Quaternion, fields: [x, y, z, w], function: yaw, max",
    )
    robot = Robot(text)
    robot.hear("/joint_states", joint_state({"elbow": 1.0, "wrist": 2.0}))
    message = make("geometry_msgs/msg/Quaternion")
    message.x, message.y, message.z, message.w = map(float, quaternion)
    robot.hear("/q", message)
    assert robot.cause() == (Kind.NO_ROTATION, f"/q has a quaternion of length {length}, expected 1")
    message.x = float("nan")
    assert robot.cause()[0] is Kind.NON_FINITE


def test_octets_are_numbers_and_no_text():
    """49 is "1" as text, and 1 is no text at all."""
    diagnostics = pytest.importorskip("diagnostic_msgs.msg", reason="needs ROS's messages")
    numbers = pytest.importorskip("std_msgs.msg", reason="needs ROS's messages")
    level = diagnostics.DiagnosticStatus()
    read = reader("diagnostic_msgs/msg/DiagnosticStatus", parse_path("level"), describe_installed)
    for value in (1, 49, 255):
        level.level = bytes([value])
        np.testing.assert_array_equal(read(level), [value])
    several = numbers.ByteMultiArray(data=[bytes([49]), bytes([0]), bytes([200])])
    read = reader("std_msgs/msg/ByteMultiArray", parse_path("data"), describe_installed)
    np.testing.assert_array_equal(read(several), [49, 0, 200])
    one = reader("std_msgs/msg/ByteMultiArray", parse_path("data[2]"), describe_installed)
    np.testing.assert_array_equal(one(several), [200])


def test_dict_observations_come_in_the_bundles_order():
    text = CONTRACT.replace("names: [elbow, wrist],", "names: [elbow, wrist], key: arm,").replace(
        "field: data, max", "field: data, key: speed, max"
    )
    robot = Robot(text, spec(3, speed=1, arm=2))
    robot.hear("/joint_states", joint_state({"elbow": 1.0, "wrist": 2.0}))
    robot.hear("/speed", number(3.0))
    flat = robot.build()
    np.testing.assert_array_equal(flat, [3.0, 1.0, 2.0])
    arranged = robot.layout.arrange(flat)
    assert list(arranged) == ["speed", "arm"]
    np.testing.assert_array_equal(arranged["arm"], [1.0, 2.0])


@pytest.mark.parametrize(
    ("text", "of", "message"),
    [
        (CONTRACT, spec(4), r"observation has 2 \+ 1 = 3 elements, expected the bundle's 4"),
        (CONTRACT, spec(3, arm=2, speed=1), "no entry with the key 'arm'"),
        (
            replaced("field: data, max", "field: data, elements: [speed], max"),
            spec(),
            "give 'speed', but",
        ),
        (
            replaced("field: data, max", "field: data, elements: [a, b], max"),
            spec(),
            "elements holds 2 names",
        ),
        (replaced("names: [elbow, wrist],", ""), spec(), "position of sensor_msgs/msg/JointState may have any length"),
        (
            replaced("field: data, max", "field: data, size: 2, max"),
            spec(),
            "size is 2, but the fields",
        ),
        (
            replaced("field: data, max", "field: data, names: [a], max"),
            spec(),
            "std_msgs/msg/Float64 has",
        ),
        (
            replaced("field: data, max", "field: data, stamp: header, max"),
            spec(),
            "stamp is header, but",
        ),
        (replaced("field: data, max", "field: data, function: yaw, max"), spec(), "function yaw got 1 elements"),
        (
            CONTRACT.replace("msg/Float64,", "msg/Unheard,"),
            spec(),
            r"observation\[1\]: message type",
        ),
    ],
)
def test_contracts_that_do_not_fit(text: str, of: ObservationSpec, message: str):
    with pytest.raises(ContractError, match=message):
        Robot(text, of)


def test_elements_may_be_insisted_on():
    assert Robot(replaced("field: data, max", "field: data, elements: [o2], max"))


def test_unknown_keys_are_named():
    text = CONTRACT.replace("names: [elbow, wrist],", "names: [elbow, wrist], key: arm,").replace(
        "field: data, max", "field: data, key: velocity, max"
    )
    with pytest.raises(ContractError, match="no entry with the key 'speed'"):
        Robot(text, spec(3, speed=1, arm=2))
    with pytest.raises(ContractError, match="has the key 'arm', but the bundle's observation is no Dict"):
        Robot(text)
