"""Environments that a run steps while it learns."""

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
    """One environment, or several, each in a process of its own.

    :param name: for :func:`dipole_sb3.datasets.make_env`.
    :param n_envs: ≥ 1.
    """
    if n_envs == 1:
        return _monitored(name)
    return SubprocVecEnv([functools.partial(_in_process, name)] * n_envs)


def _monitored(name: str) -> gymnasium.Env[Any, Any]:
    env: gymnasium.Env[Any, Any] = Monitor(make_env(name))
    # What does not repeat itself, a robot say, must not have an episode played to it again.
    repeats = env.spec is None or not env.spec.nondeterministic
    return ReplayableEpisodes(env) if repeats else env


def _in_process(name: str) -> gymnasium.Env[Any, Any]:
    # Ctrl-C reaches the whole group of processes; only the one that learns decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _monitored(name)
