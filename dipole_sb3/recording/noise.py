"""The noise on recorded actions."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np


def action_deviation(space: gymnasium.spaces.Box, noise: float | Sequence[float]) -> np.ndarray:
    """Standard deviation of the noise on every action, in the shape of the action space.

    :raises ValueError: not one number or one per action, or a number < 0.
    """
    try:
        deviation = np.broadcast_to(np.asarray(noise, np.float64), space.shape)
    except ValueError as error:
        raise ValueError(f"noise is {noise}; expected one number, or one for each action of {space.shape}") from error
    if not (np.isfinite(deviation).all() and (deviation >= 0).all()):
        raise ValueError(f"noise is {noise}; expected standard deviations ≥ 0, in the units of the actions")
    return deviation
