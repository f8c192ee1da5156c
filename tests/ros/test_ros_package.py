"""The package as colcon, rosdep and an older distribution see it."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from dipole_policy.contract import Contract

PACKAGE = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy"
SOURCES = sorted((PACKAGE / "dipole_policy").glob("*.py"))
LAUNCH = PACKAGE / "launch/dipole_policy.launch.py"
HUMBLE = json.loads((Path(__file__).parent / "humble_api.json").read_text())

KEYS = {"PIL": "python3-pil", "numpy": "python3-numpy", "yaml": "python3-yaml"}
"""Import → rosdep key, where they differ."""
OPTIONAL = {"bondpy", "rosbags", "gymnasium", "mujoco", "matplotlib"}
"""Imported where they are needed, with a sentence when they are not there."""


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"dipole_policy"}


def manifest() -> ElementTree.Element:
    return ElementTree.parse(PACKAGE / "package.xml").getroot()


def depends() -> set[str]:
    return {element.text or "" for element in manifest().iter("exec_depend")}


def test_package_xml():
    package = manifest()
    assert package.get("format") == "3"
    assert package.findtext("license") == "MIT"
    assert package.findtext("export/build_type") == "ament_python"
    assert package.findtext("name") == "dipole_policy"


def test_package_xml_is_what_ros_tools_read():
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="needs catkin_pkg")
    package = catkin_pkg.parse_package(str(PACKAGE))
    warnings: list[str] = []
    package.validate(warnings)
    assert warnings == []


def test_every_import_is_declared():
    needed = set().union(*(imports(path) for path in [*SOURCES, LAUNCH])) - OPTIONAL
    assert {KEYS.get(name, name) for name in needed} <= depends()


def test_every_type_of_the_examples_is_declared():
    for path in PACKAGE.glob("contracts/*.yaml"):
        contract = Contract.load(path)
        for entry in (*contract.inputs, *contract.actions):
            assert entry.type.split("/")[0] in depends(), path


def setup_arguments() -> dict[str, Any]:
    call = next(node for node in ast.walk(parsed(PACKAGE / "setup.py")) if isinstance(node, ast.Call) and node.keywords)
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def test_versions_and_names_agree():
    arguments = setup_arguments()
    assert ast.literal_eval(arguments["version"]) == manifest().findtext("version")
    assert ast.literal_eval(arguments["license"]) == "MIT"
    assert (PACKAGE / "resource/dipole_policy").exists()
    assert (PACKAGE / "dipole_policy/py.typed").exists()


def test_scripts_go_where_ros2_run_looks():
    config = configparser.ConfigParser()
    config.read(PACKAGE / "setup.cfg")
    assert config["develop"]["script_dir"] == "$base/lib/dipole_policy"
    assert config["install"]["install_scripts"] == "$base/lib/dipole_policy"


def test_entry_points_resolve():
    points = ast.literal_eval(setup_arguments()["entry_points"])["console_scripts"]
    names = set()
    for point in points:
        name, target = (part.strip() for part in point.split("="))
        module, function = target.split(":")
        path = PACKAGE / (module.replace(".", "/") + ".py")
        functions = {node.name for node in parsed(path).body if isinstance(node, ast.FunctionDef)}
        assert function in functions, point
        names.add(name)
    assert {"policy_node", "dipole_policy"} <= names
    assert "policy_node" in LAUNCH.read_text()


def test_the_launch_file_has_its_arguments():
    """Those that it declares are those that it reads and those that the docs name."""
    calls = [node for node in ast.walk(parsed(LAUNCH)) if isinstance(node, ast.Call)]
    declared = {
        ast.literal_eval(node.args[0])
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "_argument" and isinstance(node.args[0], ast.Constant)
    }
    assert declared == {
        *("bundle", "contract", "params_file", "namespace", "use_sim_time", "log_level", "autostart"),
        *("respawn", "respawn_delay", "end_with_launch"),
    }
    text = LAUNCH.read_text()
    constants = [node.value for node in parsed(LAUNCH).body if isinstance(node, ast.Assign)]
    lists = [ast.literal_eval(value) for value in constants if isinstance(value, ast.Tuple)]
    used = set(re.findall(r'given\["(\w+)"\]', text)).union(*lists)
    assert used == declared
    docs = (PACKAGE.parents[2] / "docs/ros2.md").read_text()
    assert {name for name in declared if f"`{name}`" not in docs} == set()


def test_the_parameter_file_holds_declared_parameters_with_their_defaults():
    pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
    from dipole_policy.parameters import BY_NAME

    content = yaml.safe_load((PACKAGE / "config/dipole_policy.yaml").read_text())
    values = content["/**"]["ros__parameters"]
    for name, value in values.items():
        default = BY_NAME[name].default
        assert type(value) is type(default), name
        assert value == default or (value != value and default != default), name
    from_launch = {"bundle", "contract", "bundle_root", "autostart", "shadow_omegas"}
    assert set(values) == set(BY_NAME) - from_launch


def test_no_pickle_no_shell_no_evaluation():
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path
        assert not imports(path) & {"pickle", "shelve", "dill", "cloudpickle"}, path
        text = path.read_text()
        # The demo starts the node and the arm as its user would.
        assert "subprocess" not in text or path.name == "demo.py", path
        assert "shell" not in text, path
        assert "pickle" not in text, path
        assert "os.system" not in text, path


def test_files_are_short():
    for path in SOURCES:
        assert len(path.read_text().splitlines()) < 400, path


# ---- nothing that came after Humble


def newer(source: str) -> list[str]:
    """What of a source is not in Humble's rclpy. ``getattr(node, "name", default)`` is how to use it all the same."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
            known = HUMBLE["modules"].get(node.module)
            if known is None:
                found.append(str(node.module))
                continue
            submodules = {name.rsplit(".", 1)[1] for name in HUMBLE["modules"] if name.startswith(f"{node.module}.")}
            found += [alias.name for alias in node.names if alias.name not in known and alias.name not in submodules]
        elif isinstance(node, ast.Attribute) and node.attr in HUMBLE["newer_names"]:
            found.append(node.attr)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            added = HUMBLE["newer_keywords"].get(name, [])
            found += [f"{name}({keyword.arg}=)" for keyword in node.keywords if keyword.arg in added]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_newer_than_humble(path: Path):
    assert newer(path.read_text()) == []


def test_what_is_newer_would_be_found():
    assert newer("node.add_post_set_parameters_callback(f)") == ["add_post_set_parameters_callback"]
    assert newer("from rclpy.experimental import EventsExecutor") == ["rclpy.experimental"]
    assert newer("from rclpy.parameter_client import AsyncParameterClient") == ["rclpy.parameter_client"]
    assert newer("node.create_timer(1.0, f, autostart=False)") == ["create_timer(autostart=)"]
    assert newer("executor.shutdown(wait_for_threads=False)") == ["shutdown(wait_for_threads=)"]
    assert newer("from rclpy.lifecycle import LifecycleNode\nfrom rclpy.clock import ClockType") == []


def test_the_core_needs_no_ros():
    """Contract, loop, safety and the check import nothing of ROS, whatever is installed."""
    needs_ros = {"node.py", "main.py", "session.py", "executor.py", "reports.py", "parameters.py"}
    needs_ros |= {"simulated_arm.py", "demo.py", "announcements.py", "intake.py", "stopping.py", "wiring.py"}
    needs_ros |= {"bond.py", "command_watchdog.py", "small_node.py"}
    ros = {"rclpy", "std_msgs", "std_srvs", "diagnostic_msgs", "rcl_interfaces", "sensor_msgs", "rosgraph_msgs"}
    for path in SOURCES:
        if path.name not in needs_ros:
            assert not imports(path) & ros, path
    code = "import sys, dipole_policy.cli, dipole_policy.loop; sys.exit('rclpy' in sys.modules)"
    paths = [str(PACKAGE), str(PACKAGE.parent / "dipole_runtime")]
    program = f"import sys; sys.path[:0] = {paths!r}\n{code}"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_examples_fit_their_message_types():
    missing = [name for name in ("sensor_msgs", "geometry_msgs", "nav_msgs") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: see the extra 'ros' or your ROS distribution")
    from dipole_policy.fields import describe_installed
    from dipole_policy.holder import Fitting, PolicyOptions

    sizes = {}
    for path in sorted(PACKAGE.glob("contracts/*.yaml")):
        fitting = Fitting(Contract.load(path), describe_installed, PolicyOptions())
        sizes[path.stem] = sum(reader.size for reader in fitting.readers)
    assert sizes.keys() >= {"manipulator", "mobile_base", "vehicle"}
    assert sizes["mobile_base"] == 8
    assert sizes["manipulator"] == 15
    assert sizes["vehicle"] == 6
