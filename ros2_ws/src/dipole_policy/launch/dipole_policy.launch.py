"""ros2 launch dipole_policy dipole_policy.launch.py bundle:=DIRECTORY contract:=FILE"""

from __future__ import annotations

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description() -> LaunchDescription:
    """The node, with its arguments."""
    defaults = os.path.join(get_package_share_directory("dipole_policy"), "config", "dipole_policy.yaml")
    node = LifecycleNode(
        package="dipole_policy",
        executable="policy_node",
        name="dipole_policy",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        # The node may need a few seconds to end after the signal; the stop action is sent at once.
        sigterm_timeout="10",
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "bundle": ParameterValue(LaunchConfiguration("bundle"), value_type=str),
                "contract": ParameterValue(LaunchConfiguration("contract"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
            },
        ],
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="directory or .dipole file of the policy"),
            DeclareLaunchArgument("contract", description="YAML file: the topics of observation and action"),
            DeclareLaunchArgument("params_file", default_value=defaults, description="parameters of the node"),
            DeclareLaunchArgument("namespace", default_value="", description="of the node"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="follow /clock"),
            DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
            DeclareLaunchArgument("autostart", default_value="true", description="configure and activate right away"),
            node,
        ]
    )
