"""A robot without ROS: descriptions of message types, messages and contracts as plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError
from dipole_policy.fields import full_name

HEADER = {"stamp": "builtin_interfaces/Time", "frame_id": "string"}
XYZ = {"x": "double", "y": "double", "z": "double"}
TYPES: dict[str, Mapping[str, str]] = {
    "std_msgs/msg/Header": HEADER,
    "builtin_interfaces/msg/Time": {"sec": "int32", "nanosec": "uint32"},
    "std_msgs/msg/Float64": {"data": "double"},
    "std_msgs/msg/Bool": {"data": "boolean"},
    "std_msgs/msg/String": {"data": "string"},
    "std_msgs/msg/Int32": {"data": "int32"},
    "std_msgs/msg/Float64MultiArray": {"layout": "std_msgs/MultiArrayLayout", "data": "sequence<double>"},
    "geometry_msgs/msg/Vector3": XYZ,
    "geometry_msgs/msg/Point": XYZ,
    "geometry_msgs/msg/Quaternion": {**XYZ, "w": "double"},
    "geometry_msgs/msg/Twist": {"linear": "geometry_msgs/Vector3", "angular": "geometry_msgs/Vector3"},
    "geometry_msgs/msg/TwistStamped": {"header": "std_msgs/Header", "twist": "geometry_msgs/Twist"},
    "geometry_msgs/msg/Pose": {"position": "geometry_msgs/Point", "orientation": "geometry_msgs/Quaternion"},
    "geometry_msgs/msg/PoseWithCovariance": {"pose": "geometry_msgs/Pose", "covariance": "double[36]"},
    "geometry_msgs/msg/PoseArray": {"header": "std_msgs/Header", "poses": "sequence<geometry_msgs/Pose>"},
    "sensor_msgs/msg/JointState": {
        "header": "std_msgs/Header",
        "name": "sequence<string>",
        "position": "sequence<double>",
        "velocity": "sequence<double>",
        "effort": "sequence<double>",
    },
    "trajectory_msgs/msg/JointTrajectory": {
        "header": "std_msgs/Header",
        "joint_names": "sequence<string>",
        "points": "sequence<trajectory_msgs/JointTrajectoryPoint>",
    },
    "trajectory_msgs/msg/JointTrajectoryPoint": {
        "positions": "sequence<double>",
        "velocities": "sequence<double>",
        "time_from_start": "builtin_interfaces/Duration",
    },
    "builtin_interfaces/msg/Duration": {"sec": "int32", "nanosec": "uint32"},
}

CONTRACT = """
rate_hz: 20
deadline_s: 0.5
observation:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position, names: [elbow, wrist], max_age_s: 0.2}
  - {topic: /speed, type: std_msgs/msg/Float64, field: data, max_age_s: 0.2}
action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""


def contract(text: str = CONTRACT, **changes: str) -> Contract:
    """Parses a contract; every change replaces a text in it."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return Contract.from_bytes(text.encode(), "robot.yaml")


def replaced(old: str, new: str, text: str = CONTRACT) -> str:
    """The text with a part exchanged, which it must have."""
    assert old in text
    return text.replace(old, new)


LIMITED = replaced(
    "on_stop: zero}",
    "on_stop: hold, max_rate: [0.5, 0.5], start_from: {topic: /joint_states, field: position, names: [elbow, wrist]}}",
)
"""The same with positions: their rates count from where the arm is measured."""


def describe(name: str) -> Mapping[str, str]:
    """As the installed messages describe themselves."""
    if full_name(name) not in TYPES:
        raise ContractError(f"message type {name} cannot be loaded, expected it to be installed")
    return TYPES[full_name(name)]


def make(name: str) -> Any:
    """An empty message."""
    message = SimpleNamespace()
    for field, kind in describe(name).items():
        value: Any = 0.0
        if kind.startswith("sequence"):
            value = []
        elif kind.endswith("]"):
            value = [0.0] * int(kind[kind.index("[") + 1 : -1])
        elif kind == "string":
            value = ""
        elif kind == "std_msgs/MultiArrayLayout":
            value = None
        elif "/" in kind:
            value = make(kind)
        setattr(message, field, value)
    return message


def joint_state(positions: Mapping[str, float], stamp_ns: int = 0) -> Any:
    """Named joints."""
    message = make("sensor_msgs/msg/JointState")
    message.name, message.position = list(positions), list(positions.values())
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return message


def number(value: float) -> Any:
    """A Float64."""
    message = make("std_msgs/msg/Float64")
    message.data = value
    return message
