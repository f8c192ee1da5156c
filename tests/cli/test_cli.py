"""The ``dipole`` command as a user types it: runs, folders, interruption, multiruns and wrong input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, UNTESTED, Command, parameters, the_run, timesteps, training_with_checkpoints

import dipole_sb3
from dipole_sb3 import DIPOLE
from dipole_sb3.cli import training
from dipole_sb3.cli.configuration import task_names
from dipole_sb3.common.archived_state import read_state
from dipole_sb3.learning.checkpoints import newest_checkpoint

# Help


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["data", "train", "evaluate", "examples:"]),
        (
            ["train", "--help"],
            ["task=ogbench/cube-single-play", "resume=FOLDER", "algo.beta", "-m task=reacher seed=0"],
        ),
        (["evaluate", "-h"], ["model=PATH", "omegas=", "examples:"]),
        (["data", "--help"], ["make", "record"]),
        (["data", "make", "--help"], ["--episodes", "--scenes", "--processes", "examples:"]),
        (["data", "record", "--help"], ["--algo", "--steps", "example"]),
    ],
)
def test_help(dipole: Command, arguments: list[str], words: list[str]) -> None:
    status, out, _ = dipole(*arguments)
    assert status == 0
    for word in words:
        assert word in out
    assert max(map(len, out.splitlines())) <= 110


def test_help_lists_every_task(dipole: Command) -> None:
    _, out, _ = dipole("train", "--help")
    for name in task_names():
        assert f"task={name}\n" in out


def test_no_command_shows_the_help(dipole: Command) -> None:
    status, out, _ = dipole()
    assert status == 2
    assert "commands:" in out


@pytest.mark.parametrize("name", ["train", "evaluate", "benchmark"])
def test_a_command_without_options_shows_its_help(dipole: Command, name: str) -> None:
    """Instead of hours of work that nobody described."""
    status, out, err = dipole(name)
    assert (status, err) == (2, "")
    assert out.startswith(f"usage: dipole {name} [option=value ...]")
    assert "examples:" in out
    assert not Path("runs").exists()


def test_the_version_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['dipole', '--version']\n"
        "from dipole_export.entry import main\n"
        "assert main() == 0\n"
        "assert not {'torch', 'gymnasium', 'hydra'} & sys.modules.keys()"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == f"dipole-sb3 {dipole_sb3.__version__}\n"


def test_the_command_is_installed() -> None:
    script = Path(sys.executable).with_name("dipole")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "dipole_sb3.cli"]
    out = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    assert out.startswith("dipole-sb3 ")


# Training and evaluation


@pytest.mark.parametrize("moment", ["last timestep", "last evaluations"])
def test_a_signal_at_the_very_end_of_learning_is_heeded(
    dipole: Command, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """What follows, minutes of evaluation, was not asked for any more."""
    place = (training, "_evaluations") if moment == "last evaluations" else (DIPOLE, "learn")
    original = getattr(*place)

    if moment == "last evaluations":

        @contextmanager
        def disturbed(*arguments: Any) -> Iterator[Any]:
            with original(*arguments) as found:
                yield found
            os.kill(os.getpid(), signal.SIGINT)
    else:

        def disturbed(*arguments: Any, **named: Any) -> Any:  # type: ignore[misc]
            found = original(*arguments, **named)
            os.kill(os.getpid(), signal.SIGINT)
            return found

    with monkeypatch.context() as patched:
        patched.setattr(*place, disturbed)
        few = ["episodes=2", "omegas=[0]", "candidates=[1]"]
        status, out, _ = dipole("train", "task=reacher", *TINY, *few, "seed=3")
    assert status == 128 + signal.SIGINT
    assert "Go on with\n  dipole train resume=" in out
    folder = the_run("runs/reacher")
    assert not (folder / "omega_sweep.csv").exists()
    assert list((folder / "checkpoints").glob("*.zip"))
    status, _, err = dipole("train", f"resume={folder}")
    assert (status, err) == (0, "")
    assert (folder / "omega_sweep.csv").exists()


def test_a_run_leaves_one_folder_with_everything(dipole: Command) -> None:
    status, out, err = dipole(
        "train", "task=reacher", *TINY, "checkpoint_freq=10", "episodes=2", "omegas=[0,2]", "log_interval=1", "seed=3"
    )
    assert (status, err) == (0, "")
    folder = the_run("runs/reacher")
    assert folder.name.endswith("-seed3")
    assert str(folder) in out.splitlines()[-1]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "model_10_steps.zip",
        "model_20_steps.zip",
    ]
    assert timesteps(folder) == [20]
    assert list(folder.glob("events.out.tfevents.*"))
    config = (folder / "config.yaml").read_text()
    assert "seed: 3" in config
    assert "${" not in config
    assert json.loads((folder / "dataset.json").read_text())["env_id"] == "Reacher-v5"
    with open(folder / "omega_sweep.csv", newline="") as file:
        cells = [
            (float(row["omega"]), int(row["num_candidates"]), int(row["episodes"])) for row in csv.DictReader(file)
        ]
    assert sorted(cells) == [(0.0, 1, 2), (0.0, 4, 2), (2.0, 1, 2), (2.0, 4, 2)]
    model = DIPOLE.load(folder / "model.zip")
    assert (model.num_timesteps, model.beta, model.gamma, model.seed) == (20, 2.0, 0.98, 3)

    # The same evaluation again, by the folder alone.
    swept = (folder / "omega_sweep.csv").read_bytes()
    for _ in range(2):
        status, out, _ = dipole("evaluate", f"model={folder}", "episodes=2", "omegas=[0,2]", "pictures=false")
        assert status == 0
    assert "N = 4" in out
    # Each in a folder of its own: what the run left stays.
    evaluated = list(folder.glob("evaluated/*/omega_sweep.csv"))
    assert [path.read_bytes() for path in evaluated] == [swept, swept]
    assert str(max(evaluated)) in out
    dipole("evaluate", f"model={folder}", "episodes=1", "omegas=[1]", "pictures=false")
    assert (folder / "omega_sweep.csv").read_bytes() == swept
    dipole("evaluate", f"model={folder}", "episodes=1", "omegas=[1]", "pictures=false", f"out={folder}")
    assert (folder / "omega_sweep.csv").read_bytes() != swept


def test_progress_bar_ends_full(dipole: Command) -> None:
    status, out, _ = dipole("train", *UNTESTED, "progress_bar=true", "run_dir=run")
    assert status == 0
    assert "20/20" in out


def test_recording_leaves_data_and_provenance(dipole: Command) -> None:
    status, out, err = dipole("data", "record", "--steps", "110", "--net-arch", "16", "--out", "data/reacher.npz")
    assert (status, err) == (0, "")
    assert out.startswith("data/reacher.npz: 110 transitions, mean return ")
    provenance = json.loads(Path("data/reacher.json").read_text())
    assert provenance["command"] == (
        "dipole data record --algo tqc --env Reacher-v5 --steps 110 --seed 0 --net-arch 16 --out data/reacher.npz"
    )
    status, _, err = dipole("train", "task=reacher", "task.dataset=data/reacher.npz", *UNTESTED)
    assert (status, err) == (0, "")


def test_multirun_makes_a_folder_for_each_seed(dipole: Command) -> None:
    status, out, _ = dipole("train", "-m", "seed=0,1", *UNTESTED)
    assert status == 0
    (sweep,) = Path("runs/multirun").iterdir()
    first, second = (sweep / f"{seed}-reacher-seed{seed}" for seed in (0, 1))
    assert f"The runs are in\n  {first}/\n  {second}/\n" in out
    assert DIPOLE.load(second / "model.zip").seed == 1
    one, other = parameters(first / "model.zip"), parameters(second / "model.zip")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_own_data_in_the_environments_units(dipole: Command) -> None:
    """Pendulum's actions reach ±2: the bounds come from the environment that the task names."""
    generator = np.random.default_rng(0)
    observations = generator.uniform(-1, 1, (51, 3)).astype(np.float32)
    Path("data").mkdir()
    np.savez(
        "data/own.npz",
        observations=observations[:-1],
        actions=generator.uniform(-2, 2, (50, 1)),
        rewards=generator.normal(size=50),
        next_observations=observations[1:],
        dones=np.eye(50)[-1],
    )
    task = ["task=custom", "task.dataset=data/own.npz"]
    status, _, err = dipole("train", *task, "task.env=Pendulum-v1", *UNTESTED, "run_dir=run")
    assert (status, err) == (0, "")
    assert DIPOLE.load("run/model.zip").action_space.high.tolist() == [2.0]
    status, _, err = dipole("train", *task, *UNTESTED)
    assert status == 1
    assert "data/own.npz: actions reach 1.9" in err


def test_a_folder_that_holds_a_run_is_not_overwritten(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run", "checkpoint_freq=10")
    Path("run/notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    status, _, err = dipole("train", "task=reacher", *UNTESTED, "run_dir=run")
    assert status == 1
    assert "run: holds a run already; go on with it by resume=run, replace it by replace=true" in err
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before

    status, _, err = dipole("train", "task=reacher", *UNTESTED, "run_dir=run", "replace=true", "offline_steps=5")
    assert (status, err) == (0, "")
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["model_5_steps.zip"]
    assert len(list(Path("run").glob("events.*"))) == 1
    assert timesteps(Path("run")) == [5]
    assert Path("run/notes.txt").is_file()


# Interruption


def test_resuming_goes_on_with_the_very_same_updates(dipole: Command) -> None:
    options = ["task=reacher", *UNTESTED, "log_interval=1"]
    dipole("train", *options, "offline_steps=40", "run_dir=whole")
    dipole("train", *options, "offline_steps=40", "checkpoint_freq=25", "run_dir=killed")
    # As a kill after the checkpoint would leave it, and with rows beyond the checkpoint.
    os.remove("killed/model.zip")
    os.remove("killed/checkpoints/model_40_steps.zip")
    assert timesteps(Path("killed")) == [40]
    status, out, err = dipole("train", "resume=killed")
    assert (status, err) == (0, "")
    assert "killed/checkpoints/model_25_steps.zip: going on after 25 of 40 timesteps" in out
    assert timesteps(Path("killed")) == [40]
    whole, resumed = parameters(Path("whole/model.zip")), parameters(Path("killed/model.zip"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name

    status, _, _ = dipole("train", "resume=killed", "offline_steps=60")
    assert status == 0
    assert timesteps(Path("killed")) == [40, 60]


def test_a_finished_run_goes_on_online(dipole: Command) -> None:
    options = ["task=reacher", *UNTESTED, "log_interval=1"]
    dipole("train", *options, "online_steps=110", "run_dir=whole")
    dipole("train", *options, "run_dir=parted")
    status, out, err = dipole("train", "resume=parted", "online_steps=110")
    assert (status, err) == (0, "")
    assert "going on after 20 of 130 timesteps" in out
    assert timesteps(Path("whole")) == timesteps(Path("parted")) == [20, 70, 120]
    whole, parted = parameters(Path("whole/model.zip")), parameters(Path("parted/model.zip"))
    assert all(torch.equal(value, parted[name]) for name, value in whole.items())

    status, _, err = dipole("train", "resume=parted", "offline_steps=60")
    assert status == 1
    assert "the run has gone on online after 20; expected only online_steps to change now" in err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run", "checkpoint_freq=15")
    os.truncate("run/checkpoints/model_20_steps.zip", 1000)
    status, out, _ = dipole("train", "resume=run")
    assert status == 0
    assert "run/checkpoints/model_20_steps.zip: it is truncated" in out
    assert "run/checkpoints/model_15_steps.zip: going on after 15 of 20 timesteps" in out
    for path in Path("run/checkpoints").iterdir():
        os.truncate(path, 1000)
    status, _, err = dipole("train", "resume=run")
    assert status == 1
    assert "no checkpoint in run/checkpoints is whole" in err


def test_a_run_that_has_saved_nothing_yet(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run", "checkpoint_freq=0", "checkpoint_minutes=0")
    status, _, err = dipole("train", "resume=run")
    assert status == 1
    assert "run: no checkpoint in checkpoints/ to go on from; start it anew, with replace=true" in err


def test_a_run_of_an_earlier_version(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run")
    config = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(
        config.replace("offline_steps: 20\n", "steps: 20\n").replace("online_steps: 0\n", "")
    )
    status, _, err = dipole("train", "resume=run")
    assert status == 1
    assert "run: config.yaml has no online_steps: the run is of an earlier version" in err


def test_other_data_than_the_runs_is_refused(dipole: Command) -> None:
    dipole("data", "record", "--steps", "110", "--net-arch", "16", "--out", "drive.npz")
    dipole("train", "task=custom", "task.dataset=drive.npz", *UNTESTED, "run_dir=run")
    dipole("data", "record", "--steps", "110", "--net-arch", "16", "--seed", "1", "--out", "drive.npz")
    status, _, err = dipole("train", "resume=run")
    assert status == 1
    assert "drive.npz: it is not the data that the run in run/checkpoints/model_20_steps.zip learned from" in err
    os.remove("drive.npz")
    status, _, err = dipole("train", "resume=run")
    assert status == 1
    assert "drive.npz: no such file" in err


def test_several_environments_learn_in_processes(dipole: Command) -> None:
    status, _, err = dipole("train", "task=reacher", *UNTESTED, "n_envs=2", "online_steps=100", "run_dir=run")
    assert (status, err) == (0, "")
    assert DIPOLE.load("run/model.zip")._n_updates == 120  # one for each step of each environment
    # With where each of them is in its episode.
    with zipfile.ZipFile("run/checkpoints/model_120_steps.zip") as archive:
        assert [len(state["actions"]) for state in read_state(archive, "run")["episodes"]] == [0, 0]


def test_scores_of_both_phases_beside_the_papers(dipole: Command) -> None:
    evaluated = ["eval_freq=15", "eval_episodes=2", "online_steps=20"]
    status, out, err = dipole("train", "-m", "task=reacher", "seed=0,1", *UNTESTED, *evaluated, "pictures=true")
    assert (status, err) == (0, "")
    assert "after the offline phase (timestep 20): return -" in out
    assert "after the online phase (timestep 40): return -" in out
    (runs,) = Path("runs/multirun").iterdir()
    assert np.load(runs / "0-reacher-seed0/evaluations/evaluations.npz")["timesteps"].tolist() == [1, 15, 20, 30, 40]

    status, out, err = dipole("curves", str(runs))
    assert (status, err) == (0, "")
    ends = [np.load(path)["results"][-1].mean() for path in runs.glob("*/evaluations/evaluations.npz")]
    assert f"after the online phase (timestep 40): return {np.mean(ends):.2f} [" in out
    assert f"The picture of 2 runs is in {runs}/curves.png" in out
    assert (runs / "curves.png").is_file()

    dipole("train", "task=reacher", *UNTESTED, *evaluated, "offline_steps=30", "run_dir=other")
    status, out, err = dipole("curves", str(runs), "other", "--out", "both.png")
    assert (status, err) == (0, "")
    assert "offline_steps=20: after the offline phase (timestep 20): return -" in out
    assert "offline_steps=30: after the offline phase (timestep 30): return -" in out
    assert Path("both.png").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path) -> None:
    process = training_with_checkpoints(tmp_path, "task=reacher", "run_dir=run", "checkpoint_freq=5")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert out.splitlines()[-1].strip() == "dipole train resume=run"
    assert "Traceback" not in out
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("_")[1]))
    saved = DIPOLE.load(newest).num_timesteps
    assert f"Stopped after {saved} of 1000000 timesteps; saved run/checkpoints/{newest.name}\nGo on with\n" in out
    assert not (tmp_path / "run" / "model.zip").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_second_ctrl_c_ends_at_once_and_leaves_whole_checkpoints(tmp_path: Path) -> None:
    process = training_with_checkpoints(tmp_path, "task=reacher", "run_dir=run", "checkpoint_freq=1", checkpoints=2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), out
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[1] == []


def test_who_stumbles_over_clearing_up_after_ctrl_c_was_interrupted(
    dipole: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")  # torch.save

    monkeypatch.setattr("dipole_sb3.cli.training.train", train)
    status, _, err = dipole("train", *UNTESTED)
    assert (status, err) == (130, "dipole: interrupted\n")


# Wrong input: one sentence each, nothing left behind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "task=reachr"], "there is no task=reachr; nearest: reacher"),
        (["train", "task=ogbench/cube-singel-play"], "nearest: ogbench/cube-single-play"),
        (["data", "make", "driving/highway-mix", "--episodes", "9"], "has no episodes; expected --scenes 9"),
        (["data", "make", "ogbench/cube-single-play", "--scenes", "9"], "has no scenes; expected --episodes 9"),
        (["data", "make", "driving/motorway"], "expected driving/highway-mix"),
        (["train", "task=reacher", "beta=3"], "there is no option beta here; nearest: algo.beta"),
        (["train", "task=reacher", "algo.bta=3"], "there is no option algo.bta here; nearest: algo.beta"),
        (["train", "task=reacher", "algo=sac"], "there is no algo/sac; known are cfgrl, dipole, "),
        (
            ["train", "task=reacher", "offline_steps=many"],
            "offline_steps: Value 'many' of type 'str' could not be converted to Integer",
        ),
        (["train", "task=reacher", "offline_steps=0"], "offline_steps and online_steps are both 0"),
        (["train", "task=reacher", "offline_steps=-1"], "offline_steps is -1, expected at least 0"),
        (["train", "task=reacher", "online_steps=1", "n_envs=0"], "n_envs is 0, expected at least 1"),
        (
            ["train", "task=custom", "task.dataset=demo/reacher-tqc-10k", "online_steps=5"],
            "online_steps is 5, but the task has no environment; give task.env=ID",
        ),
        (["curves", "nowhere"], "nowhere: no such folder; expected the folder of a run"),
        (["train", "task=reacher", "omegas=[-2,0]"], "omegas is -2, expected a finite number of at least -1"),
        (["train", "task=reacher", "algo.verbose=0", "algo.beta=-1"], "beta is -1, expected"),
        (["train", "task=reacher", "+algo.bogus=1"], "an option of algo does not fit"),
        (["train", "task=custom"], "the option task.dataset is missing; give task.dataset=VALUE"),
        (["train", "task=custom", "task.dataset=absent.npz"], "absent.npz: no such file"),
        (["train", "task=custom", "task.dataset=demo/reecher"], "nearest: demo/reacher-tqc-10k"),
        (
            ["train", "task=custom", "task.dataset=demo/reacher-tqc-10k", "task.env=Pendulum-v1", "algo.verbose=0"],
            "(10,)",
        ),
        (
            ["train", "task=custom", "task.dataset=demo/reacher-tqc-10k", "eval_freq=5", "algo.verbose=0"],
            "no environment",
        ),
        (
            ["train", "task=exorl/walker-walk", "task.dataset_dir=nowhere"],
            "expected nowhere/walker/rnd/buffer, which `dipole data fetch exorl/walker/rnd` fetches",
        ),
        (
            ["train", "task=ogbench/scene-play", "task_id=9"],
            "scene-play-singletask-task9-v0 is no data set of OGBench",
        ),
        (["train", "resume=nowhere"], "nowhere: no config.yaml in it"),
        (["evaluate", "episodes=2"], "the option model is missing; give model=VALUE"),
        (["evaluate", "model=a.zip", "algo.beta=1"], "there is no option algo.beta here; `dipole COMMAND --help`"),
        (["evaluate", "model=nowhere.zip"], "nowhere.zip: no such file"),
        (
            ["data", "record", "--algo", "ppo", "--out", "a.npz"],
            "how 'ppo' learns is not offered; expected one of crossq",
        ),
        (["data", "record", "--out", "a.csv"], "a.csv: recorded data is written as .npz"),
        (["data", "record", "--env", "Nowhere-v1", "--out", "a.npz"], "Nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input(dipole: Command, tmp_path: Path, arguments: list[str], message: str) -> None:
    status, _, err = dipole(*arguments)
    assert status == 1
    assert err.startswith("dipole: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["train", "--bogus"], ["data", "make"], ["data", "record", "--bogus"]]
)
def test_wrong_usage(dipole: Command, arguments: list[str]) -> None:
    status, _, err = dipole(*arguments)
    assert status == 2
    assert "usage: dipole" in err


def test_missing_ogbench_data_says_how_to_make_it(
    dipole: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An address that refuses connections at once, as a machine without a network does.
    monkeypatch.setattr("ogbench.utils.DATASET_URL", "http://127.0.0.1:9/none")
    status, _, err = dipole("train", "task=ogbench/cube-single-play", f"task.dataset_dir={tmp_path / 'data'}")
    assert status == 1
    assert "run `dipole data make ogbench/cube-single-play" in err.splitlines()[-1]


def test_a_resumed_run_stays_what_it_was(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run")
    before = (Path("run/model.zip").stat().st_mtime_ns, Path("run/config.yaml").read_text())
    for option, message in [
        ("algo.beta=9", "algo.beta=9: a resumed run stays as it was"),
        ("seed=9", "seed=9: a resumed run stays as it was"),
        ("offline_stepps=30", "there is no option offline_stepps here; nearest: offline_steps"),
        ("offline_steps=soon", "could not be converted to Integer"),
    ]:
        status, _, err = dipole("train", "resume=run", option)
        assert status == 1
        assert message in err
    assert (Path("run/model.zip").stat().st_mtime_ns, Path("run/config.yaml").read_text()) == before


def test_a_model_without_its_run_needs_an_environment(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run")
    Path("alone/deep").mkdir(parents=True)
    os.rename("run/model.zip", "alone/deep/model.zip")
    status, _, err = dipole("evaluate", "model=alone/deep/model.zip", "pictures=false")
    assert status == 1
    assert "give env=ID" in err
    options = ["pictures=false", "episodes=2", "omegas=[0]", "candidates=[1]", "out=table"]
    status, _, err = dipole("evaluate", "model=alone/deep/model.zip", "env=Reacher-v5", *options)
    assert (status, err) == (0, "")
    assert Path("table/omega_sweep.csv").is_file()


def test_a_run_is_not_made_shorter_than_it_is(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "checkpoint_freq=10", "run_dir=run")
    status, _, err = dipole("train", "resume=run", "offline_steps=10")
    assert status == 1
    assert "offline_steps + online_steps is 10, but the run in run has 20 timesteps already" in err


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_output_that_nobody_reads_any_more_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m dipole_sb3.cli data info demo/reacher-tqc-10k | true"
    finished = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (finished.stdout, finished.stderr) == ("", "")
