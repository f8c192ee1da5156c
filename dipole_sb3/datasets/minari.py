"""Minari's data sets: episodes of T + 1 observations become transitions, one episode at a time."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.environments import environment_facts

PREFIX = "minari/"


def load(name: str, *, device: torch.device | str = "auto") -> OfflineReplayBuffer:
    """A data set of Minari's local folder (``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``).

    An episode of T steps has T + 1 observations: transition t goes from observation t to observation t + 1. A
    termination stops bootstrapping; a truncation, and an episode that just stops, does not. Read through Minari's API
    alone, so in whichever format a set is stored.

    :param name: ``"minari/<id>"``, for example ``"minari/mujoco/reacher/medium-v0"``.
    :param device: where batches will be drawn.
    :return: a buffer with Minari's spaces; its metadata has ``env_id`` (and ``env_kwargs``) where Minari knows the
        environment.
    :raises DatasetError: no such set on this machine, spaces that are not supported, or an episode whose parts do not
        fit together (named).
    :raises ImportError: Minari is not installed.
    """
    import minari

    data_id = name.removeprefix(PREFIX)
    try:
        data = minari.load_dataset(data_id)
    except FileNotFoundError as error:
        raise DatasetError(f"{name}: not on this machine; {_how_to_get(data_id)}") from error
    # A format that the installed Minari does not read, or metadata that are damaged or not there.
    except (AssertionError, KeyError, ValueError) as error:
        raise DatasetError(f"{name}: Minari cannot read it ({error!r})") from error
    observation_space = _require_storable(name, data.observation_space)
    try:
        action_space = checks.require_box_actions(data.action_space)
    except ValueError as error:
        raise DatasetError(f"{name}: {error}") from error
    return OfflineReplayBuffer.from_arrays(
        _transitions(name, data, observation_space),
        observation_space=observation_space,
        action_space=action_space,
        device=device,
        source=name,
        metadata={"source": name, "minari_version": data.minari_version, **environment_facts(data.env_spec)},
    )


def _how_to_get(data_id: str) -> str:
    import minari

    local = list(minari.list_local_datasets())
    near = difflib.get_close_matches(data_id, local, n=3, cutoff=0.6)
    there = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(local) or 'none'}"
    return f"{there}; `minari download {data_id}` fetches what Minari publishes"


def _require_storable(name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
    for key, part in parts.items():
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            where = "observation space" if key is None else f"observation space at {key!r}"
            raise DatasetError(
                f"{name}: its {where} is {checks.on_one_line(part)}; expected a Box, Discrete, MultiDiscrete or "
                "MultiBinary space, or a Dict of those"
            )
    return space


def _transitions(name: str, data: Any, space: spaces.Space[Any]) -> dict[str, Any]:
    """All episodes as the arrays of a buffer, which are allocated once and filled episode by episode."""
    steps = int(data.total_steps)
    parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
    observations, following = (
        {key: np.empty((steps, *(part.shape or ())), checks.stores_as(part)) for key, part in parts.items()}
        for _ in range(2)
    )
    columns = {key: np.empty(steps, np.float32) for key in ("rewards", "terminals", "masks")}
    actions = np.empty((steps, *data.action_space.shape), np.float32)
    row = 0
    for episode in _episodes(name, data):
        where, length = f"{name}: episode {episode.id}", len(episode.rewards)
        rows = slice(row, row + length)
        row += length
        if row > steps:
            raise DatasetError(f"{where} goes beyond the {steps} steps that the set's metadata tells")
        for key, array in observations.items():
            recorded = _observations(where, episode.observations, key)
            checks.require_shape(where, "observations", recorded, (length + 1, *array.shape[1:]))
            checks.require_kind(where, "observations", recorded, array.dtype)
            array[rows], following[key][rows] = recorded[:-1], recorded[1:]
        actions[rows] = _column(where, "actions", episode, (length, *actions.shape[1:]))
        columns["rewards"][rows] = _column(where, "rewards", episode, (length,))
        terminated, truncated = (
            _column(where, key, episode, (length,)).astype(bool) for key in ("terminations", "truncations")
        )
        columns["masks"][rows] = ~terminated
        columns["terminals"][rows] = terminated | truncated
        columns["terminals"][rows.stop - 1] = 1  # what follows belongs to another episode, however this one ended
    if row != steps:
        raise DatasetError(f"{name}: its episodes have {row} steps, its metadata tells {steps}")
    alone = not isinstance(space, spaces.Dict)
    return {
        "observations": observations[None] if alone else observations,
        "next_observations": following[None] if alone else following,
        "actions": actions,
        **columns,
    }


def _episodes(name: str, data: Any) -> Iterator[Any]:
    episodes = iter(data.iterate_episodes())
    for index in data.episode_indices:
        try:
            yield next(episodes)
        except Exception as error:  # Minari raises errors of many kinds for damaged bytes
            raise DatasetError(f"{name}: episode {index} cannot be read ({error}); the set is damaged") from error


def _observations(where: str, value: Any, key: str | None) -> np.ndarray:
    if key is None:
        return checks.require_numeric(where, "observations", value)
    if not isinstance(value, Mapping) or key not in value:
        raise DatasetError(f"{where}: observations have no {key!r}, which the observation space has")
    return checks.require_numeric(where, f"observations[{key!r}]", value[key])


def _column(where: str, key: str, episode: Any, expected: tuple[int, ...]) -> np.ndarray:
    column = checks.require_numeric(where, key, getattr(episode, key))
    checks.require_shape(where, key, column, expected)
    return column
