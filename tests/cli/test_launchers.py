"""Hydra's launchers and its sweeper for Optuna, the real ones: every job trains, and returns what it was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from commands import TINY, Command

from dipole_sb3.evaluation.sweep import read_sweep_csv

EVALUATED = ["task=reacher", *TINY, "episodes=1", "omegas=[0,1]", "candidates=[1]", "algo.acceleration=eager"]
SWEEP = ["hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}"]
TRIALS = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=0"]
TRIALS += ["algo.beta=interval(0.5,2)", "hydra.sweeper.direction=maximize", *SWEEP]


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_jobs_of_other_processes_leave_the_runs_that_one_process_would(
    dipole: Command, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.getcwd()])))
    status, out, err = dipole("train", "-m", *EVALUATED, "seed=0,1", f"hydra/launcher={launcher}", *SWEEP)
    assert status == 0, err
    assert "mean over 2 runs with its 95 % interval" in out
    assert "The table over runs is in sweep/omega_sweep_over_runs.csv" in out
    assert dipole("train", *EVALUATED, "seed=1", "run_dir=alone")[0] == 0
    found, expected = Path("sweep/1/omega_sweep.csv"), Path("alone/omega_sweep.csv")
    assert found.read_text() == expected.read_text()


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[optuna.Study]:
    """Fills with the studies that the sweeper makes."""
    made: list[optuna.Study] = []
    real = optuna.create_study

    def create_study(*arguments: Any, **options: Any) -> optuna.Study:
        made.append(real(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(optuna, "create_study", create_study)
    return made


def test_a_sweeper_that_searches_gets_the_return_of_a_cell(dipole: Command, studies: list[optuna.Study]) -> None:
    options = ["objective=return", "objective_at.omega=1"]
    status, _, err = dipole("train", "-m", *EVALUATED, *TRIALS, *options)
    assert status == 0, err
    returns = []
    for number in range(3):
        (row,) = [row for row in read_sweep_csv(f"sweep/{number}/omega_sweep.csv") if row.setting["omega"] == 1]
        returns.append(row.return_mean)
    assert [trial.value for trial in studies[0].trials] == returns
    best: dict[str, Any] = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_value"] == max(returns)


def test_a_job_of_several_seeds_returns_their_mean(dipole: Command, studies: list[optuna.Study]) -> None:
    options = ["objective=return", "objective_at.omega=0", "runs=2"]
    status, _, err = dipole("train", "-m", *EVALUATED, *TRIALS, *options, "hydra.sweeper.n_trials=1")
    assert status == 0, err
    means = [read_sweep_csv(path)[0].return_mean for path in Path("sweep/0").glob("seed*/omega_sweep.csv")]
    assert len(means) == 2
    assert studies[0].trials[0].value == pytest.approx(sum(means) / 2, rel=1e-12)


def test_a_job_may_return_what_was_logged_last(dipole: Command, studies: list[optuna.Study]) -> None:
    options = ["objective=train/critic_loss", "log_interval=1"]
    status, _, err = dipole("train", "-m", *EVALUATED, *TRIALS, *options, "hydra.sweeper.n_trials=1")
    assert status == 0, err
    last = Path("sweep/0/progress.csv").read_text().splitlines()
    logged = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert studies[0].trials[0].value == float(logged["train/critic_loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the sweeper needs a result of every job; expected objective=success or objective=return"),
        (["objective=return", "hydra.sweeper.direction=minimize"], "more return is better; expected maximize"),
        (["objective=return"], "objective_at.omega is 0.5, which is not evaluated; expected one of [0, 1]"),
        (["objective=return", "objective_at.guidance=1"], "objective_at names guidance, expected omega and num_cand"),
        (["objective=return", "episodes=0"], "nothing is evaluated; expected episodes above 0"),
        (["objective=train/loss", "objective_at.omega=1"], "belongs to no cell; expected no objective_at"),
        (["objective_at.omega=1"], "no objective is given; expected objective=success, say"),
    ],
)
def test_what_no_job_could_return_ends_the_search_before_it_begins(
    dipole: Command, options: list[str], message: str
) -> None:
    status, _, err = dipole("train", "-m", *EVALUATED, *TRIALS, *options)
    assert status == 1
    assert message in err
    assert not list(Path().glob("**/config.yaml"))


def test_a_task_without_success_has_no_such_objective(dipole: Command) -> None:
    status, _, err = dipole("train", "-m", *EVALUATED, *TRIALS, "objective=success", "objective_at.omega=1")
    assert status == 1
    assert "objective is success, but Reacher-v5 reports none; expected objective=return" in err
    assert not Path("sweep/1").exists()


def test_the_search_goes_on_after_as_many_failures_as_it_may_have(dipole: Command, studies: list[optuna.Study]) -> None:
    options = [*EVALUATED, *TRIALS, "objective=return", "objective_at.omega=1", "algo.beta=choice(-1,1)"]
    status, _, err = dipole("train", "-m", *options, "hydra.sweeper.max_failure_rate=1", "hydra.sweeper.n_trials=6")
    assert status == 0, err
    for trial in studies[0].trials:
        assert trial.state.name == ("COMPLETE" if trial.params["algo.beta"] == 1 else "FAIL")
    assert len({trial.state for trial in studies[0].trials}) == 2
