"""Drives a robot over ROS 2 with a policy bundle: contract, safety, live greediness, reload; the core needs no ROS."""
