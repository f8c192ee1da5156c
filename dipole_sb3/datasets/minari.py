"""Minari's data sets: episodes of T + 1 observations become transitions and back, one episode at a time."""

from __future__ import annotations

import difflib
import inspect
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.observations import space_parts
from dipole_sb3.datasets.environments import environment_facts
from dipole_sb3.datasets.episodes import episodes
from dipole_sb3.datasets.folders import replaced_folder
from dipole_sb3.datasets.image_sizes import ImageSize, require_image_size, resized_rows, resized_space

PREFIX = "minari/"
_FOLDER = "MINARI_DATASETS_PATH"
_MARK = "data/metadata.json"
_OPEN = "dipole_open_episodes"
"""In the metadata of exported sets: numbers of the episodes that just stop, without an end, not even by time."""


def load(name: str, *, device: torch.device | str = "auto", image_size: ImageSize | None = None) -> OfflineReplayBuffer:
    """A data set of Minari's local folder (``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``).

    An episode of T steps has T + 1 observations: transition t goes from observation t to observation t + 1. A
    termination stops bootstrapping; a truncation, and an episode that just stops, does not. Read through Minari's API
    alone, so in whichever format a set is stored.

    :param name: ``"minari/<id>"``, for example ``"minari/mujoco/reacher/medium-v0"``.
    :param device: where batches will be drawn.
    :param image_size: (height, width) to which images are resized, antialiased (Pillow's bilinear filter); None: as
        they are stored.
    :return: a buffer with Minari's spaces, but for the size of images; its metadata has ``env_id`` (and
        ``env_kwargs``) where Minari knows the environment.
    :raises DatasetError: no such set on this machine, spaces that are not supported, or an episode whose parts do not
        fit together (named).
    :raises ValueError: ``image_size`` is something else, or there is no image.
    :raises ImportError: Minari is not installed.
    """
    import minari

    require_image_size(image_size)
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
        _transitions(name, data, observation_space, image_size),
        observation_space=resized_space(observation_space, image_size),
        action_space=action_space,
        device=device,
        source=name,
        metadata={
            "source": name,
            "minari_version": data.minari_version,
            **environment_facts(data.env_spec),
            **({} if image_size is None else {"image_size": list(image_size)}),
        },
    )


def _how_to_get(data_id: str) -> str:
    import minari

    local = list(minari.list_local_datasets())
    near = difflib.get_close_matches(data_id, local, n=3, cutoff=0.6)
    there = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(local) or 'none'}"
    return f"{there}; `minari download {data_id}` fetches what Minari publishes"


def _require_storable(name: str, space: spaces.Space[Any]) -> spaces.Space[Any]:
    for key, part in space_parts(space).items():
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            where = "observation space" if key is None else f"observation space at {key!r}"
            raise DatasetError(
                f"{name}: its {where} is {checks.on_one_line(part)}; expected a Box, Discrete, MultiDiscrete or "
                "MultiBinary space, or a Dict of those"
            )
    return space


def _transitions(name: str, data: Any, space: spaces.Space[Any], image_size: ImageSize | None) -> dict[str, Any]:
    """All episodes as the arrays of a buffer, which are allocated once and filled episode by episode."""
    steps = int(data.total_steps)
    parts, stored = space_parts(space), space_parts(resized_space(space, image_size))
    observations, following = (
        {key: np.empty((steps, *(part.shape or ())), checks.stores_as(part)) for key, part in stored.items()}
        for _ in range(2)
    )
    columns = {key: np.empty(steps, np.float32) for key in ("rewards", "terminals", "masks")}
    actions = np.empty((steps, *data.action_space.shape), np.float32)
    open_episodes = set(data.storage.metadata.get(_OPEN, ()))
    row = 0
    for episode in _episodes(name, data):
        where, length = f"{name}: episode {episode.id}", len(episode.rewards)
        rows = slice(row, row + length)
        row += length
        if row > steps:
            raise DatasetError(f"{where} goes beyond the {steps} steps that the set's metadata tells")
        for key, array in observations.items():
            recorded, part = _observations(where, episode.observations, key), parts[key]
            checks.require_shape(where, "observations", recorded, (length + 1, *(part.shape or ())))
            checks.require_kind(where, "observations", recorded, array.dtype)
            if stored[key] is not part:
                assert isinstance(part, spaces.Box)
                recorded = resized_rows(recorded, part, image_size)
            array[rows], following[key][rows] = recorded[:-1], recorded[1:]
        actions[rows] = _column(where, "actions", episode, (length, *actions.shape[1:]))
        columns["rewards"][rows] = _column(where, "rewards", episode, (length,))
        terminated, truncated = (
            _column(where, key, episode, (length,)).astype(bool) for key in ("terminations", "truncations")
        )
        columns["masks"][rows] = ~terminated
        columns["terminals"][rows] = terminated | truncated
        if episode.id not in open_episodes:
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


def export(
    buffer: OfflineReplayBuffer,
    name: str,
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes all transitions as a set into Minari's local folder, whole or not at all; memory holds an episode of them.

    :func:`load` makes the same transitions of it again, bit for bit. Actions are in the environment's units, images as
    they are. Where a recording stops in mid-episode, Minari's episode just stops.

    :param buffer: of any kind.
    :param name: ``"minari/<id>"`` or Minari's id alone, such as ``"mujoco/reacher/mine-v0"``.
    :param metadata: of which ``env_id`` and ``env_kwargs`` are kept, where Gymnasium makes that environment; the
        buffer's own when None.
    :param overwrite: replace a set of this name.
    :raises DatasetError: the name is taken, or is none for Minari.
    :raises ImportError: Minari is not installed.
    :raises OSError: the folder cannot be written.
    """
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage.datasets_root_dir import get_dataset_path

    data_id = name.removeprefix(PREFIX)
    try:
        namespace = parse_dataset_id(data_id)[0]
    except ValueError as error:
        raise DatasetError(f"{name}: no name for Minari; expected one such as reacher/mine-v0") from error
    open_episodes: list[int] = []
    options: dict[str, Any] = {"observation_space": buffer.observation_space, "action_space": buffer.action_space}
    if "jpeg_encoding" in inspect.signature(minari.create_dataset_from_buffers).parameters:
        options["jpeg_encoding"] = False  # which loses a little of every image
    with (
        replaced_folder(get_dataset_path(data_id), _MARK, overwrite) as folder,
        _environment(buffer.metadata if metadata is None else metadata) as env,
    ):
        apart = folder / "apart"
        with _minari_folder(apart), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # of authors that are not named
            # Not Minari's default: HDF5 that meets a full disk brings the process down later.
            data = minari.create_dataset_from_buffers(
                data_id, _episode_buffers(buffer, open_episodes), env=env, data_format="arrow", **options
            )
            data.storage.update_metadata({_OPEN: open_episodes})
        (apart / data_id / "data").rename(folder / "data")
        shutil.rmtree(apart)
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)


def _episode_buffers(buffer: OfflineReplayBuffer, open_episodes: list[int]) -> Iterator[Any]:
    """Episodes as Minari takes them; those that just stop are noted."""
    from minari.data_collector import EpisodeBuffer

    alone = not isinstance(buffer.observation_space, spaces.Dict)
    for number, episode in enumerate(episodes(buffer)):
        terminated, truncated = np.zeros((2, len(episode.rewards)), bool)
        terminated[-1], truncated[-1] = episode.ended and not episode.by_time, episode.ended and episode.by_time
        if not episode.ended:
            open_episodes.append(number)
        yield EpisodeBuffer(
            id=number,
            observations=episode.observations[None] if alone else episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=terminated,
            truncations=truncated,
        )


@contextmanager
def _minari_folder(path: Path) -> Iterator[None]:
    """Minari's sets are in this folder for the time of the block."""
    before = os.environ.get(_FOLDER)
    os.environ[_FOLDER] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before


@contextmanager
def _environment(metadata: Mapping[str, Any]) -> Iterator[gymnasium.Env[Any, Any] | None]:
    """The environment that the metadata name, if this machine can make it."""
    if not metadata.get("env_id"):
        yield None
        return
    try:
        env = gymnasium.make(metadata["env_id"], **metadata.get("env_kwargs", {}))
    except (gymnasium.error.Error, ImportError):
        yield None
        return
    with env:
        yield env
