"""Exploration by noise on the actions, for policies that do not draw their actions themselves."""

from __future__ import annotations

import math

import numpy as np


def require_exploration(explore_std: float) -> None:
    """Refuses a standard deviation out of range.

    :raises ValueError: it is below 0 or not finite.
    """
    if not (math.isfinite(explore_std) and explore_std >= 0):
        raise ValueError(f"explore_std is {explore_std}, expected a finite number of at least 0")


def with_normal_noise(actions: np.ndarray, explore_std: float, limit: float = math.inf) -> np.ndarray:
    """Actions in [−1, 1] with normal noise from NumPy's global generator, clipped to [−1, 1].

    :param actions: shape [envs, action].
    :param explore_std: the noise's standard deviation.
    :param limit: the noise's largest absolute value.
    :return: the same shape, float32.
    """
    noise = np.clip(explore_std * np.random.normal(size=actions.shape), -limit, limit)
    return np.clip(actions + noise, -1.0, 1.0).astype(np.float32)
