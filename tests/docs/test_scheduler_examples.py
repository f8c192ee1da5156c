"""The scripts for schedulers: what they run, and what they do with its status."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import UNTESTED

from dipole_sb3 import DIPOLE

EXAMPLES = Path(__file__).parents[2] / "examples"
BEGIN = ["task=reacher", "algo.acceleration=eager", *UNTESTED, "checkpoint_freq=5"]


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of an array, with commands that stand for Slurm's: this machine has none."""
    commands = {
        "dipole": f'exec {shlex.quote(sys.executable)} -m dipole_sb3.cli "$@"',
        "srun": 'exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol.log',
    }
    for name, line in commands.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        script = tmp_path / "bin" / name
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1"}
    return {**os.environ, **job, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_job_that_is_warned_is_requeued_and_goes_on(tmp_path: Path, slurm: dict[str, str]) -> None:
    command = ["bash", str(EXAMPLES / "slurm.sh"), *BEGIN]
    job = subprocess.Popen(
        [*command, "offline_steps=1000000"],
        cwd=tmp_path,
        env=slurm,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder = tmp_path / "runs/17/seed1"
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/*.zip")) and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.05)
    # As Slurm does it: every process of the step, not the script.
    (training,) = (int(pid) for pid in subprocess.check_output(["pgrep", "-P", str(job.pid)], text=True).split())
    os.kill(training, signal.SIGUSR1)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 75, out
    assert (tmp_path / "scontrol.log").read_text() == "requeue 17_1\n"
    steps = max(int(path.stem.split("_")[1]) for path in folder.glob("checkpoints/*.zip")) + 5
    again = subprocess.run(
        [*command, f"offline_steps={steps}"], cwd=tmp_path, env=slurm, capture_output=True, text=True, check=True
    )
    assert f"going on after {steps - 5} of {steps} timesteps" in again.stdout
    assert DIPOLE.load(folder / "model.zip").num_timesteps == steps
    assert (tmp_path / "scontrol.log").read_text() == "requeue 17_1\n"


def test_the_job_of_kubernetes_runs_a_command_that_there_is() -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (line,) = container["args"]
    assert line.startswith("exec dipole train ")
    for option in ("resume=auto", "run_dir=/runs/", "seed=$JOB_COMPLETION_INDEX"):
        assert option in line
    (again,) = (
        rule["onExitCodes"]["values"] for rule in job["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "Count"
    )
    assert again == [75]
