"""Goals that are part of Dict observations, and the rewards for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.goal_selection_strategy import KEY_TO_GOAL_STRATEGY, GoalSelectionStrategy

from dipole_sb3.common import checks

DESIRED = "desired_goal"
ACHIEVED = "achieved_goal"

ComputeReward = Callable[[np.ndarray, np.ndarray, list[dict[str, Any]]], Any]
"""(achieved goals [n, *goal], desired goals [n, *goal], infos of length n) → rewards [n]."""


def rewards(
    compute_reward: ComputeReward | None,
    env: VecEnv | None,
    achieved: np.ndarray,
    desired: np.ndarray,
    infos: list[dict[str, Any]],
) -> np.ndarray:
    """float32 [n], by the function, else by the first environment's ``compute_reward``.

    :raises ValueError: there is neither, or they give something else.
    """
    found: Any
    if compute_reward is not None:
        found = compute_reward(achieved, desired, infos)
    elif env is not None:
        try:
            (found,) = env.env_method("compute_reward", achieved, desired, infos, indices=[0])
        except AttributeError as error:
            if env.has_attr("compute_reward"):
                raise
            raise ValueError(
                f"the environment has no compute_reward(achieved_goal, desired_goal, info) ({error}); new goals "
                "need one"
            ) from error
    else:
        raise ValueError(
            "HindsightReplayBuffer has no environment to reward new goals by: call set_env, or hand in "
            "compute_reward (replay_buffer_kwargs={'compute_reward': …})"
        )
    given = np.asarray(found, np.float32)
    if given.size != len(achieved):
        raise ValueError(
            f"compute_reward gave rewards of shape {given.shape} for {len(achieved)} pairs of goals, expected "
            f"({len(achieved)},)"
        )
    return given.reshape(-1)


def require_goals(space: spaces.Space[Any]) -> None:
    """Refuses observations without an achieved and a desired goal of one shape."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    missing = [key for key in (ACHIEVED, DESIRED) if key not in parts]
    if missing:
        raise ValueError(
            f"HindsightReplayBuffer needs goals among the observations: found {checks.on_one_line(space)}, expected a "
            f"Dict with {ACHIEVED} and {DESIRED}"
        )
    achieved, desired = parts[ACHIEVED].shape, parts[DESIRED].shape
    if achieved != desired:
        raise ValueError(f"{ACHIEVED} has shape {achieved}, expected {desired}, the shape of {DESIRED}")


def require_count(n_sampled_goal: int) -> int:
    """Refuses what is not a whole number of at least 0."""
    if isinstance(n_sampled_goal, bool) or not isinstance(n_sampled_goal, int) or n_sampled_goal < 0:
        raise ValueError(f"n_sampled_goal is {n_sampled_goal!r}, expected a whole number of at least 0")
    return n_sampled_goal


def strategy(name: GoalSelectionStrategy | str) -> GoalSelectionStrategy:
    """SB3's strategy of this name.

    :raises ValueError: there is none.
    """
    if isinstance(name, GoalSelectionStrategy):
        return name
    if name.lower() not in KEY_TO_GOAL_STRATEGY:
        raise ValueError(f"goal_selection_strategy is {name!r}, expected one of {', '.join(KEY_TO_GOAL_STRATEGY)}")
    return KEY_TO_GOAL_STRATEGY[name.lower()]
