"""From a rosbag2 recording to transitions, by the node's own contract and observation builder; needs no ROS."""
