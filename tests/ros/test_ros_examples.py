"""The files to copy: a service of systemd, a container. They have to end the node by a signal that it sees."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy/examples"
LAUNCH = EXAMPLES.parent / "launch/dipole_policy.launch.py"
SERVICE = EXAMPLES / "dipole_policy.service"
KILLED_AFTER_S = 15.0
"""launch's own patience: sigterm_timeout of the launch file, and launch's sigkill_timeout of 5 s."""


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def service() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read(SERVICE)
    return found


def test_launch_is_as_patient_as_the_examples_believe():
    (own,) = re.findall(r'sigterm_timeout="(\d+)"', LAUNCH.read_text())
    assert float(own) + 5.0 == KILLED_AFTER_S


def test_the_service_ends_by_a_signal_that_launch_passes_on():
    unit = service()["Service"]
    assert unit["KillSignal"] == "SIGINT"
    assert unit["KillMode"] in ("mixed", "control-group")
    assert seconds(unit["TimeoutStopSec"]) > KILLED_AFTER_S
    assert "exec " in unit["ExecStart"], "without it, the shell gets the signal"
    assert unit["Restart"] == "on-failure"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_service(tmp_path: Path):
    def verdict(text: str) -> str:
        # Without a unit of that name elsewhere on the machine.
        path = tmp_path / "dipole_policy_example.service"
        path.write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", str(path)]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LANG": "C"})
        return "\n".join(line for line in (found.stdout + found.stderr).splitlines() if path.name in line)

    assert verdict(SERVICE.read_text()) == ""
    assert "gently" in verdict(SERVICE.read_text().replace("KillMode=mixed", "KillMode=gently"))


def test_the_container_ends_by_a_signal_that_reaches_the_node():
    lines = (EXAMPLES / "Dockerfile").read_text().splitlines()
    assert "STOPSIGNAL SIGINT" in lines
    assert "exec install/dipole_policy/lib/dipole_policy/policy_node" in next(
        line for line in lines if line.startswith("CMD")
    )
    policy = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]["policy"]
    assert policy["init"] is True
    assert policy["stop_signal"] == "SIGINT"
    assert seconds(policy["stop_grace_period"]) > KILLED_AFTER_S
    root = (EXAMPLES / policy["build"]["context"]).resolve()
    assert (root / policy["build"]["dockerfile"]).resolve() == EXAMPLES / "Dockerfile"
    for line in lines:
        if line.startswith("COPY "):
            assert (root / line.split()[1]).exists(), line
