"""The launch file, really run: whose values hold, what comes back, and what a killed launch leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
if find_spec("launch_ros") is None:
    pytest.skip("launch_ros is not installed: it is no part of PyPI, only of ROS", allow_module_level=True)

from graph import STOP, Robot, namespace, robot, wait  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("ros"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc"),
]
PACKAGE = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy"
LAUNCH = PACKAGE / "launch/dipole_policy.launch.py"
# As `ros2 launch` runs a file.
PROGRAM = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *arguments = sys.argv[1:]
service = LaunchService(argv=arguments)
pairs = [tuple(argument.split(":=", 1)) for argument in arguments]
service.include_launch_description(
    IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=pairs)
)
sys.exit(service.run())
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What colcon installs, as far as launch needs it."""
    found = tmp_path_factory.mktemp("prefix")
    for folder in ("share/ament_index/resource_index/packages", "lib/dipole_policy"):
        (found / folder).mkdir(parents=True)
    (found / "share/ament_index/resource_index/packages/dipole_policy").touch()
    (found / "share/dipole_policy").symlink_to(PACKAGE)
    script = found / "lib/dipole_policy/policy_node"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom dipole_policy.main import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return found


class Launched:
    """``ros2 launch`` as a process, and the node that it starts."""

    def __init__(self, process: subprocess.Popen[str], marker: str) -> None:
        self.process, self._marker = process, marker

    def nodes(self) -> list[int]:
        """The ids of the node's processes."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_node = b"lib/dipole_policy/policy_node" in (path / "cmdline").read_bytes()
                if is_node and self._marker.encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
        return found


@contextmanager
def launched(prefix: Path, of: str, *arguments: str) -> Iterator[Launched]:
    """The launch file, run; whatever it started is ended."""
    marker = uuid.uuid4().hex
    paths = [str(PACKAGE), str(PACKAGE.parent / "dipole_runtime"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "AMENT_PREFIX_PATH": os.pathsep.join([str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]).rstrip(":"),
        "LAUNCH_MARKER": marker,
        "ROS_LOG_DIR": str(prefix / "log"),
    }
    command = [sys.executable, "-c", PROGRAM, str(LAUNCH), f"namespace:={of}", *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    running = Launched(process, marker)
    try:
        yield running
    finally:
        process.kill()
        for node in running.nodes():
            os.kill(node, signal.SIGKILL)
        process.communicate()


@contextmanager
def driving(prefix: Path, bundle: Path, contract: Path, *more: str) -> Iterator[tuple[Launched, Robot]]:
    of = namespace()
    with (
        robot(of) as found,
        launched(prefix, of, f"bundle:={bundle}", f"contract:={contract}", *more) as running,
    ):
        found.drives()
        yield running, found


def written(path: Path, **sections: dict[str, object]) -> Path:
    """A parameter file; sections are called as nodes are."""
    lines = []
    for section, values in sections.items():
        lines += [f"{section}:", "  ros__parameters:"]
        lines += [
            f"    {name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_drives_right_away(prefix: Path, bundle: Path, contract: Path):
    with driving(prefix, bundle, contract) as (_, found):
        assert found.get("use_sim_time") is False
        assert found.get("omega") == 0.5


def test_what_the_parameter_file_says_holds(prefix: Path, bundle: Path, contract: Path, tmp_path: Path):
    values = {"bundle": bundle, "contract": contract, "autostart": False, "use_sim_time": True, "omega": 2.0}
    file = written(tmp_path / "own.yaml", **{"/**": values})
    of = namespace()
    with robot(of) as found, launched(prefix, of, f"params_file:={file}"):
        assert found.state() == "unconfigured"
        assert {name: found.get(name) for name in ("autostart", "use_sim_time")} == {
            "autostart": False,
            "use_sim_time": True,
        }
        assert found.change("configure")
        assert found.get("omega") == 2.0


def test_a_parameter_file_without_autostart_starts(prefix: Path, bundle: Path, contract: Path, tmp_path: Path):
    file = written(tmp_path / "own.yaml", **{"/**": {"bundle": bundle, "contract": contract}})
    of = namespace()
    with robot(of) as found, launched(prefix, of, f"params_file:={file}"):
        found.drives()


@pytest.mark.parametrize("sections", ["all", "node", "all and node", "node and all"])
def test_an_argument_wins(prefix: Path, bundle: Path, contract: Path, tmp_path: Path, sections: str):
    """Over every section of the file that speaks to the node."""
    of = namespace()
    names = {"all": "/**", "node": f"{of}/dipole_policy"}
    wrong: dict[str, object] = {"bundle": "/none", "contract": "/none", "autostart": False}
    file = written(tmp_path / "own.yaml", **{names[name]: wrong for name in sections.split(" and ")})
    given = [f"params_file:={file}", f"bundle:={bundle}", f"contract:={contract}", "autostart:=true"]
    with robot(of) as found, launched(prefix, of, *given):
        found.drives()
        assert found.get("bundle") == str(bundle)


def test_a_name_like_a_number_stays_text(prefix: Path, contract: Path):
    of = namespace()
    with robot(of) as found, launched(prefix, of, "bundle:=2024", f"contract:={contract}", "autostart:=false"):
        assert found.get("bundle") == "2024"
        assert found.state() == "unconfigured"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("autostart:=maybe", "autostart is 'maybe', expected true or false"),
        ("respawn_delay:=-1", "respawn_delay is '-1', expected seconds, 0 or more"),
        ("respawn_delay:=soon", "respawn_delay is 'soon', expected seconds, 0 or more"),
        ("params_file:=/none.yaml", "params_file is '/none.yaml', expected an existing file"),
    ],
)
def test_arguments_that_mean_nothing(prefix: Path, given: str, message: str):
    with launched(prefix, namespace(), given) as running:
        output, _ = running.process.communicate(timeout=30.0)
        assert running.process.returncode == 1
        assert message in output
        assert running.nodes() == []


def test_ctrl_c_ends_with_the_stop(prefix: Path, bundle: Path, contract: Path):
    with driving(prefix, bundle, contract) as (running, found):
        # As a terminal does it: to everybody, so that the node gets it twice.
        os.killpg(running.process.pid, signal.SIGINT)
        output, _ = running.process.communicate(timeout=30.0)
        assert running.process.returncode == 0, output
        assert "process has finished cleanly" in output
        time.sleep(0.2)
        assert found.commands[-1] == STOP
        assert running.nodes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_launch_leaves_no_robot_that_drives(
    prefix: Path, bundle: Path, contract: Path, number: signal.Signals
):
    with driving(prefix, bundle, contract) as (running, found):
        running.process.send_signal(number)
        running.process.communicate(timeout=30.0)
        wait(lambda: not running.nodes(), "the node's end")
        assert found.silent(0.3) == []
        assert found.commands[-1] == STOP


def test_unless_it_is_to_go_on(prefix: Path, bundle: Path, contract: Path):
    with driving(prefix, bundle, contract, "end_with_launch:=false") as (running, found):
        running.process.kill()
        running.process.communicate(timeout=30.0)
        time.sleep(1.0)
        found.drives()
        (node,) = running.nodes()
        os.kill(node, signal.SIGINT)
        wait(lambda: not running.nodes(), "the node's end")


def test_respawn(prefix: Path, bundle: Path, contract: Path):
    with driving(prefix, bundle, contract, "respawn:=true", "respawn_delay:=0.2") as (running, found):
        (node,) = running.nodes()
        os.kill(node, signal.SIGKILL)
        wait(lambda: running.nodes() not in ([], [node]), "a new node")
        found.drives()


def test_no_respawn_unless_asked_for(prefix: Path, bundle: Path, contract: Path):
    with driving(prefix, bundle, contract) as (running, _):
        (node,) = running.nodes()
        os.kill(node, signal.SIGKILL)
        output, _ = running.process.communicate(timeout=30.0)
        assert "process has died" in output
        assert running.nodes() == []
