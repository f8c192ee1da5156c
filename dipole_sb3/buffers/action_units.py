"""Actions in the environment's units and as replay buffers hold them, scaled to [−1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.common import checks

ACTION_MARGIN = 1e-5
"""Recorded actions are clipped to ±(1 − this), as in the authors' agent."""


def scaled_actions(actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Actions in the environment's units as replay buffers hold them: in [−1, 1], float32, [n, *action]."""
    scaled: np.ndarray = actions.astype(np.float32)
    if not (np.all(space.low == -1) and np.all(space.high == 1)):
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        scaled = 2.0 * (scaled - low) / (high - low) - 1.0
    np.clip(scaled, -1 + ACTION_MARGIN, 1 - ACTION_MARGIN, out=scaled)
    return scaled.astype(np.float32, copy=False)


def in_environment_units(actions: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    """Actions of a buffer, scaled to [−1, 1], in the units of its action space [n, *action].

    Scaled again they are the same to the bit where any float32 number of those units is scaled to them, as it is for
    all that were recorded in those units; else to rounding.
    """
    space = checks.require_box_actions(space)
    actions = actions.reshape(-1, *space.shape)
    if np.all(space.low == -1) and np.all(space.high == 1):
        return actions
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    units = (low + (actions.astype(np.float64) + 1) * 0.5 * (high - low)).astype(np.float32)
    rows = np.flatnonzero((scaled_actions(units, space) != actions).reshape(len(actions), -1).any(axis=1))
    if len(rows):
        units[rows] = _searched(actions[rows], space, units[rows])
    return units


def _searched(actions: np.ndarray, space: spaces.Box, otherwise: np.ndarray) -> np.ndarray:
    """The least float32 numbers that are scaled to these, by bisection over all of them between the bounds."""
    bottom, top = (np.broadcast_to(_places(bound), actions.shape).copy() for bound in (space.low, space.high))
    for _ in range(33):  # places between two float32 numbers have 33 bits
        middle = (bottom + top) // 2
        reached = scaled_actions(_at_places(middle), space) >= actions
        top, bottom = np.where(reached, middle, top), np.where(reached, bottom, np.minimum(middle + 1, top))
    found = _at_places(top)
    return np.where(
        scaled_actions(otherwise, space) == actions,
        otherwise,
        np.where(scaled_actions(found, space) == actions, found, otherwise),
    )


def _places(values: np.ndarray) -> np.ndarray:
    """The places of float32 numbers among all of them in ascending order, int64; that of 0 is 0."""
    bits = values.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _at_places(places: np.ndarray) -> np.ndarray:
    return np.where(places < 0, -places | 0x80000000, places).astype(np.uint32).view(np.float32)
