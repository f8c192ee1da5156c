"""Runs of every kind, small enough to be broken off and taken up again in a test."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from recordings import Arrays
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from dipole_sb3 import DIPOLE, ReplayableEpisodes, ResumableCheckpoint

SMALL: dict[str, Any] = {
    "batch_size": 16,
    "learning_starts": 0,
    "buffer_size": 1000,
    "flow_steps": 2,
    "num_candidates": 2,
    "policy_kwargs": {"net_arch": [16]},
    "device": "cpu",
    "seed": 0,
}
MakeEnv = Callable[[], Any]


def vectorised(env_id: str, n_envs: int, **arguments: Any) -> MakeEnv:
    return lambda: make_vec_env(env_id, n_envs, wrapper_class=ReplayableEpisodes, **arguments)


def normalized() -> VecNormalize:
    return VecNormalize(vectorised("Pendulum-v1", 2)(), gamma=0.9)


def reacher() -> ReplayableEpisodes:
    return ReplayableEpisodes(gymnasium.make("Reacher-v5"))


def noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.5 * np.ones(2))


class DrawsEverywhere(gymnasium.Env[Any, Any]):
    """Draws from its own generator in every step; Dict observations."""

    observation_space = spaces.Dict({key: spaces.Box(-9, 9, (2,), np.float32) for key in ("arm", "goal")})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.normal(size=2), self.np_random.normal(size=2)
        return self.observe(), {}

    def observe(self) -> Any:
        return {"arm": self.at.astype(np.float32), "goal": self.goal.astype(np.float32)}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at = np.clip(self.at + action + 0.1 * self.np_random.normal(size=2), -9, 9)
        return self.observe(), -float(np.abs(self.at - self.goal).sum()), self.np_random.random() < 0.1, False, {}


def normalized_dicts() -> VecNormalize:
    return VecNormalize(make_vec_env(DrawsEverywhere, 2, wrapper_class=ReplayableEpisodes))


class DrawsGlobally(BaseCallback):
    """A user's own, which puts numbers from all global generators into the log."""

    def _on_step(self) -> bool:
        self.logger.record("own/python", random.gauss(0, 1))
        self.logger.record("own/numpy", np.random.normal())
        self.logger.record("own/torch", float(torch.randn(())))
        self.logger.record_mean("own/mean", float(torch.rand(())))
        return True


RUNS: dict[str, tuple[MakeEnv | None, dict[str, Any]]] = {
    "offline": (None, {"dataset": True}),
    "offline_then_online": (reacher, {"dataset": True, "offline_steps": 22, "n_steps": 2, "offline_ratio": 0.3}),
    "without_a_seed": (reacher, {"dataset": True, "offline_steps": 25, "seed": None}),
    "correlated_noise": (reacher, {"action_noise": noise}),
    "several_environments": (vectorised("Pendulum-v1", 3), {"gradient_steps": -1}),
    "random_actions_first": (vectorised("Pendulum-v1", 2), {"learning_starts": 60}),
    "a_ring_that_overflows": (reacher, {"buffer_size": 30}),
    "a_training_after_several_steps": (reacher, {"train_freq": 7, "gradient_steps": 3}),
    "moving_statistics": (normalized, {}),
    "falling_learning_rate": (reacher, {"learning_rate": lambda remaining: 1e-2 * remaining}),
    "normalized_dicts": (normalized_dicts, {"policy": "MultiInputPolicy"}),
}
"""Name → environment and arguments of a run of 120 timesteps."""


def learn(model: Any, folder: Path, *callbacks: BaseCallback, timesteps: int = 120) -> Any:
    """To a number of timesteps, with a log in the folder."""
    model.set_logger(Logger(str(folder), [CSVOutputFormat(str(folder / "progress.csv"))]))
    remaining = timesteps - model.num_timesteps
    return model.learn(
        remaining, callback=[DrawsGlobally(), *callbacks], log_interval=1, reset_num_timesteps=model.num_timesteps == 0
    )


def begin(name: str, data: Arrays) -> Any:
    make_env, arguments = RUNS[name]
    arguments = {**SMALL, **arguments}
    if "dataset" in arguments:
        arguments["dataset"] = data
    if "action_noise" in arguments:
        arguments["action_noise"] = noise()
    policy = arguments.pop("policy", "MlpPolicy")
    return DIPOLE(policy, None if make_env is None else make_env(), **arguments)


def take_up(name: str, path: Path, data: Arrays) -> Any:
    make_env, arguments = RUNS[name]
    env = None if make_env is None else make_env()
    return DIPOLE.resume(path, env=env, dataset=data if "dataset" in arguments else None, device="cpu")


def everything(model: Any) -> dict[str, Any]:
    """What a run has become: parameters, optimiser, counters, what was gathered, what the episodes brought."""
    statistics = model.get_vec_normalize_env()
    online = {} if model.replay_buffer is model.dataset else model.replay_buffer.online_state()
    return {
        "policy": {name: value.numpy().copy() for name, value in model.policy.state_dict().items()},
        "optimizer": {
            f"{index}/{name}": np.asarray(value)
            for index, row in model.policy.optimizer.state_dict()["state"].items()
            for name, value in row.items()
        },
        "counters": np.array([model.num_timesteps, model._n_updates, model._episode_num]),
        "online": {name: array.copy() for name, array in online.items()},
        "episodes": np.array([(episode["r"], episode["l"]) for episode in model.ep_info_buffer]),
        "statistics": {} if statistics is None else moments(statistics),
    }


def moments(statistics: VecNormalize) -> dict[str, Any]:
    running = statistics.obs_rms if isinstance(statistics.obs_rms, dict) else {"": statistics.obs_rms}
    means = {f"mean {key}": one.mean for key, one in running.items()}
    return {**means, "returns": statistics.returns, "variance": statistics.ret_rms.var}


def rows(folder: Path, after: int = -1) -> list[dict[str, str]]:
    """The log without its times."""
    with open(folder / "progress.csv", newline="") as file:
        table = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return [
        {name: cell for name, cell in row.items() if name == "time/total_timesteps" or not name.startswith("time/")}
        for row in table
        if int(row["time/total_timesteps"]) > after
    ]


class KeptCheckpoints(ResumableCheckpoint):
    """Keeps a copy of every checkpoint."""

    def save(self) -> Path:
        path = super().save()
        (self.save_path / "all").mkdir(exist_ok=True)
        shutil.copy(path, self.save_path / "all" / f"{self.model.num_timesteps}.zip")
        return path
