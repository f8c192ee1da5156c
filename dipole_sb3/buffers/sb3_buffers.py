"""What Stable-Baselines3's own replay buffers hold, oldest first, checked and in the form of our buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.action_units import ACTION_MARGIN
from dipole_sb3.buffers.recorded_arrays import RecordedArrays
from dipole_sb3.common import checks
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError


def transitions(source: str, buffer: ReplayBuffer) -> RecordedArrays:
    """See :meth:`OfflineReplayBuffer.from_replay_buffer`.

    :param source: name of the data in error messages.
    :param buffer: of Stable-Baselines3.
    :raises DatasetError: it is empty, has no Box actions, or holds NaN or actions outside [−1, 1].
    """
    order = _oldest_first(buffer)
    if buffer.dones[order].size == 0:
        raise DatasetError(f"{source}: holds no transitions; expected at least one")
    try:
        checks.require_box_actions(buffer.action_space)
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from error

    dones, timeouts = (_ends(source, key, getattr(buffer, key)[order]) for key in ("dones", "timeouts"))
    timeouts = dones * timeouts
    observations = _observations(source, "observations", buffer, order)
    if buffer.optimize_memory_usage:
        following: ObservationArrays = _shared_next_observations(source, buffer, order, observations, dones)
    else:
        following = _observations(source, "next_observations", buffer, order)
    actions = _actions(source, buffer.actions[order])
    checks.require_finite(source, "rewards", buffer.rewards[order].reshape(-1))
    rewards = image_layout.adopted(buffer.rewards[order], np.dtype(np.float32))
    # Nothing follows the newest row, although its episodes may have gone on.
    timeouts[-1] = np.where(dones[-1], timeouts[-1], 1.0)
    dones[-1] = 1.0
    return RecordedArrays(observations, actions, rewards, following, dones, timeouts)


def _oldest_first(buffer: ReplayBuffer) -> slice | np.ndarray:
    """Rows in the order of time: a slice, which copies nothing, unless the ring has gone round."""
    if not buffer.full:
        return slice(0, buffer.pos)
    # With one array for both observations, the newest row's next observation stands in the oldest row's place.
    lost = 1 if buffer.optimize_memory_usage else 0
    if buffer.pos == 0:
        return slice(lost, buffer.buffer_size)
    return (buffer.pos + np.arange(lost, buffer.buffer_size)) % buffer.buffer_size


def _observations(source: str, key: str, buffer: ReplayBuffer, order: slice | np.ndarray) -> ObservationArrays:
    value, space = getattr(buffer, key), buffer.observation_space
    if isinstance(space, spaces.Dict):
        return {
            name: _observation(source, f"{key}[{name!r}]", value[name][order], part)
            for name, part in space.spaces.items()
        }
    return _observation(source, key, value[order], space)


def _observation(source: str, key: str, array: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    assert space.shape is not None
    flat = array.reshape(-1, *space.shape)
    checks.require_finite(source, key, flat)
    dtype = checks.stores_as(space)
    if dtype != np.uint8:
        checks.require_within(source, key, flat, space)
    return image_layout.adopted(array, dtype)


def _shared_next_observations(
    source: str, buffer: ReplayBuffer, order: slice | np.ndarray, observations: ObservationArrays, dones: np.ndarray
) -> np.ndarray:
    """Of a buffer with ``optimize_memory_usage``: the following row's observations.

    After an episode's end the following row begins another episode, and the true next observation is lost. It has no
    influence, as every end of such a buffer stops bootstrapping; a repetition of the last observation takes its place.
    """
    assert isinstance(observations, np.ndarray)
    rows = np.arange(buffer.buffer_size)[order]
    following = buffer.observations[(rows + 1) % buffer.buffer_size]
    following = _observation(source, "observations", following, buffer.observation_space)
    ended = dones == 1
    following[ended] = observations[ended]
    return following


def _actions(source: str, actions: np.ndarray) -> np.ndarray:
    checks.require_finite(source, "actions", actions.reshape(len(actions), -1))
    largest = float(np.abs(actions).max())
    if largest > 1 + checks.BOUND_TOLERANCE:
        raise DatasetError(
            f"{source}: actions reach {largest:.6g}, expected values in [-1, 1], to which Stable-Baselines3 scales the "
            "actions that it stores; actions in the environment's units are taken by OfflineReplayBuffer.from_arrays"
        )
    if largest > 1 - ACTION_MARGIN:
        actions = np.clip(actions, -1 + ACTION_MARGIN, 1 - ACTION_MARGIN)
    return image_layout.adopted(actions, np.dtype(np.float32))


def _ends(source: str, key: str, column: np.ndarray) -> np.ndarray:
    checks.require_zero_or_one(source, key, column.reshape(-1))
    return np.array(column, np.float32)
