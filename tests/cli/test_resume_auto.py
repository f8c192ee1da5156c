"""``resume=auto``: one command that begins a run, goes on with it, or finds it finished."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import TINY, UNTESTED, Command, parameters, training_with_checkpoints
from omegaconf import OmegaConf

from dipole_sb3 import DIPOLE, ResumableCheckpoint
from dipole_sb3.cli import training
from dipole_sb3.cli.environments import task_env, training_env
from dipole_sb3.learning import checkpoints

# Eager, because `auto` may choose another way of updating for a run of another length, which rounds differently.
BEGUN = ["task=reacher", "algo.acceleration=eager"]
AUTO = [*BEGUN, "resume=auto", "run_dir=mine"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGUSR1])
def test_the_same_command_begins_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dipole: Command, end: signal.Signals
) -> None:
    process = training_with_checkpoints(tmp_path, *AUTO, "checkpoint_freq=5")
    process.send_signal(end)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 75), out
    # Of another length, so that it ends; an unkilled run of this length is the same.
    (newest, _) = checkpoints.newest_checkpoint(tmp_path / "mine/checkpoints")
    steps = DIPOLE.load(newest).num_timesteps + 7
    status, out, err = dipole("train", *AUTO, *UNTESTED, "checkpoint_freq=5", f"offline_steps={steps}")
    assert status == 0, err
    assert f"{newest.relative_to(tmp_path)}: going on after {steps - 7} of {steps} timesteps" in out
    assert dipole("train", *BEGUN, *UNTESTED, f"offline_steps={steps}", "run_dir=whole")[0] == 0
    found, expected = parameters(Path("mine/model.zip")), parameters(Path("whole/model.zip"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_finished_run_stays_as_it_is(dipole: Command) -> None:
    options = [*AUTO, *TINY, "episodes=2", "omegas=[0]"]
    assert dipole("train", *options)[0] == 0
    before = {
        path: path.read_bytes() for path in Path("mine").rglob("*") if path.is_file() and path.name != "claim.json"
    }
    assert dipole("train", *options) == (0, "mine: is finished\n", "")
    assert all(path.read_bytes() == content for path, content in before.items())
    # Killed in its evaluation: it is made up for, and nothing is learned twice.
    Path("mine/omega_sweep.csv").unlink()
    assert dipole("train", *options)[0] == 0
    assert Path("mine/omega_sweep.csv").is_file()


def test_a_run_that_was_killed_while_its_longer_self_was_evaluated_is_not_finished(
    dipole: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table in its folder is that of the shorter run."""
    options = [*AUTO, *TINY, "episodes=2", "omegas=[0]", "checkpoint_freq=10"]
    assert dipole("train", *options)[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(training, "evaluate", lambda *_: sys.exit("killed"))
        assert dipole("train", *options, "offline_steps=30")[0] != 0
    assert DIPOLE.load("mine/model.zip").num_timesteps == 30
    assert not Path("mine/omega_sweep.csv").exists()
    assert "is finished" not in dipole("train", *options, "offline_steps=30")[1]
    assert Path("mine/omega_sweep.csv").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_signal_in_the_evaluation_has_the_same_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dipole_sb3.cli", "train", *AUTO, *TINY, "episodes=100000", "omegas=[0]"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "mine/model.zip").is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)  # the evaluation has begun, or is about to
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert out.endswith("Stopped by SIGTERM; the run can go on\n")


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_environments_in_processes_do_not_hear_what_a_scheduler_sends(number: signal.Signals) -> None:
    multiprocessing.get_context("forkserver").Process(target=int).start()  # a server that blocks no signals
    env = training_env(task_env(OmegaConf.create({"env": "Reacher-v5"})), 2, False)
    env.reset()
    for process in env.processes:
        os.kill(process.pid, number)
    time.sleep(0.2)
    env.reset()
    env.close()
    assert [process.exitcode for process in env.processes] == [0, 0]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(dipole: Command) -> None:
    assert dipole("train", *AUTO, *UNTESTED, "checkpoint_freq=0")[0] == 0
    Path("mine/model.zip").unlink()
    assert dipole("train", *AUTO, *UNTESTED, "checkpoint_freq=0")[0] == 0
    assert DIPOLE.load("mine/model.zip").num_timesteps == 20


def test_some_begin_and_some_go_on(dipole: Command) -> None:
    options = [*BEGUN, "resume=auto", "run_dir=many", *UNTESTED, "checkpoint_freq=10"]
    assert dipole("train", *options, "runs=2")[0] == 0
    status, out, _ = dipole("train", *options, "runs=3", "offline_steps=30")
    assert status == 0
    assert out.count("going on after 20 of 30 timesteps") == 2
    assert [DIPOLE.load(f"many/seed{seed}/model.zip").num_timesteps for seed in range(3)] == [30, 30, 30]
    status, out, _ = dipole("train", "-m", *options, "hydra.sweep.dir=sweep", "algo.beta=1,2")
    assert status == 0
    assert dipole("train", "-m", *options, "hydra.sweep.dir=sweep", "algo.beta=1,2")[1].count("is finished") == 2


def test_other_options_than_those_of_its_beginning_are_refused(dipole: Command) -> None:
    assert dipole("train", *AUTO, *UNTESTED, "checkpoint_freq=10")[0] == 0
    for other, found in (("algo.beta=7", "algo.beta=7"), ("seed=5", "seed=5"), ("normalize=true", "normalize=True")):
        status, _, err = dipole("train", *AUTO, *UNTESTED, other)
        assert status == 1
        assert err.startswith("dipole: mine: holds a run with ")
        assert f", found {found}; expected the options with which it began, or another run_dir" in err
    status, _, err = dipole("train", *AUTO, *UNTESTED, "offline_steps=10")
    assert "offline_steps + online_steps is 10, but the run in mine has 20 timesteps already" in err


@pytest.mark.parametrize("task", ["reacher", "driving/highway-mix"])
def test_what_is_to_go_on_is_not_replaced(task: str, dipole: Command) -> None:
    status, _, err = dipole("train", f"task={task}", "run_dir=run", "resume=auto", "replace=true")
    expected = "resume= goes on with the run in the folder, replace=true removes it; expected one of them"
    assert (status, err) == (1, f"dipole: {expected}\n")
    assert not Path("run").exists()


def test_a_folder_that_is_another_at_every_start_is_refused(dipole: Command) -> None:
    several = ["-m", "seed=0,1"]
    for arguments in ([], several, [*several, "run_dir=mine"], [*several, "hydra.sweep.subdir=${seed}"]):
        status, _, err = dipole("train", *arguments, *BEGUN, "resume=auto", *UNTESTED)
        assert status == 1
        assert "resume=auto needs the same folder at every start" in err
        assert not list(Path().rglob("config.yaml"))


def test_checkpoints_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reacher_data: dict[str, object]
) -> None:
    """Every iteration takes a minute here; a checkpoint by steps counts too."""
    now = [0.0]

    def clock() -> float:
        now[0] += 30.0  # an iteration asks when it ends, and again if it saves
        return now[0]

    monkeypatch.setattr(checkpoints.time, "monotonic", clock)
    saved: list[int] = []
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda model, path: saved.append(model.num_timesteps))
    model = DIPOLE("MlpPolicy", dataset=reacher_data, batch_size=16, policy_kwargs={"net_arch": [8]})
    model.learn(8, ResumableCheckpoint(0, tmp_path, save_minutes=1.5))
    assert saved == [3, 6]
    with pytest.raises(ValueError, match="save_minutes is -1, expected at least 0"):
        ResumableCheckpoint(0, tmp_path, save_minutes=-1)
