"""A guided policy drives a robot over ROS 2: contract, safety, live greediness, reload; the core needs no ROS."""
