"""The latency benchmark of the node counts what it says; over real DDS where rclpy is, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(Path(__file__).parents[1] / "runtime")]

from ros_latency import PARTS, matched  # noqa: E402

MS = 1_000_000


def test_commands_are_matched_with_what_they_answer() -> None:
    """By hand, periods of 20 ms: the second command got lost, and the third, its equal, must not stand in for it."""
    one, two = b"one", b"two"
    robot = SimpleNamespace(
        period_ns=20 * MS,
        published=[(8 * MS, 0), (28 * MS, 1), (48 * MS, 2), (68 * MS, 0)],
        driven=[(10 * MS, 5.0, one), (30 * MS, 6.0, two), (70 * MS, 5.0, two), (90 * MS, 7.0, one)],
        arrived=[(9 * MS, one), (12 * MS, one), (73 * MS, two), (95 * MS, one)],
    )
    found = matched(robot, np.array([5.0, 6.0, 7.0]))  # type: ignore[arg-type]
    # The last one answers the observation of 48 ms although another came at 68 ms: its value says so.
    np.testing.assert_allclose(found.T * 1e3, [[4.0, 2.0, 2.0], [5.0, 2.0, 3.0], [47.0, 42.0, 5.0]])


def test_a_value_of_no_observation_is_refused() -> None:
    robot = SimpleNamespace(period_ns=20 * MS, published=[(1, 0)], driven=[(2, 5.5, b"")], arrived=[(3, b"")])
    with pytest.raises(SystemExit, match="expected that of a published observation"):
        matched(robot, np.array([5.0, 6.0]))  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_ros_benchmark_writes_what_it_prints(tmp_path: Path) -> None:
    for module in ("rclpy", "std_srvs", "diagnostic_msgs"):
        pytest.importorskip(module, reason=f"{module} is not installed: see the extra 'ros' or your ROS distribution")
    command = [sys.executable, BENCHMARKS / "ros_latency.py", "--rates", "20", "--seconds", "2"]
    run = subprocess.run(
        [*command, "--memory-minutes", "0.02", "--json", tmp_path / "ros.json"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "ROS_DOMAIN_ID": str(20 + os.getpid() % 80)},
    )
    assert run.returncode == 0, run.stderr
    written = json.loads((tmp_path / "ros.json").read_text())
    (row,) = written["rows"]
    assert row["commands"] > 10
    assert written["memory"]["memory_start_mib"] > 10
    lines = {line.split()[0]: line.split()[1:] for line in run.stdout.splitlines() if line.startswith(" " * 4)}
    for name in PARTS:
        printed = [float(text) for text in lines[name]]
        assert printed == [pytest.approx(row["parts"][name][key], abs=0.006) for key in ("p50_ms", "p99_ms", "max_ms")]
    parts = row["parts"]
    assert parts["published"]["p50_ms"] >= parts["answering"]["p50_ms"] > 0.0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_benchmark_of_a_camera_writes_what_it_prints(tmp_path: Path) -> None:
    for module in ("rclpy", "sensor_msgs", "diagnostic_msgs"):
        pytest.importorskip(module, reason=f"{module} is not installed: see the extra 'ros' or your ROS distribution")
    from small_pictures import ALONE, seeing_files

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name, content in seeing_files("pair", [ALONE], 0).items():
        (bundle / name).write_bytes(content)
    command = [sys.executable, BENCHMARKS / "ros_camera.py", "--sizes", f"{ALONE.width}x{ALONE.height}"]
    run = subprocess.run(
        [*command, "--bundle", bundle, "--seconds", "2", "--memory-minutes", "0.05", "--json", tmp_path / "ros.json"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "ROS_DOMAIN_ID": str(20 + os.getpid() % 80)},
    )
    assert run.returncode == 0, run.stderr
    (row,) = json.loads((tmp_path / "ros.json").read_text())["rows"]
    assert 20 < row["decisions"] <= 62
    assert min(row["memory_mib"]) > 10
    assert f"{row['decisions']} decisions of 60" in run.stdout
