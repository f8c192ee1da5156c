"""The workspace built by colcon, and the node driving from the install tree."""

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
SOURCES = Path(__file__).resolve().parents[2] / "ros2_ws/src"


@pytest.fixture(scope="module", params=[(), ("--symlink-install",)], ids=["copied", "linked"])
def install(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of its own, so that nothing is written beside the sources."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copytree(SOURCES, workspace / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    command = [sys.executable, "-m", "colcon", "--log-base", "log", "build", "--packages-up-to", "dipole_policy"]
    command += request.param
    built = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return workspace / "install"


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
    environment = {**os.environ, "COLCON_PYTHON_EXECUTABLE": sys.executable}
    environment.pop("PYTHONPATH", None)
    node = str(install / "dipole_policy/lib/dipole_policy/policy_node")
    of = namespace()
    program = f'source {install}/local_setup.bash && exec "$0" "$@"'
    arguments = [
        "bash",
        "-c",
        program,
        node,
        "--ros-args",
        "-r",
        f"__ns:={of}",
        "-p",
        "autostart:=true",
        "-p",
        "max_stall_s:=3.0",
    ]
    arguments += ["-p", f"bundle:={bundle}", "-p", f"contract:={contract}"]
    arguments += ["--params-file", str(install / "dipole_policy/share/dipole_policy/config/dipole_policy.yaml")]
    with robot(of) as found:
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            found.drives()
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
