"""A point that is sent to a goal: episodes of several lengths, ended by time or for good."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Point(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Moves by its action in a square; observations are counters, so that every transition can be told apart.

    :param lengths: of its episodes, in turn; every third ends for good, the others by time.
    :param seed: of where it begins and of its goals.
    """

    def __init__(self, lengths: tuple[int, ...] = (4, 1, 6, 3), seed: int = 0) -> None:
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (3,), np.float32),
                "achieved_goal": spaces.Box(-2, 2, (2,), np.float32),
                "desired_goal": spaces.Box(-2, 2, (2,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self._lengths, self._random = lengths, np.random.default_rng(seed)
        self._episode, self._step = -1, 0

    def _observation(self) -> dict[str, np.ndarray]:
        return {
            "observation": np.array([self._episode, self._step, self._goal[0]], np.float32),
            "achieved_goal": self._place.astype(np.float32),
            "desired_goal": self._goal.astype(np.float32),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        super().reset(seed=seed)
        if seed is not None:  # an episode is the same whenever it is begun by the same seed
            self._random, self._episode = np.random.default_rng(seed), seed % 97
        self._episode, self._step = self._episode + 1, 0
        self._place, self._goal = self._random.uniform(-1, 1, (2, 2))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self._place = np.clip(self._place + 0.3 * np.asarray(action), -1.5, 1.5)
        self._step += 1
        ended = self._step >= self._lengths[self._episode % len(self._lengths)]
        for_good = ended and self._episode % 3 == 2
        observation = self._observation()
        reward = self.compute_reward(observation["achieved_goal"], observation["desired_goal"], {})
        return observation, float(reward), for_good, ended and not for_good, {"wind": float(self._random.normal())}

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        """Minus the distance, so that every pair of goals has a reward of its own."""
        reward = -np.linalg.norm(achieved_goal - desired_goal, axis=-1)
        if len(info) and not isinstance(info, dict):  # recorded transitions have no infos
            reward = reward + np.array([one.get("wind", 0.0) for one in info])
        return reward
