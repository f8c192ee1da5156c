"""Environments in which a run learns and is evaluated."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from dipole_sb3.common import renderers
from dipole_sb3.common.child_processes import hear_only_the_parent, without_interrupts
from dipole_sb3.common.observations import space_parts
from dipole_sb3.datasets import make_env
from dipole_sb3.evaluation.environment_pool import MakeEnv
from dipole_sb3.evaluation.success import SuccessFromInfo
from dipole_sb3.learning.replayable_episodes import ReplayableEpisodes


def task_env(task: Mapping[str, Any]) -> MakeEnv:
    """What makes a task's environment.

    :param task: its ``env``, a name for :func:`dipole_sb3.datasets.make_env`, and perhaps ``frame_stack``, frames in an
        observation, ``success``, the arguments of :class:`~dipole_sb3.evaluation.success.SuccessFromInfo`, and
        ``draws``, whether the environment draws what it observes.
    :raises ValueError: ``success`` is something else.
    :raises DatasetError: it draws, and nothing that MuJoCo draws with is here.
    """
    success = task.get("success")
    if success is not None and (not isinstance(success, Mapping) or set(success) != {"info", "least"}):
        raise ValueError(f"task.success is {success}, expected {{info: KEY, least: NUMBER}}")
    if task.get("draws") or str(task["env"]).startswith("ogbench/visual-"):
        renderers.choose_off_screen(f"environment {task['env']}")
    return functools.partial(_made, task["env"], frame_stack_of(task), success)


def frame_stack_of(task: Mapping[str, Any]) -> int:
    """Frames in an observation of a task: its ``frame_stack``, else 1."""
    return int(task.get("frame_stack") or 1)


def _made(name: str, frame_stack: int, success: Mapping[str, Any] | None) -> gymnasium.Env[Any, Any]:
    env = make_env(name, frame_stack=frame_stack)
    return env if success is None else SuccessFromInfo(env, **success)


def training_env(make: MakeEnv, n_envs: int, normalize: bool) -> VecEnv:
    """One environment in this process, or several, each in one of its own.

    :param make: makes one.
    :param n_envs: number of environments, ≥ 1.
    :param normalize: wrap them in VecNormalize, for their observations but for images, which every network divides by
        255; the algorithm fits it to the recorded data.
    :raises ValueError: there is nothing to normalise.
    """
    if n_envs == 1:
        env: VecEnv = DummyVecEnv([functools.partial(_monitored, make)])
    else:
        # Ctrl-C and a scheduler's warning reach every process of a job; only the training process decides what to do.
        with without_interrupts():
            env = SubprocVecEnv([functools.partial(_in_process, make)] * n_envs)
    if not normalize:
        return env
    space = env.observation_space
    numbers = [key for key, part in space_parts(space).items() if not is_image_space(part)]
    if not numbers:
        env.close()
        raise ValueError(f"normalize is true, and all that is observed are images: {space}")
    # A space that is no Dict has one part, without a key.
    return VecNormalize(env, norm_reward=False, norm_obs_keys=[key for key in numbers if key is not None] or None)


def _monitored(make: MakeEnv) -> gymnasium.Env[Any, Any]:
    env: gymnasium.Env[Any, Any] = Monitor(make())
    # ReplayableEpisodes plays an episode again; an environment that is not repeatable (e.g. a robot) does not allow it.
    repeats = env.spec is None or not env.spec.nondeterministic
    return ReplayableEpisodes(env) if repeats else env


def _in_process(make: MakeEnv) -> gymnasium.Env[Any, Any]:
    hear_only_the_parent()
    return _monitored(make)
