"""Recording what an environment does under random actions, as mappings of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

Arrays = Mapping[str, Any]


def stack(values: list[Any]) -> Any:
    """[T, ...] from T observations, or a dict of those."""
    if isinstance(values[0], dict):
        return {key: np.stack([value[key] for value in values]) for key in values[0]}
    return np.stack(values)


def record(env: gymnasium.Env[Any, Any], transitions: int, seed: int = 0) -> Arrays:
    """Transitions under uniformly random actions, in the words of :meth:`OfflineReplayBuffer.from_arrays`.

    ``terminals`` is 1 where an episode ended, ``masks`` is 0 only where the environment itself ended it.
    """
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    rows: list[tuple[Any, ...]] = []
    for _ in range(transitions):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, reward, following, terminated or truncated, not terminated))
        observation = following if not (terminated or truncated) else env.reset()[0]
    env.close()
    observations, actions, rewards, next_observations, terminals, masks = zip(*rows, strict=True)
    return {
        "observations": stack(list(observations)),
        "actions": np.stack(actions),
        "rewards": np.asarray(rewards, np.float32),
        "next_observations": stack(list(next_observations)),
        "terminals": np.asarray(terminals, np.float32),
        "masks": np.asarray(masks, np.float32),
    }
