"""SB3's test_callbacks: its callbacks as they are, where a timestep is an update and where it is a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from algorithms import parameters_of, same_parameters, small
from recordings import Arrays
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from dipole_sb3.learning.callbacks import TimestepProgressBar

# SB3 shows its bar with tqdm's rich variant.
pytestmark = pytest.mark.filterwarnings("ignore:rich is experimental")


class Witness(BaseCallback):
    """Writes down what SB3 promises to a callback."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def _on_training_start(self) -> None:
        self.events.append("training start")
        assert self.locals["total_timesteps"] > self.num_timesteps
        assert self.locals["self"] is self.model

    def _on_rollout_start(self) -> None:
        self.events.append("rollout start")

    def _on_rollout_end(self) -> None:
        self.events.append("rollout end")

    def _on_training_end(self) -> None:
        self.events.append("training end")

    def _on_step(self) -> bool:
        self.steps.append((self.n_calls, self.num_timesteps))
        assert self.num_timesteps == self.model.num_timesteps
        assert self.training_env.num_envs == self.model.n_envs == len(self.locals["dones"]) == len(self.locals["infos"])
        assert self.training_env.observation_space.shape == self.model.observation_space.shape
        return self.stop_at is None or self.num_timesteps < self.stop_at


def reacher() -> gymnasium.Env[Any, Any]:
    return Monitor(gymnasium.make("Reacher-v5"))


# When they run


@pytest.mark.parametrize("with_environment", [False, True], ids=["alone", "beside_an_environment"])
def test_on_step_runs_after_every_update(algorithm: Any, reacher_data: Arrays, with_environment: bool) -> None:
    witness = Witness()
    model = small(algorithm, env=reacher() if with_environment else None, dataset=reacher_data)
    model.learn(4, callback=witness)
    assert witness.steps == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert witness.events == ["training start", "training end"]
    model.learn(2, callback=witness, reset_num_timesteps=False)
    assert witness.steps[4:] == [(5, 5), (6, 6)]


def test_rollouts_are_announced_online_only(algorithm: Any, pendulum_data: Arrays) -> None:
    witness = Witness()
    small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=2).learn(4, callback=witness)
    assert witness.events == ["training start", *["rollout start", "rollout end"] * 2, "training end"]
    assert witness.steps == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_steps_of_several_environments_count_together(algorithm: Any, pendulum_data: Arrays) -> None:
    witness = Witness()
    env = make_vec_env("Pendulum-v1", 2)
    small(algorithm, env=env, dataset=pendulum_data, offline_steps=2).learn(6, callback=witness)
    assert witness.steps == [(1, 1), (2, 2), (3, 4), (4, 6)]


@pytest.mark.parametrize("stop_at", [3, 6], ids=["offline", "online"])
def test_false_stops(algorithm: Any, pendulum_data: Arrays, stop_at: int) -> None:
    witness = Witness(stop_at)
    model = small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=4).learn(20, callback=witness)
    assert model.num_timesteps == stop_at
    assert witness.events[-1] == "training end"
    assert model.learn(20 - stop_at, reset_num_timesteps=False).num_timesteps == 20


def test_functions(model: Any) -> None:
    calls = []

    def watch(local_variables: dict[str, Any], global_variables: dict[str, Any]) -> bool:
        calls.append((local_variables["self"], local_variables["total_timesteps"]))
        return len(calls) < 3

    model.learn(5, callback=watch)
    assert calls == [(model, 5)] * 3


def test_lists(model: Any) -> None:
    first, second = Witness(), Witness()
    model.learn(2, callback=[first, second])
    model.learn(2, callback=CallbackList([first, second]))
    assert first.steps == second.steps == [(1, 1), (2, 2), (3, 1), (4, 2)]


def test_a_failing_callback_leaves_the_model_usable(model: Any) -> None:
    def fail(local_variables: dict[str, Any], global_variables: dict[str, Any]) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(5, callback=fail)
    assert model.env is None
    assert model.num_timesteps == 1
    assert model.learn(2, reset_num_timesteps=False).num_timesteps == 3


def test_every_n_timesteps(model: Any) -> None:
    witness = Witness()
    model.learn(7, callback=EveryNTimesteps(3, witness))
    assert [timestep for _, timestep in witness.steps] == [3, 6]


def test_log_every_n_timesteps(model: Any, tmp_path: Path) -> None:
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(7, callback=LogEveryNTimesteps(3), log_interval=None)
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 1 + 2


# Evaluation, checkpoints, stopping


def test_checkpoints(algorithm: Any, model: Any, tmp_path: Path) -> None:
    callback = CheckpointCallback(2, str(tmp_path), name_prefix="run", save_replay_buffer=True)
    model.learn(6, callback=callback)
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == [f"run_{n}_steps.zip" for n in (2, 4, 6)]
    assert len(list(tmp_path.glob("run_replay_buffer_*.pkl"))) == 3
    assert algorithm.load(tmp_path / "run_4_steps").num_timesteps == 4
    assert same_parameters(parameters_of(algorithm.load(tmp_path / "run_6_steps")), parameters_of(model))


@pytest.mark.parametrize("with_environment", [False, True], ids=["alone", "beside_an_environment"])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_evaluation(algorithm: Any, reacher_data: Arrays, tmp_path: Path, with_environment: bool, n_envs: int) -> None:
    model = small(algorithm, env=reacher() if with_environment else None, dataset=reacher_data)
    env = make_vec_env("Reacher-v5", n_envs)
    folder = str(tmp_path)
    callback = EvalCallback(
        env, eval_freq=3, n_eval_episodes=2, log_path=folder, best_model_save_path=folder, verbose=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nothing here deserves one
        model.learn(6, callback=callback)
    file = np.load(tmp_path / "evaluations.npz")
    assert list(file["timesteps"]) == [3, 6]
    assert file["results"].shape == (2, 2)
    assert (file["ep_lengths"] == 50).all()
    assert algorithm.load(tmp_path / "best_model").num_timesteps in (3, 6)


def test_stop_on_reward_threshold(model: Any) -> None:
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e6)
    model.learn(9, callback=EvalCallback(reacher(), callback_on_new_best=stop, eval_freq=2, n_eval_episodes=1))
    assert model.num_timesteps == 2


def test_stop_on_no_improvement(model: Any) -> None:
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=2)
    callback = EvalCallback(reacher(), callback_after_eval=stop, eval_freq=1, n_eval_episodes=1)
    callback.best_mean_reward = np.inf
    model.learn(30, callback=callback)
    # SB3 looks at the third evaluation for the first time, counts one without improvement, then a second.
    assert model.num_timesteps == 4


def test_stop_on_max_episodes_waits_for_episodes(algorithm: Any, model: Any, pendulum_data: Arrays) -> None:
    model.learn(5, callback=StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 5
    online = small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=2, train_freq=50)
    online.learn(500, callback=StopTrainingOnMaxEpisodes(1))
    assert online.num_timesteps == 2 + 200


# Progress bar

Bars = list[tuple[float, float]]


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    """(shown, total) of every bar when it closes; the bar itself is the real one."""
    closed: Bars = []
    original = TimestepProgressBar._on_training_end

    def note(bar: TimestepProgressBar) -> None:
        closed.append((bar.pbar.n, bar.pbar.total))
        original(bar)

    monkeypatch.setattr(TimestepProgressBar, "_on_training_end", note)
    return closed


def test_progress_bar_reaches_the_end_offline(model: Any, bars: Bars) -> None:
    model.learn(5, progress_bar=True)
    model.learn(3, progress_bar=True, reset_num_timesteps=False)
    model.learn(2, progress_bar=True)
    assert bars == [(5, 5), (3, 3), (2, 2)]


@pytest.mark.parametrize("n_envs", [1, 2, 3])
def test_progress_bar_reaches_exactly_the_end_online(
    algorithm: Any, pendulum_data: Arrays, bars: Bars, n_envs: int
) -> None:
    """Also where the last step of all environments goes beyond what was asked for."""
    env = make_vec_env("Pendulum-v1", n_envs)
    model = small(algorithm, env=env, dataset=pendulum_data, offline_steps=4)
    model.learn(9, progress_bar=True)
    model.learn(4, progress_bar=True, reset_num_timesteps=False)
    assert bars == [(9, 9), (4, 4)]


def test_progress_bar_reaches_the_end_without_data(algorithm: Any, bars: Bars) -> None:
    env = make_vec_env(IdentityEnvBox, 2)
    small(algorithm, env=env, learning_starts=0, train_freq=2).learn(11, progress_bar=True)
    assert bars == [(11, 11)]


@pytest.mark.parametrize(
    "callback",
    [lambda: None, lambda: Witness(), lambda: [Witness(), Witness()], lambda: lambda *_: True],
    ids=["alone", "one", "list", "function"],
)
def test_progress_bar_beside_callbacks(model: Any, bars: Bars, callback: Callable[[], Any]) -> None:
    given = callback()
    model.learn(3, callback=given, progress_bar=True)
    assert bars == [(3, 3)]
    for witness in given if isinstance(given, list) else [given]:
        if isinstance(witness, Witness):
            assert witness.steps == [(1, 1), (2, 2), (3, 3)]
            assert witness.events == ["training start", "training end"]


def test_progress_bar_closes_where_a_callback_stops(model: Any, bars: Bars) -> None:
    model.learn(9, callback=Witness(stop_at=4), progress_bar=True)
    assert bars == [(4, 9)]


def test_progress_bar_of_sb3_works_without_an_environment(model: Any) -> None:
    bar = ProgressBarCallback()
    model.learn(4, callback=bar)
    assert (bar.pbar.n, bar.pbar.total) == (4, 4)
