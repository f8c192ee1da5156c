"""The demo: node and arm as processes, ω turned, an audit, a picture; and nothing that goes on afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "disable")
pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
for _name in ("gymnasium", "mujoco", "matplotlib"):
    pytest.importorskip(_name, reason=f"{_name} is not installed")

from dipole_policy.demo import free_domain  # noqa: E402
from dipole_policy.picture import STEP_S, Course  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "ros2_ws/src" / package for package in ("dipole_policy", "dipole_runtime")]
STEPS = 10


@pytest.fixture
def arm_contract(tmp_path: Path) -> Path:
    """The shipped one, with time for a machine that is busy."""
    path = tmp_path / "arm.yaml"
    text = (SOURCES[0] / "contracts/simulated_arm.yaml").read_text()
    path.write_text(text.replace("deadline_s: 0.2", "deadline_s: 2.0"))
    return path


def start(out: Path, bundle: Path, contract: Path, marker: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES)), "DEMO_MARKER": marker}
    command = [sys.executable, "-u", "-m", "dipole_policy.demo", "--bundle", str(bundle), "--out", str(out)]
    command += ["--contract", str(contract), "--episode-steps", str(STEPS), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def left_running(marker: str) -> list[str]:
    """Processes that were started with this marker and still are there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
def test_it_turns_omega_and_leaves_a_picture(make_bundle: Callable[..., Path], arm_contract: Path, tmp_path: Path):
    marker = uuid.uuid4().hex
    running = start(
        tmp_path, make_bundle(observation=10), arm_contract, marker, "--episodes", "1", "--omegas", "0", "4"
    )
    try:
        output, _ = running.communicate(timeout=120.0)
    finally:
        running.kill()
    assert running.returncode == 0, output
    assert "parameter  omega 0.5 → 0.0: accepted" in output
    assert "topic      omega 0.0 → 4.0: accepted" in output
    assert "parameter  omega 4.0 → 5.0: Parameter omega out of range" in output
    assert "the last command was [0.0, 0.0]" in output
    assert (tmp_path / "ros_demo.png").read_bytes().startswith(b"\x89PNG")
    assert left_running(marker) == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
def test_ctrl_c_ends_everything(make_bundle: Callable[..., Path], arm_contract: Path, tmp_path: Path):
    marker = uuid.uuid4().hex
    running = start(tmp_path, make_bundle(observation=10), arm_contract, marker, "--episodes", "10000")
    try:
        assert running.stdout is not None
        while "parameter" not in (line := running.stdout.readline()):
            assert line, "it ended before omega was turned"
        assert len(left_running(marker)) == 3, "demo, node and arm"
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60.0)
    finally:
        running.kill()
    assert running.returncode == 130, output
    assert "nothing is left running" in output
    assert "Traceback" not in output
    assert "stopped: SIGTERM" in (tmp_path / "node.log").read_text()
    assert left_running(marker) == []


def test_a_contract_that_is_none_is_one_sentence(make_bundle: Callable[..., Path], tmp_path: Path):
    marker = uuid.uuid4().hex
    contract = tmp_path / "none.yaml"
    contract.write_text("rate_hz: 0\n")
    running = start(tmp_path, make_bundle(observation=10), contract, marker)
    try:
        output, _ = running.communicate(timeout=120.0)
    finally:
        running.kill()
    assert running.returncode == 1
    assert "rate_hz is 0" in output
    assert "Traceback" not in output


def test_only_whole_episodes_count():
    """10 steps each: undriven, turned, driven, turned, driven but for one step, driven at two ω, driven."""
    course = Course(STEPS, returns=[-1.0 * number for number in range(7)], turned=[1, 3])
    omegas = [None, 0.0, 0.0, 2.0, 2.0, None, 2.0]
    for number, omega in enumerate(omegas):
        for step in range(STEPS):
            time_s = (number * STEPS + step + 1) * STEP_S
            course.distances.append((time_s, 0.1))
            value = (0.0 if step < 4 else 2.0) if number == 5 else omega
            if value is not None and not (number == 4 and step == 3):
                course.driven.append((time_s, value, 0.5, -0.5))
    assert course.episodes() == {0.0: [2], 2.0: [6]}
    np.testing.assert_array_equal(course.commands(6), [[0.5, -0.5]] * STEPS)
    assert course.begins(6) == pytest.approx(61 * STEP_S)


def test_a_free_domain_is_one_that_ros_has():
    assert 1 <= free_domain() <= 100
