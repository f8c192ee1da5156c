"""``callbacks:`` and ``loggers:`` of the configuration, with the real trackers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from commands import TINY, UNTESTED, Command, progress, training_with_checkpoints
from omegaconf import OmegaConf
from tracked_runs import offline_runs

from dipole_sb3 import DIPOLE
from dipole_sb3.cli import main
from dipole_sb3.evaluation.sweep import read_sweep_csv
from dipole_sb3.tracking.optuna import PruneTrial, pruned_by

EVALUATED = [*TINY, "task=reacher", "log_interval=1", "checkpoint_minutes=0", "episodes=2", "omegas=[0,2]"]
EVALUATED += ["candidates=[1]"]
ENDS = "+callbacks.ends._target_=tracked_runs.EndsAt"
ROWS = ["+loggers.rows._target_=tracked_runs.Rows", "+loggers.rows.file=${run_dir}/rows.jsonl"]


@pytest.fixture(autouse=True)
def _quiet_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a tracker keeps lies in the test's own folder."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def rows_of(folder: Path | str) -> list[dict[str, float]]:
    return [json.loads(line) for line in Path(folder, "rows.jsonl").read_text().splitlines()]


def logged(folder: Path | str) -> list[dict[str, float]]:
    """The rows of progress.csv."""
    return [{name: float(value) for name, value in row.items() if value} for row in progress(Path(folder))]


# One's own


def test_every_run_of_a_group_has_its_own(dipole: Command) -> None:
    arguments = ["train", *EVALUATED, *ROWS, ENDS, "+callbacks.ends.timestep=7", "+callbacks.ends.seed=1", "runs=2"]
    status, out, err = dipole(*arguments, "run_dir=many")
    assert (status, err) == (0, "")
    assert "many/seed1: a callback ended training after 7 of 20 timesteps\n" in out
    for seed, steps in ((0, 20), (1, 7)):
        folder = Path(f"many/seed{seed}")
        assert DIPOLE.load(folder / "model.zip").num_timesteps == steps
        assert len(read_sweep_csv(folder / "omega_sweep.csv")) == 2
        assert (folder / "stopped.json").is_file() == (seed == 1)
    # Each in its folder, open until the end, and with the rows of progress.csv.
    for row, expected in zip(rows_of("many/seed0"), logged("many/seed0"), strict=True):
        assert expected.items() <= row.items()
    assert Path("many/seed0/rows.closed").is_file()
    group = Path("many/seed0/group.txt").read_text()
    assert group.startswith("DIPOLE reacher ")
    dipole("train", *EVALUATED, *ROWS, "seed=5", "run_dir=other", "processes=1")
    assert Path("other/group.txt").read_text() == group
    assert OmegaConf.load("many/seed1/config.yaml").loggers.rows.file == "many/seed1/rows.jsonl"


def test_a_run_that_a_callback_ended_is_finished(dipole: Command) -> None:
    arguments = ["train", *EVALUATED, ENDS, "+callbacks.ends.timestep=7", "run_dir=run", "resume=auto"]
    assert dipole(*arguments)[0] == 0
    status, out, err = dipole(*arguments)
    assert (status, err) == (0, "")
    assert "run: is finished\n" in out
    Path("run/omega_sweep.csv").unlink()  # killed in its evaluation
    status, out, _ = dipole(*arguments)
    assert status == 0
    assert Path("run/omega_sweep.csv").is_file()
    assert DIPOLE.load("run/model.zip").num_timesteps == 7
    # Whoever asks for more gets it; without the callback, here.
    status, _, err = dipole("train", "resume=run", "callbacks=null", *ROWS)
    assert (status, err) == (0, "")
    assert DIPOLE.load("run/model.zip").num_timesteps == 20
    assert not Path("run/stopped.json").exists()
    assert [row["step"] for row in rows_of("run")] == [20]


def test_a_run_that_ends_before_its_first_row_is_evaluated(dipole: Command) -> None:
    arguments = ["train", *EVALUATED, "pictures=true", "log_interval=4", ENDS, "+callbacks.ends.timestep=7"]
    status, _, err = dipole(*arguments, "run_dir=run")
    assert status == 0, err
    assert Path("run/omega_sweep.csv").is_file()
    assert Path("run/weights.png").is_file()
    assert not Path("run/curves.png").exists()


def test_a_stopped_group_names_those_that_had_learned_enough_before(
    dipole: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are not saved as models yet: without their names they would never be evaluated."""
    assert dipole("train", *EVALUATED, "checkpoint_freq=10", "runs=2", "run_dir=many")[0] == 0
    for seed, timestep in ((0, 20), (1, 10)):
        again_from(f"many/seed{seed}", timestep)
    interrupted = ["+callbacks.x._target_=tracked_runs.Interrupts"]
    with pytest.raises(SystemExit):
        main(["train", "resume=many/seed0", "resume=many/seed1", *interrupted])
    assert "dipole train resume=many/seed0 resume=many/seed1\n" in capfd.readouterr().out


def test_evaluations_of_a_run_play_the_same_episodes(dipole: Command) -> None:
    assert dipole("train", *EVALUATED, "checkpoint_freq=10", "eval_freq=5", "eval_episodes=2", "run_dir=run")[0] == 0
    again_from("run", 10)
    for option in ("eval_episodes=3", "eval_seed=9"):
        name, _, value = option.partition("=")
        for arguments in (["resume=run"], [*EVALUATED, "eval_freq=5", "run_dir=run", "resume=auto"]):
            before = ["eval_episodes=2"] if name == "eval_seed" and "resume=auto" in arguments else []
            status, _, err = dipole("train", *arguments, *before, option)
            assert status == 1
            assert f"found {name}={value}; expected the options with which it began, or another run_dir" in err
    assert dipole("train", "resume=run")[0] == 0


def test_entries_of_a_folder_of_ones_own(dipole: Command) -> None:
    Path("own/loggers").mkdir(parents=True)
    Path("own/loggers/mine.yaml").write_text("mine:\n  _target_: tracked_runs.Rows\n  file: ${run_dir}/rows.jsonl\n")
    arguments = ["train", "--config-dir", "own", *EVALUATED, "loggers=[wandb,mine]", "run_dir=run"]
    status, _, err = dipole(*arguments, "loggers.wandb.project=arm")
    assert (status, err) == (0, "")
    assert len(rows_of("run")) == 1
    assert json.loads(Path("run/trackers.json").read_text()).keys() == {"wandb/arm"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["+loggers.x._target_=nowhere.Rows"], "loggers.x._target_ is nowhere.Rows, but there is no module nowhere"),
        (["+loggers.x._target_=tracked_runs.Nobody"], "expected the path of a class, e.g. my_module.Mine"),
        (["+loggers.x._target_=Rows"], "expected the path of a class, e.g. my_module.Mine"),
        ([ENDS.replace("callbacks", "loggers")], "expected a sub-class of SB3's KVWriter"),
        ([ENDS], "callbacks.ends: missing a required argument: 'timestep'; tracked_runs.EndsAt takes (timestep"),
        ([ENDS, "+callbacks.ends.timestep=1", "+callbacks.ends.sed=2"], "unexpected keyword argument 'sed'"),
        (["+callbacks.x._target_=tracked_runs.Refuses", "+callbacks.x.number=3"], "number is 3, expected another"),
        (["+callbacks.x=3"], "callbacks.x is 3, expected _target_ with the path of a class, and its arguments"),
        (
            [ENDS, "+callbacks.ends.timestep={_target_: tracked_runs.Rows}"],
            "callbacks.ends.timestep has a _target_ of its own, expected plain values",
        ),
        (["callbacks=optuna"], "there is no trial of Optuna here; expected the command inside of `with pruned_by"),
        (["loggers=nobody"], "there is no loggers/nobody; known are mlflow, trackio, wandb"),
        ([*ROWS[:1], "+loggers.rows.file=???"], "the option loggers.rows.file is missing"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_entries_are_refused_before_anything_starts(
    dipole: Command, tmp_path: Path, entry: list[str], message: str
) -> None:
    status, out, err = dipole("train", "task=reacher", *UNTESTED, *entry, "run_dir=run")
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("run").exists()


def test_a_refused_entry_leaves_an_earlier_run(dipole: Command) -> None:
    assert dipole("train", "task=reacher", *UNTESTED, "run_dir=run")[0] == 0
    before = Path("run/model.zip").read_bytes()
    entry = ["+callbacks.x._target_=tracked_runs.Refuses", "+callbacks.x.number=3", "replace=true"]
    assert dipole("train", "task=reacher", *UNTESTED, *entry, "run_dir=run")[0] == 1
    assert Path("run/model.zip").read_bytes() == before


# Trackers


def again_from(folder: str, timestep: int) -> None:
    """As if the run had been killed after the checkpoint of this timestep."""
    Path(folder, "model.zip").unlink()
    for path in Path(folder, "checkpoints").iterdir():
        if path.name != f"model_{timestep}_steps.zip":
            path.unlink()


LONGER = ["task=reacher", *UNTESTED, "offline_steps=520", "checkpoint_freq=260", "log_interval=1"]


def test_wandb_goes_on_with_the_run_that_it_knows(dipole: Command) -> None:
    assert dipole("train", *LONGER, "loggers=wandb", "run_dir=run", "seed=3")[0] == 0
    again_from("run", 260)
    status, _, err = dipole("train", "resume=run")
    assert (status, err) == (0, "")
    status, _, err = dipole("train", "resume=run", "offline_steps=780", "episodes=2", "omegas=[0]", "candidates=[1]")
    assert (status, err) == (0, "")
    first, second, third = offline_runs(Path("run"))
    assert first.id == second.id == third.id
    assert first.name == "run"
    assert (first.config["seed"], first.config["algo"]["beta"]) == (3, 2.0)
    rows = logged("run")
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert list(first.history) == [250, 500, 520]
    assert second.history == {}  # none twice
    assert [*first.history, *third.history] == steps
    for row, step in zip(rows, steps, strict=True):
        found = (first.history | third.history)[step]
        expected = {name: value for name, value in row.items() if not name.startswith("time/")}  # of that start
        assert {name: found[name] for name in expected} == pytest.approx(expected)
    (cell,) = read_sweep_csv("run/omega_sweep.csv")
    assert third.summary["sweep/return_mean/omega 0 num_candidates 1"] == pytest.approx(cell.return_mean)


def test_wandb_begins_anew_in_a_replaced_run(dipole: Command) -> None:
    for _ in range(2):
        assert dipole("train", "task=reacher", *UNTESTED, "loggers=wandb", "run_dir=run", "replace=true")[0] == 0
    assert len({run.id for run in offline_runs(Path("run"))}) == 2


def test_seeds_that_learn_together_are_a_group(dipole: Command) -> None:
    trackers = "loggers=[wandb,mlflow,trackio]"
    status, _, err = dipole("train", *EVALUATED, trackers, "runs=2", "run_dir=many")
    assert status == 0, err
    of_wandb = [offline_runs(Path(f"many/seed{seed}"))[0] for seed in (0, 1)]
    (group,) = {run.group for run in of_wandb}
    assert of_wandb[0].id != of_wandb[1].id
    from mlflow import MlflowClient
    from trackio import Api

    client = MlflowClient()
    experiment = client.get_experiment_by_name("dipole-sb3")
    of_mlflow = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    of_trackio = {run.config["run_dir"]: run for run in Api().runs("dipole-sb3")}
    assert of_mlflow.keys() == of_trackio.keys() == {"many/seed0", "many/seed1"}
    for seed in (0, 1):
        folder = f"many/seed{seed}"
        (row,) = logged(folder)
        run = of_mlflow[folder]
        assert (run.data.tags["group"], run.info.status) == (group, "FINISHED")
        assert run.data.params["algo.beta"] == "2.0"
        assert {name: run.data.metrics[name] for name in row} == pytest.approx(row)
        cells = read_sweep_csv(Path(folder, "omega_sweep.csv"))
        for cell in cells:
            name = f"sweep/return_mean/omega {cell.setting['omega']:g} num_candidates 1"
            assert run.data.metrics[name] == pytest.approx(cell.return_mean)
        assert of_trackio[folder].config["_Group"] == group
        assert of_wandb[seed].history[20]["train/q_mean"] == pytest.approx(row["train/q_mean"])


def test_mlflow_and_trackio_go_on_with_the_run_that_they_know(dipole: Command) -> None:
    assert dipole("train", *LONGER, "loggers=[mlflow,trackio]", "run_dir=run")[0] == 0
    again_from("run", 260)
    for options in ([], ["offline_steps=780"]):
        assert dipole("train", "resume=run", *options)[0] == 0
    rows = logged("run")
    from mlflow import MlflowClient
    from trackio.sqlite_storage import SQLiteStorage

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("dipole-sb3").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/q_mean")
    assert sorted(metric.step for metric in history) == [int(row["time/total_timesteps"]) for row in rows]
    ids = json.loads(Path("run/trackers.json").read_text())
    kept = SQLiteStorage.get_logs("dipole-sb3", ids["trackio/dipole-sb3"])
    assert [row["step"] for row in kept] == [int(row["time/total_timesteps"]) for row in rows]
    assert [row["train/q_mean"] for row in kept] == pytest.approx([row["train/q_mean"] for row in rows])


def test_a_tracker_that_does_not_start_begins_nothing(dipole: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:mlruns")
    status, out, err = dipole("train", "task=reacher", *UNTESTED, "loggers=mlflow", "run_dir=run")
    assert (status, out) == (1, "")
    assert "dipole: loggers.mlflow: MLflow does not start: The filesystem tracking backend" in err
    assert not Path("run").exists()


def test_a_replacement_that_does_not_start_leaves_its_trackers_to_the_earlier_run(
    dipole: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", *EVALUATED, "loggers=mlflow", "run_dir=run"]
    assert dipole(*arguments)[0] == 0
    known = Path("run/trackers.json").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:mlruns")
    status, _, err = dipole(*arguments, "replace=true")
    assert (status, "MLflow does not start" in err) == (1, True)
    assert Path("run/trackers.json").read_bytes() == known
    assert {"model.zip", "config.yaml", "omega_sweep.csv"} <= {path.name for path in Path("run").iterdir()}


def test_a_tracker_that_fails_later_does_not_end_the_training(
    dipole: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store is gone when the first row comes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/gone.db")
    removes = ["+callbacks.x._target_=tracked_runs.Empties", f"+callbacks.x.file={tmp_path}/gone.db"]
    status, out, _ = dipole("train", *EVALUATED, "loggers=mlflow", *removes, "run_dir=run")
    assert status == 0
    assert out.count("run: mlflow/dipole-sb3 takes no more rows (") == 1
    assert Path("run/omega_sweep.csv").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_stopping_closes_the_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", f"{Path(__file__).parents[1] / 'helpers'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    options = ["task=reacher", "run_dir=run", "checkpoint_freq=5", "log_interval=1", "loggers=[mlflow,wandb]", *ROWS]
    process = training_with_checkpoints(tmp_path, *options)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert (tmp_path / "run/rows.closed").is_file()
    assert not (tmp_path / "run/stopped.json").exists()
    assert _ended(tmp_path) == ("KILLED", "preempted")


def _ended(folder: Path) -> tuple[str, str]:
    """What MLflow and W&B say of the run there."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/runs.db")
    (run,) = client.search_runs([client.get_experiment_by_name("dipole-sb3").experiment_id])
    return run.info.status, offline_runs(folder / "run")[-1].ended


def test_trackers_know_how_a_run_ended(dipole: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    arguments = ["train", *EVALUATED, "loggers=[mlflow,wandb]", "run_dir=run"]
    with pytest.raises(RuntimeError, match="the arm is gone"):
        main([*arguments, "+callbacks.fails._target_=tracked_runs.Fails"])
    assert _ended(tmp_path) == ("FAILED", "failed")
    assert dipole(*arguments, "replace=true")[0] == 0
    assert offline_runs(tmp_path / "run")[-1].ended == "finished"


# Optuna


PRUNED = ["callbacks=optuna", "eval_freq=5", "eval_episodes=1"]


def test_a_study_prunes_bad_trials(dipole: Command) -> None:
    """All reports of the second trial are worse than those of the first."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=-1e6))

    def objective(trial: optuna.Trial) -> float:
        beta = trial.suggest_float("beta", 0.5, 4.0)
        folder = f"study/{trial.number}"
        if trial.number == 1:
            study.pruner = optuna.pruners.ThresholdPruner(lower=1e6)
        with pruned_by(trial):
            assert main(["train", *EVALUATED, *PRUNED, f"algo.beta={beta}", f"run_dir={folder}"]) == 0
        return max(row.return_mean for row in read_sweep_csv(f"{folder}/omega_sweep.csv"))

    study.optimize(objective, n_trials=2)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED"]
    saved = np.load("study/0/evaluations/evaluations.npz")
    expected = dict(zip(saved["timesteps"].tolist(), saved["results"].mean(1).tolist(), strict=True))
    assert study.trials[0].intermediate_values == pytest.approx(expected)
    assert list(expected) == [1, 5, 10, 15, 20]
    timesteps = DIPOLE.load("study/1/model.zip").num_timesteps
    assert timesteps < 20 or study.trials[1].last_step == 20
    assert min(study.trials[1].intermediate_values) == 1


def test_pruning_needs_evaluations(dipole: Command) -> None:
    study = optuna.create_study()
    with pruned_by(study.ask()):
        status, _, err = dipole("train", "task=reacher", *UNTESTED, "callbacks=optuna", "run_dir=run")
    assert status == 1
    assert "callbacks.optuna: eval/mean_reward is never logged with eval_freq=0; expected eval_freq=N" in err


def test_pruning_in_python_beside_sb3s_own_evaluation(dipole: Command) -> None:
    import gymnasium
    from stable_baselines3.common.callbacks import EvalCallback
    from stable_baselines3.common.monitor import Monitor

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1e6))
    trial = study.ask()
    model: Any = DIPOLE("MlpPolicy", dataset="demo/reacher-tqc-10k", policy_kwargs={"net_arch": [8]}, batch_size=16)
    evaluation = EvalCallback(Monitor(gymnasium.make("Reacher-v5")), n_eval_episodes=1, eval_freq=4, verbose=0)
    model.learn(40, callback=[evaluation, PruneTrial(trial)])
    assert model.num_timesteps == 4
    assert study.trials[0].intermediate_values == {4: pytest.approx(evaluation.last_mean_reward)}
