"""Environments that a run steps during training."""

from __future__ import annotations

import functools
import signal
from typing import Any

import gymnasium
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import SubprocVecEnv

from dipole_sb3.datasets import make_env
from dipole_sb3.learning.replayable_episodes import ReplayableEpisodes


def training_env(name: str, n_envs: int) -> GymEnv:
    """One environment, or several, each in a separate process.

    :param name: for :func:`dipole_sb3.datasets.make_env`.
    :param n_envs: number of environments, ≥ 1.
    """
    if n_envs == 1:
        return _monitored(name)
    return SubprocVecEnv([functools.partial(_in_process, name)] * n_envs)


def _monitored(name: str) -> gymnasium.Env[Any, Any]:
    env: gymnasium.Env[Any, Any] = Monitor(make_env(name))
    # ReplayableEpisodes plays an episode again; an environment that is not repeatable (e.g. a robot) does not allow it.
    repeats = env.spec is None or not env.spec.nondeterministic
    return ReplayableEpisodes(env) if repeats else env


def _in_process(name: str) -> gymnasium.Env[Any, Any]:
    # Ctrl-C reaches the whole process group; only the training process decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _monitored(name)
