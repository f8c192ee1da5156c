"""The workspace built by colcon, and the node driving from the install tree, with typed messages and without."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
if find_spec("colcon_core") is None:
    pytest.skip(
        "colcon is not installed: pip install colcon-common-extensions 'setuptools<80'", allow_module_level=True
    )

from graph import STOP, namespace, robot  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")
TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parents[1] / "ros2_ws/src"
GENERATORS = ("ament_cmake", "ament_cmake_include_directories", "ament_cmake_ros", "rosidl_default_generators")
"""Of the packages that build messages, those that ROS always has and that are wheels of their own."""


def missing_for_messages() -> list[str]:
    """What is not here of what building dipole_msgs needs."""
    found = {"cmake": shutil.which("cmake"), "a C++ compiler": shutil.which("c++") or shutil.which("g++")}
    prefixes = [Path(sys.prefix), *map(Path, filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)))]
    for name in GENERATORS:
        found[name] = next((str(prefix) for prefix in prefixes if (prefix / "share" / name / "cmake").exists()), None)
    return [name for name, place in found.items() if place is None]


@pytest.fixture(scope="module", params=["copied", "linked"])
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of its own, so that nothing is written beside the sources; the copied one with typed messages."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(SOURCES, workspace / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    command = [sys.executable, "-m", "colcon", "--log-base", "log", "build", "--packages-up-to", "dipole_policy"]
    if request.param == "linked":
        command.append("--symlink-install")
    elif not missing_for_messages():
        command.append("dipole_msgs")
    # What sourcing a ROS install sets; the wheels have nothing to source.
    environment = dict(os.environ)
    for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"):
        environment[name] = os.pathsep.join(filter(None, [os.environ.get(name), sys.prefix]))
    options = [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_PROJECT_INCLUDE={TESTS / 'wheels.cmake'}"]
    command += ["--cmake-args", "-DBUILD_TESTING=OFF", *options]
    built = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return workspace / "install"


def in_workspace(install: Path, *command: str) -> list[str]:
    """A command as it is run after sourcing the workspace."""
    return ["bash", "-c", f'source {install}/local_setup.bash && exec "$0" "$@"', *command]


def environment_of_a_user() -> dict[str, str]:
    """That of this process, without the sources on Python's path."""
    environment = {**os.environ, "COLCON_PYTHON_EXECUTABLE": sys.executable}
    environment.pop("PYTHONPATH", None)
    return environment


def test_what_is_installed_where(install: Path):
    prefix = install / "dipole_policy"
    scripts = {path.name for path in (prefix / "lib/dipole_policy").iterdir()}
    assert scripts >= {"policy_node", "dipole_policy", "simulated_arm", "command_watchdog"}
    assert (prefix / "share/ament_index/resource_index/packages/dipole_policy").exists()
    share = prefix / "share/dipole_policy"
    for file in (
        "package.xml",
        "launch/dipole_policy.launch.py",
        "config/dipole_policy.yaml",
        "contracts/manipulator.yaml",
        "layouts/foxglove.json",
        "layouts/rqt.perspective",
        "security/policy.xml",
        "examples/dipole_policy.service",
        "examples/Dockerfile",
        "examples/compose.yaml",
    ):
        assert (share / file).exists(), file
    assert (install / "dipole_runtime/share/ament_index/resource_index/packages/dipole_runtime").exists()


def test_the_installed_node_drives_and_stops(install: Path, bundle: Path, contract: Path):
    environment = environment_of_a_user()
    node = str(install / "dipole_policy/lib/dipole_policy/policy_node")
    of = namespace()
    arguments = in_workspace(install, node, "--ros-args", "-r", f"__ns:={of}")
    arguments += ["-p", "autostart:=true", "-p", "max_stall_s:=3.0"]
    arguments += ["-p", f"bundle:={bundle}", "-p", f"contract:={contract}"]
    arguments += ["--params-file", str(install / "dipole_policy/share/dipole_policy/config/dipole_policy.yaml")]
    with robot(of) as found:
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            found.drives()
            topics = {name for name, _ in found.node.get_topic_names_and_types()}
            assert (f"{of}/dipole_policy/typed/driven" in topics) == (install / "dipole_msgs").exists()
            # Not from some other installation.
            modules = Path(f"/proc/{process.pid}/environ")
            assert not modules.exists() or str(install) in modules.read_text()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=20.0)
        finally:
            process.kill()
        assert process.returncode == 0, output
        time.sleep(0.2)
        assert found.commands[-1] == STOP


def test_the_typed_messages_that_it_built(install: Path):
    """The tests on the wire, in a process that has sourced the workspace."""
    if not (install / "dipole_msgs").exists():
        pytest.skip(f"dipole_msgs is not built here: {', '.join(missing_for_messages()) or 'left out on purpose'}")
    program = [sys.executable, "-m", "pytest", "--confcutdir", str(TESTS), "-q", "-p", "no:cacheprovider"]
    command = in_workspace(install, *program, "-k", "not broken_package", str(TESTS / "test_ros_typed_wire.py"))
    tested = subprocess.run(
        command, cwd=TESTS, env=environment_of_a_user(), capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "4 passed" in tested.stdout, tested.stdout
    assert "skipped" not in tested.stdout, tested.stdout
