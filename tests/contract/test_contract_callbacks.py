"""SB3's callbacks, progress bar and loggers, where a timestep is an update."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from algorithms import small
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dipole_sb3 import OfflineReplayBuffer
from dipole_sb3.callbacks import TimestepProgressBar


class Witness(BaseCallback):
    """Writes down what SB3 promises to a callback."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def _on_training_start(self) -> None:
        self.events.append("training start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout start")

    def _on_rollout_end(self) -> None:
        self.events.append("rollout end")

    def _on_training_end(self) -> None:
        self.events.append("training end")

    def _on_step(self) -> bool:
        self.steps.append((self.n_calls, self.num_timesteps))
        assert self.training_env.num_envs == self.model.n_envs
        assert not np.any(self.locals["dones"])
        assert self.locals["infos"] is not None
        return self.stop_at is None or self.num_timesteps < self.stop_at


@pytest.fixture
def model(algorithm: Any, reacher_data: dict[str, Any]) -> Any:
    return small(algorithm, dataset=reacher_data)


def evaluation() -> gymnasium.Env[Any, Any]:
    return Monitor(gymnasium.make("Reacher-v5"))


def test_on_step_runs_after_every_update(model: Any) -> None:
    witness = Witness()
    model.learn(4, callback=witness)
    assert witness.steps == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert witness.events == ["training start", "training end"]


def test_rollouts_are_announced_online_only(algorithm: Any, pendulum_data: dict[str, Any]) -> None:
    witness = Witness()
    small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=2).learn(4, callback=witness)
    assert witness.events == ["training start", *["rollout start", "rollout end"] * 2, "training end"]
    assert [timestep for _, timestep in witness.steps] == [1, 2, 3, 4]


def test_false_stops(model: Any) -> None:
    witness = Witness(stop_at=3)
    model.learn(10, callback=witness)
    assert model.num_timesteps == 3
    assert witness.events[-1] == "training end"


def test_functions_and_lists(model: Any) -> None:
    calls = []
    model.learn(3, callback=lambda local, _: calls.append(local["self"]) or True)
    assert calls == [model] * 3
    first, second = Witness(), Witness()
    model.learn(2, callback=[first, second])
    model.learn(2, callback=CallbackList([first, second]))
    assert len(first.steps) == len(second.steps) == 4


def test_checkpoints(algorithm: Any, model: Any, tmp_path: Path) -> None:
    model.learn(6, callback=CheckpointCallback(2, str(tmp_path), name_prefix="run"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"run_{n}_steps.zip" for n in (2, 4, 6)]
    assert algorithm.load(tmp_path / "run_4_steps").num_timesteps == 4


@pytest.mark.parametrize("with_environment", [False, True])
def test_evaluation(algorithm: Any, reacher_data: dict[str, Any], tmp_path: Path, with_environment: bool) -> None:
    model = small(algorithm, env="Reacher-v5" if with_environment else None, dataset=reacher_data)
    callback = EvalCallback(
        evaluation(),
        eval_freq=3,
        n_eval_episodes=1,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
        warn=False,
    )
    model.learn(6, callback=callback)
    assert list(np.load(tmp_path / "evaluations.npz")["timesteps"]) == [3, 6]
    assert (tmp_path / "best_model.zip").is_file()


def test_stop_on_reward_threshold(model: Any) -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e6)
    model.learn(9, callback=EvalCallback(evaluation(), callback_on_new_best=stop, eval_freq=2, n_eval_episodes=1))
    assert model.num_timesteps == 2


def test_stop_on_no_improvement(model: Any) -> None:
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=1)
    callback = EvalCallback(evaluation(), callback_after_eval=stop, eval_freq=1, n_eval_episodes=1)
    callback.best_mean_reward = np.inf
    model.learn(30, callback=callback)
    assert model.num_timesteps < 30


def test_stop_on_max_episodes_waits_for_episodes(algorithm: Any, model: Any, pendulum_data: dict[str, Any]) -> None:
    model.learn(5, callback=StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 5
    online = small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=2, train_freq=50)
    online.learn(500, callback=StopTrainingOnMaxEpisodes(1))
    assert online.num_timesteps == 202


def test_every_n_timesteps(model: Any) -> None:
    witness = Witness()
    model.learn(7, callback=EveryNTimesteps(3, witness))
    assert [timestep for _, timestep in witness.steps] == [3, 6]


class TestProgressBar:
    @pytest.fixture
    def bars(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
        """(shown, total) of every bar when it closes; the bar itself is the real one."""
        closed = []
        original = TimestepProgressBar._on_training_end

        def note(bar: TimestepProgressBar) -> None:
            closed.append((bar.pbar.n, bar.pbar.total))
            original(bar)

        monkeypatch.setattr(TimestepProgressBar, "_on_training_end", note)
        return closed

    def test_reaches_the_end_offline(self, model: Any, bars: list[tuple[float, float]]) -> None:
        model.learn(5, progress_bar=True)
        model.learn(3, progress_bar=True, reset_num_timesteps=False)
        assert bars == [(5, 5), (3, 3)]

    def test_reaches_the_end_with_several_environments(
        self, algorithm: Any, pendulum_data: dict[str, Any], bars: list[tuple[float, float]]
    ) -> None:
        env = make_vec_env("Pendulum-v1", 2)
        small(algorithm, env=env, dataset=pendulum_data, offline_steps=4).learn(10, progress_bar=True)
        assert bars == [(10, 10)]

    def test_of_sb3_works_without_environment(self, model: Any) -> None:
        bar = ProgressBarCallback()
        model.learn(4, callback=bar)
        assert bar.pbar.n == 4


class TestLogs:
    SB3_KEYS = ("train/learning_rate", "train/actor_loss", "train/critic_loss", "time/fps")
    KEYS = (
        *SB3_KEYS,
        "train/positive_loss",
        "train/negative_loss",
        "train/value_loss",
        "train/weight_mean",
        "train/weight_std",
        "train/weight_saturation",
        "train/advantage_q10",
        "train/advantage_q50",
        "train/advantage_q90",
        "train/q_mean",
        "train/value_mean",
        "time/updates_per_second",
    )

    def split(self, data: dict[str, Any]) -> OfflineReplayBuffer:
        buffer = OfflineReplayBuffer.from_arrays({key: value[:250] for key, value in data.items()})
        buffer.validation = OfflineReplayBuffer.from_arrays({key: value[250:] for key, value in data.items()})
        return buffer

    def test_tensorboard(self, algorithm: Any, reacher_data: dict[str, Any], tmp_path: Path) -> None:
        model = small(algorithm, dataset=self.split(reacher_data), tensorboard_log=str(tmp_path))
        model.learn(600, log_interval=1, tb_log_name="run")
        events = EventAccumulator(str(tmp_path / "run_1"))
        events.Reload()
        found = events.Tags()["scalars"]
        losses = ("positive_loss", "negative_loss", "critic_loss", "value_loss")
        for key in (*self.KEYS, *(f"validation/{loss}" for loss in losses)):
            assert key in found, key
            points = events.Scalars(key)
            assert [point.step for point in points] == [250, 500, 600]
            assert all(np.isfinite(point.value) for point in points)
        first, *_, last = events.Scalars("validation/positive_loss")
        assert last.value < first.value

    def test_csv(self, model: Any, tmp_path: Path) -> None:
        model.set_logger(configure(str(tmp_path), ["csv"]))
        model.learn(500, log_interval=1)
        with open(tmp_path / "progress.csv") as file:
            rows = list(csv.DictReader(file))
        assert [row["time/total_timesteps"] for row in rows] == ["250", "500"]
        assert [row["train/n_updates"] for row in rows] == ["250", "500"]
        assert set(self.KEYS) <= set(rows[0])
        assert 0 < float(rows[0]["train/weight_mean"]) < 1

    def test_without_validation_split_nothing_is_made_up(self, model: Any, tmp_path: Path) -> None:
        model.set_logger(configure(str(tmp_path), ["csv"]))
        model.learn(5)
        assert "validation" not in (tmp_path / "progress.csv").read_text()

    def test_losses_are_means_since_the_last_row(self, algorithm: Any, reacher_data: dict[str, Any]) -> None:
        model = small(algorithm, dataset=reacher_data)
        model.learn(3, log_interval=0)
        total = model._monitor._losses.clone()
        model._record_training()
        recorded = model.logger.name_to_value["train/critic_loss"]
        assert recorded == pytest.approx(float(total[2]) / 3, rel=1e-5)
        assert not model._monitor._losses.any()

    def test_rollout_statistics_online(self, algorithm: Any, tmp_path: Path) -> None:
        model = small(algorithm, env="Pendulum-v1", train_freq=100, learning_starts=0)
        model.set_logger(configure(str(tmp_path), ["csv"]))
        model.learn(400, log_interval=1)
        with open(tmp_path / "progress.csv") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["rollout/ep_len_mean"]) for row in rows] == [200, 200]
