"""A small robot that writes recordings: two joints, a speed, commands, a reward and what ends episodes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
START_S = 1_700_000_000.0
PERIOD_S = 0.05
CONTRACT = """
rate_hz: 20
observation:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, field: position, names: [elbow, wrist], max_age_s: 0.2}
  - {topic: /speed, type: std_msgs/msg/Float64, field: data, max_age_s: 0.2}
action: {topic: /command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}
"""

JOINTS, SPEED, COMMAND, REWARD = "/joint_states", "/speed", "/command", "/reward"


def nanoseconds(time_s: float) -> int:
    """Of the recording's clock, from seconds since its start."""
    return round(START_S * 1e9) + round(time_s * 1e9)


def stamp(time_s: float) -> Any:
    seconds, rest = divmod(nanoseconds(time_s), 1_000_000_000)
    return STORE.types["builtin_interfaces/msg/Time"](seconds, rest)


def header(time_s: float) -> Any:
    return STORE.types["std_msgs/msg/Header"](stamp(time_s), "")


def joints(time_s: float, elbow: float, wrist: float, extra: Iterable[str] = ()) -> Any:
    """Named joints, those of the contract in the other order."""
    names = ["wrist", *extra, "elbow"]
    values = np.array([wrist, *(9.0 for _ in extra), elbow])
    none = np.zeros(0)
    return STORE.types["sensor_msgs/msg/JointState"](header(time_s), names, values, none, none)


def number(value: float) -> Any:
    return STORE.types["std_msgs/msg/Float64"](value)


def boolean(value: bool) -> Any:
    return STORE.types["std_msgs/msg/Bool"](value)


def empty() -> Any:
    return STORE.types["std_msgs/msg/Empty"]()


def numbers(values: Iterable[float]) -> Any:
    layout = STORE.types["std_msgs/msg/MultiArrayLayout"]([], 0)
    return STORE.types["std_msgs/msg/Float64MultiArray"](layout, np.array(list(values), np.float64))


def twist(time_s: float, linear: float, angular: float) -> Any:
    vector = STORE.types["geometry_msgs/msg/Vector3"]
    twist_ = STORE.types["geometry_msgs/msg/Twist"](vector(linear, 0.0, 0.0), vector(0.0, 0.0, angular))
    return STORE.types["geometry_msgs/msg/TwistStamped"](header(time_s), twist_)


def clock(seconds: float) -> Any:
    whole, rest = divmod(round(seconds * 1e9), 1_000_000_000)
    return STORE.types["rosgraph_msgs/msg/Clock"](STORE.types["builtin_interfaces/msg/Time"](whole, rest))


Said = tuple[float, str, Any]
"""Seconds since the start, topic, message."""


def write_bag(path: Path, said: Iterable[Said], storage: StoragePlugin = StoragePlugin.MCAP, version: Any = 9) -> Path:
    """Messages as a recording, in the order of their times, and among equal times in the order given."""
    with Writer(path, version=version, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for time_s, topic, message in sorted(said, key=lambda one: one[0]):
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=STORE)
            writer.write(connections[topic], nanoseconds(time_s), STORE.serialize_cdr(message, name))
    return path


def drive(count: int, start_s: float = 0.0, first: int = 0, reward: bool = True) -> list[Said]:
    """One command each period, 1 ms after what it answers; number k says k in everything."""
    said: list[Said] = []
    for index in range(count):
        at, value = start_s + index * PERIOD_S, float(first + index)
        said.append((at, JOINTS, joints(at, value, value + 0.25)))
        said.append((at, SPEED, number(value + 0.5)))
        if reward:
            said.append((at, REWARD, number(100.0 + value)))
        said.append((at + 0.001, COMMAND, numbers([0.001 * value, -0.001 * value])))
    return said


def without(said: Iterable[Said], topic: str, begin_s: float, end_s: float) -> list[Said]:
    """Leaves out a topic's messages within a time."""
    return [one for one in said if not (one[1] == topic and begin_s <= one[0] < end_s)]
