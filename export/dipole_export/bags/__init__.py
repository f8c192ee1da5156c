"""Converts rosbag2 recordings to transitions, with the node's contract and observation builder; needs no ROS."""
