"""Environments of any two spaces: their observations are samples of the observation space."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Sampled(gymnasium.Env[Any, Any]):
    """Observations sampled from the observation space; the reward is higher, the smaller the action.

    :param observation_space: of any kind that SB3 can preprocess.
    :param action_space: likewise.
    :param episode_steps: steps after which an episode ends.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any] = ACTIONS,
        episode_steps: int = 7,
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.episode_steps = episode_steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.steps += 1
        reward = -float(np.square(np.asarray(action, np.float64)).sum())
        return self.observation_space.sample(), reward, self.steps == self.episode_steps, False, {}


def image_space(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def vector_space(size: int = 3, dtype: type[np.floating[Any]] = np.float32) -> spaces.Box:
    return spaces.Box(-2.0, 2.0, (size,), dtype)


def image_env(*shape: int) -> Sampled:
    """Images, channels last and of the smallest size that SB3's NatureCNN takes unless said otherwise."""
    return Sampled(image_space(*(shape or (36, 36, 3))))


def dict_env() -> Sampled:
    """A vector and an image with its channels last."""
    return Sampled(spaces.Dict({"camera": image_space(36, 36, 1), "joints": vector_space()}))
