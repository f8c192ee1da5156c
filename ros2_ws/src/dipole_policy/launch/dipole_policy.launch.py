"""ros2 launch dipole_policy dipole_policy.launch.py bundle:=DIRECTORY contract:=FILE"""

from __future__ import annotations

import math
import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

NAME = "dipole_policy"
AS_PARAMETERS = ("bundle", "contract", "use_sim_time", "autostart")
"""Arguments that are parameters of the node; an empty one is not given, so that the parameter file's value holds."""
SWITCHES = ("use_sim_time", "autostart", "respawn", "end_with_launch")


def generate_launch_description() -> LaunchDescription:
    """The node, with its arguments."""
    defaults = os.path.join(get_package_share_directory(NAME), "config", f"{NAME}.yaml")
    return LaunchDescription(
        [
            _argument("bundle", "", "directory or .dipole file of the policy; empty: the parameter file's"),
            _argument(
                "contract", "", "YAML file with the topics of observation and action; empty: the parameter file's"
            ),
            _argument("params_file", defaults, "parameters of the node; arguments that are given win over it"),
            _argument("namespace", "", "of the node"),
            _argument("use_sim_time", "", "true: follow /clock; empty: the parameter file's, or false"),
            _argument("log_level", "info", "debug, info, warn, error or fatal"),
            _argument("autostart", "", "configure and activate right away; empty: the parameter file's, or true"),
            _argument(
                "respawn", "false", "true: start the node again whenever it ends; with autostart it drives again"
            ),
            _argument("respawn_delay", "2.0", "seconds before the node is started again"),
            _argument("end_with_launch", "true", "the node stops and ends if this launch is killed"),
            OpaqueFunction(function=_node),
        ]
    )


def _argument(name: str, default: str, description: str) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(name, default_value=default, description=description)


def _node(context: LaunchContext) -> list[LifecycleNode]:
    """The node as the arguments want it: known only now, when launch has read them."""
    given = dict(context.launch_configurations)
    switches = {name: _switch(name, given[name]) for name in SWITCHES if given[name]}
    # With their types: a folder may be called 2024 or true.
    parameters = {
        name: switches[name] if name in switches else ParameterValue(given[name], value_type=str)
        for name in AS_PARAMETERS
        if given[name]
    }
    # launch itself only warns, and the node would drive without the limits in that file.
    if not os.path.isfile(given["params_file"]):
        raise FileNotFoundError(f"launch argument params_file is {given['params_file']!r}, expected an existing file")
    # launch forwards no SIGTERM and cannot forward a SIGKILL: the node watches the launch's process itself.
    watched = ["--end-with", str(os.getpid())] if switches.get("end_with_launch") else []
    # Before the parameter file and as a rule for all nodes (-p): any value in the file wins over it.
    first = ["--ros-args", "-p", "autostart:=true", "--log-level", given["log_level"]]
    node = LifecycleNode(
        package=NAME,
        executable="policy_node",
        name=NAME,
        namespace=given["namespace"],
        output="screen",
        # The node may need a few seconds to end after the signal; the stop action is sent at once.
        sigterm_timeout="10",
        respawn=switches.get("respawn", False),
        respawn_delay=_seconds("respawn_delay", given["respawn_delay"]),
        arguments=[*watched, *first],
        parameters=[given["params_file"], *([parameters] if parameters else [])],
    )
    return [node]


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"launch argument {name} is {text!r}, expected true or false")
    return text.lower() == "true"


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise ValueError(f"launch argument {name} is {text!r}, expected seconds, 0 or more")
    return value
