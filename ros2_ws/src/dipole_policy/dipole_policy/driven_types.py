"""Message types that are read and written as a whole, without naming their fields in the contract."""

from __future__ import annotations

from collections.abc import Mapping

HISTORY = "history"
"""The function of odometry that gives where the car was during the last 1.5 s, in its frame of now."""
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGES = (IMAGE, COMPRESSED_IMAGE)
"""Types of cameras."""
ODOMETRY = "nav_msgs/msg/Odometry"
POSE = (("pose", "pose", "position", "x"), ("pose", "pose", "position", "y"), ("pose", "pose", "orientation"))
"""Fields of odometry that its history is made of."""
PLAN_STOPS: Mapping[str, tuple[str, ...]] = {
    "nav_msgs/msg/Path": ("empty", "none"),
    "autoware_planning_msgs/msg/Trajectory": ("stand", "none"),
}
"""Types that take a plan, and what a stop may send of each.

Nav2's controllers abort on an empty path, and stop. Autoware's ignore trajectories of fewer than three points and go on
following the last one (``MpcLateralController::setTrajectory``, ``PidLongitudinalController::setTrajectory``), so that
only one without speed stops the car.
"""
FRAMES = ("odometry", "base")
"""In which a plan's poses are given."""
