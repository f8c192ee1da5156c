"""``dipole train`` with several runs: learned as one where they can, each in an ordinary folder of its own."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import TINY, UNTESTED, Command, parameters, timesteps, training_with_checkpoints
from dipole_export.cli import main as whole_command
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.envs.registration import EnvSpec
from omegaconf import OmegaConf

import dipole_sb3.cli.training
from dipole_sb3 import DIPOLE
from dipole_sb3.cli import main
from dipole_sb3.common.intervals import mean_interval

EVALUATED = [*TINY, "episodes=2", "omegas=[0,2]"]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[DIPOLE]]:
    """Fills with the models of every group that learns as one."""
    learned: list[list[DIPOLE]] = []
    real = dipole_sb3.cli.training.learn_together

    def learn_together(models: Sequence[DIPOLE], *arguments: Any, **options: Any) -> list[DIPOLE]:
        learned.append(list(models))
        return real(models, *arguments, **options)

    monkeypatch.setattr("dipole_sb3.cli.training.learn_together", learn_together)
    return learned


def files_in(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(re.sub(r"(tfevents).*", r"\1", name) for name in names)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def returns(folder: Path) -> list[float]:
    return [float(row["return_mean"]) for row in table(folder / "omega_sweep.csv")]


def assert_same_parameters(one: Path, other: Path) -> None:
    """Up to the rounding of an update over stacked parameters."""
    found, expected = parameters(one), parameters(other)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


# Folders


def test_every_run_leaves_the_folder_that_it_leaves_alone(dipole: Command, groups: list[list[DIPOLE]]) -> None:
    options = ["task=reacher", *EVALUATED, "checkpoint_freq=10", "log_interval=1", "eval_freq=10", "eval_episodes=2"]
    options += ["pictures=true"]
    status, out, err = dipole("train", *options, "runs=2", "seed=3")
    assert (status, err) == (0, "")
    ((first, second),) = groups
    assert first.dataset is second.dataset
    folders = sorted(Path("runs/reacher").iterdir())
    assert [folder.name[-6:] for folder in folders] == ["-seed3", "-seed4"]
    assert f"The runs are in\n  {folders[0]}/\n  {folders[1]}/\n" in out

    dipole("train", *options, "seed=4", "run_dir=alone")
    alone = Path("alone")
    for folder, seed in zip(folders, (3, 4), strict=True):
        assert files_in(folder) == files_in(alone)
        config = OmegaConf.load(folder / "config.yaml")
        assert (config.seed, config.runs, config.run_dir) == (seed, 1, str(folder))
        assert timesteps(folder)[-1] == 20
        assert DIPOLE.load(folder / "model.zip").seed == seed
    assert_same_parameters(folders[1] / "model.zip", alone / "model.zip")
    assert OmegaConf.load(folders[1] / "config.yaml").algo == OmegaConf.load("alone/config.yaml").algo
    evaluations = [np.load(folder / "evaluations/evaluations.npz") for folder in (folders[1], alone)]
    assert [each["timesteps"].tolist() for each in evaluations] == [[1, 10, 20]] * 2
    assert evaluations[1]["results"].shape == (3, 2)
    np.testing.assert_allclose(evaluations[0]["results"], evaluations[1]["results"], rtol=1e-3)
    assert returns(folders[1]) == pytest.approx(returns(alone), rel=1e-3)

    # The command that it prints draws them, by the pattern that a shell would expand.
    (pattern,) = re.findall(r"dipole curves (\S+)$", out, flags=re.MULTILINE)
    status, out, err = dipole("curves", *map(str, Path().glob(pattern)))
    assert (status, err) == (0, "")
    assert "The picture of 2 runs is in runs/reacher/curves.png" in out


@pytest.mark.usefixtures("operators_read_once")
def test_a_run_of_several_is_evaluated_exported_and_resumed_as_any_other(dipole: Command, tmp_path: Path) -> None:
    dipole("train", "task=reacher", *EVALUATED, "runs=2", "run_dir=many", "log_interval=1")
    folder = Path("many/seed1")
    options = ["episodes=2", "omegas=[0,2]", "pictures=false", "out=again"]
    status, _, err = dipole("evaluate", f"model={folder}", *options)
    assert (status, err) == (0, "")
    assert returns(Path("again")) == pytest.approx(returns(folder), rel=1e-3)
    assert whole_command(["export", str(folder), "bundle"]) == 0
    assert Path("bundle/manifest.json").is_file()

    dipole("train", "task=reacher", *UNTESTED, "seed=1", "offline_steps=30", "run_dir=alone", "log_interval=1")
    status, out, err = dipole("train", f"resume={folder}", "offline_steps=30", "episodes=0")
    assert (status, err) == (0, "")
    assert f"This run is in {folder}/" in out
    assert timesteps(folder) == [20, 30]
    assert_same_parameters(folder / "model.zip", Path("alone/model.zip"))
    status, _, err = dipole("train", f"resume={folder}", "runs=2")
    assert status == 1
    assert "runs=2: a resumed run stays as it was" in err


def test_a_run_from_before_an_option_existed_goes_on(dipole: Command) -> None:
    dipole("train", "task=reacher", *UNTESTED, "run_dir=run")
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("runs: 1\n", ""))
    status, _, err = dipole("train", "resume=run", "offline_steps=25")
    assert (status, err) == (0, "")
    assert OmegaConf.load(config).runs == 1


def test_both_phases_in_several_environments(dipole: Command, groups: list[list[DIPOLE]]) -> None:
    """The online phase draws from generators that all runs share: each goes on where it alone would."""
    options = ["task=reacher", *UNTESTED, "online_steps=130", "n_envs=2"]
    evaluated = ["eval_freq=50", "eval_episodes=1"]
    status, out, err = dipole("train", *options, *evaluated, "runs=2", "run_dir=many", "checkpoint_freq=50")
    assert (status, err) == (0, "")
    assert [model.num_timesteps for model in groups[0]] == [150, 150]
    assert "after the offline phase (timestep 20): return -" in out
    assert "after the online phase (timestep 150): return -" in out
    for seed in (0, 1):
        checkpoints = sorted(path.name for path in Path(f"many/seed{seed}/checkpoints").iterdir())
        assert checkpoints == ["model_100_steps.zip", "model_150_steps.zip"]
        dipole("train", *options, f"seed={seed}", f"run_dir=alone{seed}")
        found, expected = (
            DIPOLE.resume(Path(folder, "checkpoints"), dataset="demo/reacher-tqc-10k", device="cpu").replay_buffer
            for folder in (f"many/seed{seed}", f"alone{seed}")
        )
        assert found is not None
        assert expected is not None
        np.testing.assert_allclose(found.observations[:60], expected.observations[:60], rtol=1e-3, atol=1e-4)
        assert_same_parameters(Path(f"many/seed{seed}/model.zip"), Path(f"alone{seed}/model.zip"))


@pytest.mark.parametrize(
    ("run_dir", "folders"),
    [("mine", ["mine/seed5", "mine/seed6"]), ("mine/of-${seed}/run", ["mine/of-5/run", "mine/of-6/run"])],
)
def test_a_folder_of_the_users(dipole: Command, run_dir: str, folders: list[str]) -> None:
    status, _, err = dipole("train", "task=reacher", *UNTESTED, "runs=2", "seed=5", f"run_dir={run_dir}")
    assert (status, err) == (0, "")
    assert sorted(str(path.parent) for path in Path().rglob("model.zip")) == folders
    assert [OmegaConf.load(f"{folder}/config.yaml").run_dir for folder in folders] == folders


def test_the_data_are_loaded_once(dipole: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = dipole_sb3.cli.training.load_dataset
    monkeypatch.setattr("dipole_sb3.cli.training.load_dataset", lambda *a, **o: loaded.append(a) or real(*a, **o))
    dipole("train", "task=reacher", *UNTESTED, "runs=3", "run_dir=run")
    assert loaded == [("demo/reacher-tqc-10k",)]


# Sweeps


def test_a_sweep_learns_what_can_be_stacked_as_one(dipole: Command, groups: list[list[DIPOLE]]) -> None:
    options = [option for option in EVALUATED if "net_arch" not in option]
    sweep = ["seed=0,1", "algo.beta=0.5,1", "algo.policy_kwargs.net_arch=[8],[16]", "algo.num_candidates=2,3"]
    status, out, err = dipole("train", "-m", "task=reacher", *options, *sweep)
    assert (status, err) == (0, "")
    assert [len(group) for group in groups] == [8, 8]
    for group, width in zip(groups, (8, 16), strict=True):
        assert {tuple(model.policy_kwargs["net_arch"]) for model in group} == {(width,)}
    (folder,) = Path("runs/multirun").iterdir()
    for number in range(16):
        seed, beta, width, candidates = number // 8, (0.5, 1)[number // 4 % 2], (8, 16)[number // 2 % 2], number % 2 + 2
        model = DIPOLE.load(folder / f"{number}-reacher-seed{seed}/model.zip")
        found = (model.seed, model.beta, model.policy_kwargs["net_arch"], model.num_candidates)
        assert found == (seed, beta, [width], candidates)

    # A line for each setting, mean and interval over its two seeds.
    rows = table(folder / "omega_sweep_over_runs.csv")
    assert list(rows[0])[:4] == ["algo.beta", "algo.policy_kwargs.net_arch", "algo.num_candidates", "runs"]
    assert len(rows) == 8 * 2 * 2
    cell = {"algo.beta": "1", "algo.policy_kwargs.net_arch": "[8]", "algo.num_candidates": "3"}
    cell |= {"omega": "2.0", "num_candidates": "3"}
    (row,) = [row for row in rows if cell.items() <= row.items()]
    means = [
        float(each["return_mean"])
        for seed, number in ((0, 5), (1, 13))
        for each in table(folder / f"{number}-reacher-seed{seed}/omega_sweep.csv")
        if (each["omega"], each["num_candidates"]) == ("2.0", "3")
    ]
    expected = mean_interval(means)
    assert [float(row[f"return_{name}"]) for name in ("mean", "low", "high")] == pytest.approx(list(expected))
    assert (row["runs"], row["episodes"]) == ("2", "2")
    title = "Return at N = 3, mean over 2 runs with its 95 % interval, 2 episodes a cell and run\n"
    assert title in out
    lines = out.partition(title)[2].splitlines()
    assert re.findall(r"ω = \S+", lines[0]) == ["ω = 0", "ω = 2"]
    shown = f"{expected.mean:.2f} ± {expected.high - expected.mean:.2f}"
    (line,) = [line for line in lines[:6] if "algo.beta=1 algo.policy_kwargs.net_arch=[8]" in line]
    assert line.endswith(shown)
    assert f"  dipole curves {folder}/5-reacher-seed0 {folder}/13-reacher-seed1\n" in out


def test_seeds_of_every_job_of_a_sweep(dipole: Command, groups: list[list[DIPOLE]]) -> None:
    """``runs`` in a sweep: the seeds of a job share its folder, which `dipole curves` takes."""
    status, out, err = dipole("train", "-m", "task=reacher", *EVALUATED, "runs=2", "algo.beta=1,2")
    assert (status, err) == (0, "")
    assert [len(group) for group in groups] == [4]
    (folder,) = Path("runs/multirun").iterdir()
    names = [f"{job}-reacher-seed0/seed{seed}" for job in (0, 1) for seed in (0, 1)]
    assert sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("model.zip")) == names
    assert [DIPOLE.load(folder / name / "model.zip").beta for name in names] == [1, 1, 2, 2]
    assert f"  dipole curves {folder}/1-reacher-seed0/seed*\n" in out
    assert [row["algo.beta"] for row in table(folder / "omega_sweep_over_runs.csv")] == ["1"] * 4 + ["2"] * 4


def test_a_job_with_an_environment_of_its_own_trains_in_it(
    dipole: Command, groups: list[list[DIPOLE]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OF_THE_JOB", raising=False)
    status, out, err = dipole("train", "-m", *UNTESTED, "seed=0,1", "+hydra.job.env_set.OF_THE_JOB=yes")
    assert (status, err) == (0, "")
    assert groups == []
    assert out.count("This run is in runs/multirun/") == 2
    status, out, err = dipole(
        "train",
        "-m",
        *EVALUATED,
        "algo.beta=1,2",
        "runs=2",
        "+hydra.job.env_set.OF_THE_JOB=yes",
        "hydra.sweep.dir=many",
    )
    assert (status, err) == (0, "")
    assert [len(group) for group in groups] == [2, 2]
    tables = sorted(path.parent.as_posix() for path in Path("many").rglob("omega_sweep_over_runs.csv"))
    assert tables == ["many", "many/0-reacher-seed0", "many/1-reacher-seed0"]


@pytest.mark.parametrize("own", [[], ["+hydra.job.env_set.OF_THE_JOB=yes"]], ids=["afterwards", "in_the_job"])
def test_a_job_that_changes_its_directory(dipole: Command, own: list[str]) -> None:
    status, _, err = dipole("train", *UNTESTED, "run_dir=run", "hydra.job.chdir=true", *own)
    assert (status, err) == (0, "")
    assert Path("run/model.zip").is_file()


# Refusals, before anything begins


def test_one_folder_that_is_taken_refuses_all(dipole: Command, tmp_path: Path) -> None:
    dipole("train", "task=reacher", *UNTESTED, "seed=1", "run_dir=mine/seed1")
    before = files_in(tmp_path)
    status, out, err = dipole("train", "task=reacher", *UNTESTED, "runs=2", "run_dir=mine")
    assert (status, out) == (1, "")
    assert "mine/seed1: holds a run already; go on with it by resume=mine/seed1" in err
    assert files_in(tmp_path) == before
    assert not Path("mine/seed0").exists()
    status, _, err = dipole("train", "task=reacher", *UNTESTED, "runs=2", "run_dir=mine", "replace=true")
    assert (status, err) == (0, "")
    assert Path("mine/seed0/model.zip").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs=0"], "runs is 0, expected at least 1"),
        (["runs=some"], "runs: Value 'some' of type 'str' could not be converted to Integer"),
        (["-m", "runs=2", "seed=0,1"], "2 runs are the same (seed=1), expected every seed once in a setting"),
        (["-m", "seed=0,1", "hydra.sweep.subdir=same"], "/same, expected one for each"),
        (["-m", "seed=0,1", "algo.beta=1,-1"], "beta is -1, expected"),
        (["-m", "seed=0,1", "eval_freq=0,5", "task.env=null"], "eval_freq is 5, but the task has no environment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_begins_nothing(dipole: Command, tmp_path: Path, arguments: list[str], message: str) -> None:
    status, _, err = dipole("train", *arguments, *UNTESTED)
    assert status == 1
    assert err.startswith("dipole: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["multirun.yaml"] * ("-m" in arguments)


def test_the_demo_is_one_run(dipole: Command, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        whole_command(["demo", "runs=2"])
    assert stopped.value.code == 1
    assert "runs is 2, expected 1: the demo trains one" in capfd.readouterr().err
    assert not Path("runs").exists()


# What goes wrong, or is stopped, on the way


class Absent(ReacherEnv):
    """An arm that cannot be started."""

    def reset(self, **_: Any) -> Any:
        raise OSError("the arm does not answer")


def test_a_failing_evaluation_loses_no_model(dipole: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = EnvSpec("AbsentReacher-v0", entry_point=Absent, max_episode_steps=50)
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    task = ["task=custom", "task.dataset=demo/reacher-tqc-10k", f"task.env={spec.id}"]
    status, _, err = dipole("train", *task, *EVALUATED, "runs=2", "run_dir=many")
    assert status == 1
    first, second = err.splitlines()
    assert first == (
        "dipole: the evaluation failed; all that was learned is in many/seed0/model.zip and many/seed1/model.zip"
    )
    assert second == "dipole: the arm does not answer"
    assert [DIPOLE.load(f"many/seed{seed}/model.zip").num_timesteps for seed in (0, 1)] == [20, 20]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("stopped_by", [signal.SIGINT, signal.SIGTERM])
def test_stopping_saves_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_by: signal.Signals) -> None:
    options = ["task=reacher", "runs=2", "checkpoint_freq=5", "algo.q_agg=min,mean", "hydra.sweep.dir=sweep"]
    process = training_with_checkpoints(tmp_path, "-m", *options)
    process.send_signal(stopped_by)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if stopped_by == signal.SIGINT else 75), out
    assert "Traceback" not in out
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"Stopped after (\d+) of 1000000 timesteps; saved (\S+)\n", out)
    folders = [Path("sweep/0-reacher-seed0", name) for name in ("seed0", "seed1")]
    together = [f"resume={folder}" for folder in folders]
    assert out.endswith(
        f"Go on with\n  dipole train {' '.join(together)}\nNot begun: 2 runs (algo.q_agg=mean, seed 0, 1)\n"
    )
    for steps, saved in found:
        assert DIPOLE.load(saved).num_timesteps == int(steps)
    end = max(int(steps) for steps, _ in found) + 3
    assert main(["train", *together, f"offline_steps={end}"]) == 0
    for folder in folders:
        assert DIPOLE.load(folder / "model.zip").num_timesteps == end
    assert all((folder / "model.zip").is_file() for folder in folders)


def test_runs_that_are_not_equally_far_go_on_together(dipole: Command, tmp_path: Path) -> None:
    status, _, err = dipole(
        "train", "-m", *UNTESTED, "seed=0,1", "algo.beta=1,3", "checkpoint_freq=10", "hydra.sweep.dir=sweep"
    )
    assert status == 0, err
    folders = sorted(Path("sweep").glob("*-seed*"))
    assert len(folders) == 4
    # The first was killed after its checkpoint, the others before theirs.
    for folder in folders[1:]:
        (folder / "checkpoints/model_20_steps.zip").unlink()
    status, out, err = dipole("train", *(f"resume={folder}" for folder in folders), "offline_steps=30", "episodes=2")
    assert status == 0, err
    assert out.count("going on after 10 of 30 timesteps") == 3
    assert out.count("going on after 20 of 30 timesteps") == 1
    assert "algo.beta=1" in out
    assert "algo.beta=3" in out
    alone, *_ = dipole("train", *UNTESTED, "seed=1", "algo.beta=3", "offline_steps=30", "run_dir=alone")
    assert alone == 0
    configs = {folder: OmegaConf.load(folder / "config.yaml") for folder in folders}
    (other,) = [folder for folder, config in configs.items() if (config.seed, config.algo.beta) == (1, 3)]
    expected, found = (DIPOLE.load(folder / "model.zip").policy.state_dict() for folder in (Path("alone"), other))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5)


def test_the_same_folder_twice_is_refused(dipole: Command) -> None:
    assert dipole("train", *UNTESTED, "run_dir=one")[0] == 0
    status, _, err = dipole("train", "resume=one", "resume=one", "offline_steps=30")
    assert status == 1
    assert "2 runs are the same" in err


def test_a_task_without_hyperparameters_of_the_algorithm_is_told(dipole: Command) -> None:
    _, out, err = dipole("train", "algo=fql", "task=exorl/walker-run", "task.dataset=nothing.npz", *UNTESTED)
    assert out == "fql has no hyperparameters of its own for exorl/walker-run: those of configs/algo/fql.yaml hold\n"
    assert "nothing.npz" in err
    _, out, _ = dipole("train", "algo=fql", "task=reacher", "task.dataset=nothing.npz", *UNTESTED)
    assert out == ""
