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

import cloudpickle
import pytest
import submitit
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


class JobOfTheScript:
    """The Slurm script as a job of submitit, which warns it, as Slurm would, and starts it again.

    :param command: the script and its options.
    :param environment: of the job.
    """

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._command, self._folder, self._environment = command, folder, environment
        self._script: subprocess.Popen[str] | None = None

    def __call__(self) -> tuple[int, str]:
        self._script = subprocess.Popen(
            self._command, cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, text=True
        )
        out, _ = self._script.communicate()
        return self._script.returncode, out

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        assert self._script is not None
        (step,) = subprocess.check_output(["pgrep", "-P", str(self._script.pid)], text=True).split()
        os.kill(int(step), signal.SIGUSR1)
        assert self._script.wait(timeout=60) == 75
        return submitit.helpers.DelayedSubmission(JobOfTheScript(self._command, self._folder, self._environment))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_script_is_warned_and_started_again_by_submitit(tmp_path: Path, slurm: dict[str, str]) -> None:
    """It asks Slurm to have its job requeued, once, and the next start goes on."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    executor = submitit.LocalExecutor(tmp_path / "submitit")
    executor.update_parameters(timeout_min=5)
    command = ["bash", str(EXAMPLES / "slurm.sh"), *BEGIN, "offline_steps=1500", "checkpoint_freq=100"]
    job = executor.submit(JobOfTheScript(command, tmp_path, slurm))
    folder = tmp_path / "runs/17/seed1"
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/*.zip")) and time.monotonic() < deadline and not job.done():
        time.sleep(0.05)
    (process,) = subprocess.check_output(["pgrep", "-P", str(job.job_id)], text=True).split()
    os.kill(int(process), signal.SIGUSR2)  # how submitit warns a job of its time
    status, out = job.result()
    assert status == 0, out
    assert "of 1500 timesteps" in out
    assert "going on after" in out
    assert DIPOLE.load(folder / "model.zip").num_timesteps == 1500
    assert (tmp_path / "scontrol.log").read_text() == "requeue 17_1\n"
