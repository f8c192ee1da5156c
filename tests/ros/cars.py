"""A car without ROS: messages as plain Python, and the contract that reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from robots import TYPES

CONTRACT = """
rate_hz: 10
deadline_s: 1.0
observation:
  - {topic: left, type: sensor_msgs/msg/Image, key: cameras, elements: [CAM_L0], max_age_s: 0.6}
  - {topic: front, type: sensor_msgs/msg/Image, key: cameras, elements: [CAM_F0], max_age_s: 0.6}
  - {topic: right, type: sensor_msgs/msg/Image, key: cameras, elements: [CAM_R0], max_age_s: 0.6}
  - {topic: odom, type: nav_msgs/msg/Odometry, function: history, key: history, max_age_s: 0.6}
  - topic: odom
    type: nav_msgs/msg/Odometry
    fields: [twist.twist.linear.x, twist.twist.linear.y]
    key: velocity
    max_age_s: 0.6
  - topic: imu
    type: sensor_msgs/msg/Imu
    fields: [linear_acceleration.x, linear_acceleration.y]
    key: acceleration
    max_age_s: 0.6
  - {topic: route, type: std_msgs/msg/Int8, field: data, key: command, max_age_s: 5.0}
action: {topic: plan, type: nav_msgs/msg/Path, frame: odometry, on_stop: empty}
"""
TRAJECTORY = "{topic: plan, type: autoware_planning_msgs/msg/Trajectory, frame: odometry, on_stop: stand}"
AUTOWARE = CONTRACT.replace("{topic: plan, type: nav_msgs/msg/Path, frame: odometry, on_stop: empty}", TRAJECTORY)

_HEADER = "std_msgs/Header"
TYPES |= {
    "std_msgs/msg/Int8": {"data": "int8"},
    "geometry_msgs/msg/PoseStamped": {"header": _HEADER, "pose": "geometry_msgs/Pose"},
    "geometry_msgs/msg/TwistWithCovariance": {"twist": "geometry_msgs/Twist", "covariance": "double[36]"},
    "nav_msgs/msg/Odometry": {
        "header": _HEADER,
        "child_frame_id": "string",
        "pose": "geometry_msgs/PoseWithCovariance",
        "twist": "geometry_msgs/TwistWithCovariance",
    },
    "nav_msgs/msg/Path": {"header": _HEADER, "poses": "sequence<geometry_msgs/PoseStamped>"},
    "sensor_msgs/msg/Image": {
        "header": _HEADER, "height": "uint32", "width": "uint32", "encoding": "string", "is_bigendian": "uint8",
        "step": "uint32", "data": "sequence<uint8>",
    },
    "sensor_msgs/msg/Imu": {
        "header": _HEADER, "orientation": "geometry_msgs/Quaternion", "orientation_covariance": "double[9]",
        "angular_velocity": "geometry_msgs/Vector3", "angular_velocity_covariance": "double[9]",
        "linear_acceleration": "geometry_msgs/Vector3", "linear_acceleration_covariance": "double[9]",
    },
    # As in autoware_msgs; PyPI has no wheel of them.
    "autoware_planning_msgs/msg/Trajectory": {
        "header": _HEADER, "points": "sequence<autoware_planning_msgs/TrajectoryPoint>",
    },
    "autoware_planning_msgs/msg/TrajectoryPoint": {
        "time_from_start": "builtin_interfaces/Duration", "pose": "geometry_msgs/Pose",
        "longitudinal_velocity_mps": "float", "lateral_velocity_mps": "float", "acceleration_mps2": "float",
        "heading_rate_rps": "float", "front_wheel_angle_rad": "float", "rear_wheel_angle_rad": "float",
    },
}  # fmt: skip


def image(pixels: Any, encoding: str = "rgb8", padding: int = 0) -> Any:
    """Of pixels [height, width] or [height, width, 3], with bytes of padding behind each row."""
    pixels = np.asarray(pixels, np.uint8)
    rows = pixels.reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 77, np.uint8)], axis=1)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="camera")
    height, width = pixels.shape[:2]
    return SimpleNamespace(
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=padded.shape[1],
        data=padded.tobytes(),
    )  # fmt: skip


def filled(message: Any, pose: Any, velocity: Any = (0.0, 0.0), stamp_ns: int = 0) -> Any:
    """An Odometry with x, y, yaw and a velocity."""
    x, y, yaw = map(float, pose)
    message.header.frame_id, message.child_frame_id = "odom", "base_link"
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(int(stamp_ns), 1_000_000_000)
    message.pose.pose.position.x, message.pose.pose.position.y = x, y
    message.pose.pose.orientation.z, message.pose.pose.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    message.twist.twist.linear.x, message.twist.twist.linear.y = map(float, velocity)
    return message
