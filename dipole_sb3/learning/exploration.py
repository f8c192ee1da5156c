"""Exploration by noise on the actions, for policies that do not draw their actions themselves."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from stable_baselines3.common.noise import ActionNoise

from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


class NoisyExploration(OfflineAlgorithm):
    """Online, normal noise is added to the policy's actions in [−1, 1].

    :ivar explore_std: the noise's standard deviation, ≥ 0; the constructors of sub-classes set it.
    """

    own_stackable: ClassVar[tuple[str, ...]] = ("explore_std",)
    explore_std: float

    @property
    def largest_noise(self) -> float:
        """The noise's largest absolute value; what is beyond is cut off."""
        return math.inf

    def _setup_policy(self) -> None:
        if not (math.isfinite(self.explore_std) and self.explore_std >= 0):
            raise ValueError(f"explore_std is {self.explore_std}, expected a finite number of at least 0")
        super()._setup_policy()

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """SB3's exploration, with normal noise of ``explore_std`` if no other noise is given."""
        buffered, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        if action_noise is not None or self.num_timesteps < learning_starts:
            return buffered, scaled
        noise = self.explore_std * np.random.normal(size=scaled.shape)
        noise = np.clip(noise, -self.largest_noise, self.largest_noise)
        scaled = np.clip(scaled + noise, -1.0, 1.0).astype(np.float32)
        return self.policy.in_units(scaled), scaled
