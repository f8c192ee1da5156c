"""Replay buffers of Stable-Baselines3's own algorithms, in memory or as the pickle that SB3 saves, as recorded data."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl
from stable_baselines3.common.utils import get_device

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.buffers.recorded_arrays import ACTION_MARGIN
from dipole_sb3.common import checks
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError

SelfBuffer = TypeVar("SelfBuffer", bound=OfflineReplayBuffer)


def load(
    path: str | os.PathLike[str], *, device: torch.device | str = "auto", trust_pickle: bool = False
) -> OfflineReplayBuffer:
    """The replay buffer in a file of SB3's ``save_replay_buffer``.

    :param path: the .pkl file.
    :param device: where batches will be drawn.
    :param trust_pickle: a pickle executes whatever code it holds when it is loaded: say True for files that you, or
        somebody you trust, have written, and for no others.
    :raises DatasetError: not said to be trusted, no such file, truncated, or something else than a replay buffer.
    """
    path = Path(path)
    if not trust_pickle:
        raise DatasetError(
            f"{path}: a pickle can execute any code when it is loaded; if it comes from you or from somebody you "
            f"trust, load_dataset({str(path)!r}, trust_pickle=True) reads the replay buffer in it"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected a .pkl file written by save_replay_buffer()")
    try:
        loaded = load_from_pkl(path)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError) as error:
        raise DatasetError(
            f"{path}: truncated or not a saved replay buffer ({error}); expected a file written by save_replay_buffer()"
        ) from error
    if not isinstance(loaded, ReplayBuffer):
        raise DatasetError(f"{path}: holds a {type(loaded).__name__}, expected a ReplayBuffer of Stable-Baselines3")
    return adopted(loaded, OfflineReplayBuffer, device=device, source=str(path))


def adopted(
    buffer: ReplayBuffer, kind: type[SelfBuffer], *, device: torch.device | str, source: str = "replay buffer"
) -> SelfBuffer:
    """See :meth:`OfflineReplayBuffer.from_replay_buffer`.

    :param kind: class of the result.
    :param source: name of the data in error messages.
    """
    if isinstance(buffer, kind):
        buffer.to(get_device(device))
        return buffer
    if isinstance(buffer, HerReplayBuffer):
        raise DatasetError(
            f"{source}: a HerReplayBuffer makes up goals, and asks its environment for their rewards, whenever it is "
            "sampled; expected a ReplayBuffer or DictReplayBuffer, whose transitions are what was recorded"
        )
    order = _oldest_first(buffer)
    if buffer.dones[order].size == 0:
        raise DatasetError(f"{source}: holds no transitions; expected at least one")
    try:
        checks.require_box_actions(buffer.action_space)
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from error

    result = kind(buffer.n_envs, buffer.observation_space, buffer.action_space, device, buffer.n_envs)
    result.source = source
    dones, timeouts = (_ends(source, key, getattr(buffer, key)[order]) for key in ("dones", "timeouts"))
    result.timeouts = dones * timeouts
    result.observations = _observations(source, "observations", buffer, order)
    if buffer.optimize_memory_usage:
        result.next_observations = _shared_next_observations(source, buffer, order, result.observations, dones)
    else:
        result.next_observations = _observations(source, "next_observations", buffer, order)
    result.actions = _actions(source, buffer.actions[order])
    checks.require_finite(source, "rewards", buffer.rewards[order].reshape(-1))
    result.rewards = image_layout.adopted(buffer.rewards[order], np.dtype(np.float32))
    # Nothing follows the newest row, although its episodes may have gone on.
    result.timeouts[-1] = np.where(dones[-1], result.timeouts[-1], 1.0)
    dones[-1] = 1.0
    result.dones = dones
    result.buffer_size, result.pos, result.full = len(dones), 0, True
    return result


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
