"""Recorded arrays, as people have them, checked and brought into a replay buffer's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.action_units import scaled_actions
from dipole_sb3.common import checks
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError


class RecordedArrays(NamedTuple):
    """Transitions in the order of time, as in a replay buffer: [rows, n_envs, ...] each."""

    observations: ObservationArrays
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: ObservationArrays
    dones: np.ndarray
    timeouts: np.ndarray


def spaces_of(
    source: str,
    arrays: Mapping[str, Any],
    observation_space: spaces.Space[Any] | None,
    action_space: spaces.Space[Any] | None,
) -> tuple[spaces.Space[Any], spaces.Box]:
    """The spaces, inferred from the arrays where they are not given.

    :param arrays: as :func:`~dipole_sb3.buffers.array_conventions.transition_blocks` gives them, complete.
    :raises DatasetError: nothing can be inferred.
    """
    if observation_space is None:
        observations, following = (_numeric(source, key, arrays[key]) for key in ("observations", "next_observations"))
        observation_space = checks.infer_observation_space(source, observations, following)
    if action_space is None:
        actions = checks.require_numeric(source, "actions", arrays["actions"])
        checks.require_finite(source, "actions", actions)
        action_space = checks.infer_action_space(source, actions)
    return observation_space, checks.require_box_actions(action_space)


def adopted(
    source: str, arrays: Mapping[str, Any], observation_space: spaces.Space[Any], action_space: spaces.Box
) -> RecordedArrays:
    """Checks everything; copies observations only where torch could not read them as they are.

    :param arrays: as :func:`~dipole_sb3.buffers.array_conventions.transition_blocks` gives them, complete.
    :raises DatasetError: wrong shapes, NaN or infinity, emptiness, values out of bounds.
    """
    actions = checks.require_numeric(source, "actions", arrays["actions"])
    length = len(actions)
    observations, following = (
        _observations(source, key, _numeric(source, key, arrays[key]), observation_space, length)
        for key in ("observations", "next_observations")
    )
    scaled = _scaled(source, actions, action_space)
    rewards = _column(source, "rewards", arrays["rewards"], length)
    return RecordedArrays(observations, scaled, rewards, following, *_ends(source, arrays, length))


def _numeric(source: str, key: str, value: Any) -> ObservationArrays:
    if isinstance(value, Mapping):
        if not value:
            raise DatasetError(f"{source}: {key} is an empty mapping, expected at least one array")
        return {name: checks.require_numeric(source, f"{key}[{name!r}]", array) for name, array in value.items()}
    return checks.require_numeric(source, key, value)


def _observations(
    source: str, key: str, value: ObservationArrays, space: spaces.Space[Any], length: int
) -> ObservationArrays:
    if isinstance(space, spaces.Dict):
        found = sorted(value) if isinstance(value, dict) else "one array"
        if not isinstance(value, dict) or sorted(value) != sorted(space.spaces):
            raise DatasetError(f"{source}: {key} has {found}, expected the keys {sorted(space.spaces)}")
        return {
            name: _observation(source, f"{key}[{name!r}]", value[name], space[name], length) for name in space.spaces
        }
    if isinstance(value, dict):
        raise DatasetError(
            f"{source}: {key} is a mapping of {sorted(value)}, expected one array of shape "
            f"{(length, *(space.shape or ()))}"
        )
    return _observation(source, key, value, space, length)


def _observation(source: str, key: str, array: np.ndarray, space: spaces.Space[Any], length: int) -> np.ndarray:
    assert space.shape is not None
    dtype = checks.stores_as(space)
    checks.require_kind(source, key, array, dtype)
    array = checks.with_rows_of(space.shape, image_layout.with_channels_of(array, space))
    checks.require_shape(source, key, array, (length, *space.shape))
    checks.require_finite(source, key, array)
    if dtype != np.uint8:
        checks.require_within(source, key, array, space)
    # A Discrete observation has shape () and one column, in SB3 too.
    return image_layout.adopted(array, dtype).reshape(length, 1, *get_obs_shape(space))


def _scaled(source: str, actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    actions = checks.with_rows_of(space.shape, actions)
    checks.require_shape(source, "actions", actions, (len(actions), *space.shape))
    checks.require_finite(source, "actions", actions)
    checks.require_within(source, "actions", actions, space)
    return scaled_actions(actions, space).reshape(len(actions), 1, int(np.prod(space.shape)))


def _column(source: str, key: str, value: Any, length: int) -> np.ndarray:
    array = checks.require_numeric(source, key, value)
    if array.shape == (length, 1):
        array = array[:, 0]
    checks.require_shape(source, key, array, (length,))
    checks.require_finite(source, key, array)
    return np.ascontiguousarray(array, np.float32)[:, None]


def _ends(source: str, arrays: Mapping[str, Any], length: int) -> tuple[np.ndarray, np.ndarray]:
    """``dones`` and ``timeouts`` out of ``terminals`` and ``masks``."""
    columns = {key: _column(source, key, arrays[key], length) for key in ("terminals", "masks") if key in arrays}
    for key, column in columns.items():
        checks.require_zero_or_one(source, key, column[:, 0])
    masks = columns.get("masks")
    if masks is None:
        masks = 1.0 - columns["terminals"]
    dones = np.maximum(columns.get("terminals", 0.0), 1.0 - masks).astype(np.float32)
    return dones, dones * masks
