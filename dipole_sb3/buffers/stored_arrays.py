"""The project's own data format: a folder of .npy files and what is known about them, for data of any size.

    dataset.json                     format and version, spaces, counts, shapes and SHA-256 of the arrays, metadata
    observations.npy                 [T + 1, *observation]: s of every transition, and what follows the last
    breaks.npy                       [K]: transitions whose next observation is not the next one's observation, and
                                     those that end a recording (what one environment gathered)
    break_observations.npy           [K, *observation]: the next observations of those
    actions.npy                      [T, action], scaled to [−1, 1] by the bounds of the action space, float32
    rewards.npy, dones.npy, timeouts.npy    [T], float32, as in a replay buffer

Of Dict observations every key has files of its own, ``observations.KEY.npy``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape

from dipole_sb3.buffers.npy_files import NpyFile
from dipole_sb3.common import checks, described_spaces
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.observations import space_parts

DESCRIPTION = "dataset.json"
FORMAT = "dipole-sb3 data set"
VERSION = 1
COLUMNS = ("actions", "rewards", "dones", "timeouts")

MAPPED_BYTES = 768 * 2**20
"""Arrays are drawn through memory maps while they fit into this, smallest first; the others are read row by row.

Linux counts every touched page of a map as the process's memory, with up to 2 MiB around it.
"""

_BREAKS_AT_ONCE = 4096

Keyed = dict[str | None, NpyFile]


class StoredArrays:
    """The files of one data set.

    Observations are stored once: row t of them is s, row t + 1 is s', except in the transitions of ``breaks``.

    :param observations: [T + 1, *observation], by key of a Dict observation or under None.
    :param breaks: int64 [K], in ascending order: transitions whose next observation is not the following row, or after
        which another recording begins.
    :param break_observations: [K, *observation], their next observations; keys as of ``observations``.
    :param columns: actions [T, action], rewards, dones and timeouts [T], float32.
    """

    def __init__(
        self, observations: Keyed, breaks: NpyFile, break_observations: Keyed, columns: dict[str, NpyFile]
    ) -> None:
        self.observations, self.columns = observations, columns
        self.breaks, self.break_observations = breaks, break_observations
        budget = MAPPED_BYTES
        files = [*observations.values(), *columns.values(), breaks, *break_observations.values()]
        for file in sorted(files, key=lambda file: file.bytes):
            budget -= file.bytes
            file.drawn_by_reads = budget < 0

    def __len__(self) -> int:
        return self.columns["rewards"].shape[0]

    def pairs(self, rows: np.ndarray) -> tuple[ObservationArrays, ObservationArrays]:
        """s and s' of transitions, copies of [n, *observation] each.

        :param rows: int64 [n].
        """
        pairs = {key: file.take(rows, 2) for key, file in self.observations.items()}
        self._mend({key: pair[:, 1] for key, pair in pairs.items()}, rows)
        one, other = (unkeyed({key: pair[:, which] for key, pair in pairs.items()}) for which in (0, 1))
        return one, other

    def block(self, start: int, stop: int) -> dict[str, Any]:
        """Consecutive transitions, as :meth:`OfflineReplayBuffer.blocks` gives them; no map is touched."""
        states = {key: file.read(start, stop + 1) for key, file in self.observations.items()}
        following = {key: state[1:].copy() for key, state in states.items()}
        self._mend(following, np.arange(start, stop))
        return {
            "observations": unkeyed({key: state[:-1] for key, state in states.items()}),
            "next_observations": unkeyed(following),
            **{key: file.read(start, stop) for key, file in self.columns.items()},
        }

    def ends_of_recordings(self) -> np.ndarray:
        """Breaks whose next observation is the following row all the same: what was written apart, int64 [K]."""
        breaks, apart = self.breaks.map, np.zeros(len(self.breaks.map), bool)
        for key, file in self.observations.items():
            for start in range(0, len(breaks), _BREAKS_AT_ONCE):
                part = np.arange(start, min(start + _BREAKS_AT_ONCE, len(breaks)))
                one, other = file.take(breaks[part] + 1), self.break_observations[key].take(part)
                # To the bit, as they are written: a −0 before a 0 is noted as a break, and ends nothing.
                apart[part] |= differ_in_bits(one, other)
        return breaks[~apart]

    def _mend(self, following: dict[str | None, np.ndarray], rows: np.ndarray) -> None:
        """Fills in the true next observations where the next row is another state."""
        breaks = self.breaks.map
        if len(breaks) == 0:
            return
        places = np.searchsorted(breaks, rows)
        broken = breaks[np.minimum(places, len(breaks) - 1)] == rows
        if broken.any():
            for key, values in following.items():
                values[broken] = self.break_observations[key].take(places[broken])[:, 0]


def checksum(path: str | os.PathLike[str]) -> str:
    """What identifies the data, as :attr:`OfflineReplayBuffer.checksum`; as it was when they were written.

    :param path: of the folder.
    :raises DatasetError: it is no data set of this format.
    """
    return str(read_description(Path(path))["checksum"])


def open_arrays(path: Path, expected: str | None) -> StoredArrays:
    """The arrays of a data set.

    :param path: of the folder.
    :param expected: its checksum; None: any.
    :raises DatasetError: as :func:`~dipole_sb3.datasets.storage.load`, or other data lie there.
    """
    description = read_description(path)
    if expected is not None and description["checksum"] != expected:
        raise DatasetError(
            f"{path}: holds other data than before: found checksum {description['checksum'][:12]}…, "
            f"expected {expected[:12]}…"
        )
    return open_files(path, description)


_FACTS: dict[str, type] = {
    "transitions": int,
    "episodes": int,
    "checksum": str,
    "observation_space": dict,
    "action_space": dict,
    "arrays": dict,
    "metadata": dict,
}


def read_description(path: Path) -> dict[str, Any]:
    """What ``dataset.json`` says, complete and of the right types.

    :param path: of the folder.
    :raises DatasetError: it is missing, damaged, of another format or from the future.
    """
    file = path / DESCRIPTION
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "the folder has no such file" if path.is_dir() else "no such folder"
        raise DatasetError(f"{file}: {found}; expected a data set that `dipole data convert` wrote") from error
    except ValueError as error:
        raise DatasetError(f"{file}: not valid JSON ({error}); the data set is damaged") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DatasetError(f'{file}: describes something else; expected "format": "{FORMAT}"')
    version = description.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise DatasetError(
            f"{file}: has version {version!r} of the format, expected {VERSION} or less: update dipole-sb3"
        )
    for key, kind in _FACTS.items():
        if not isinstance(description.get(key), kind):
            raise DatasetError(f"{file}: {key} is {description.get(key)!r}, expected {kind.__name__}")
    return description


def described_spaces_of(path: Path, description: Mapping[str, Any]) -> tuple[spaces.Space[Any], spaces.Box]:
    try:
        observation_space, action_space = (
            described_spaces.restore(description[key]) for key in ("observation_space", "action_space")
        )
        return observation_space, checks.require_box_actions(action_space)
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise DatasetError(f"{path / DESCRIPTION}: its spaces cannot be read ({error!r})") from error


def open_files(path: Path, description: Mapping[str, Any]) -> StoredArrays:
    observation_space, action_space = described_spaces_of(path, description)
    count = description["transitions"]
    breaks = noted_breaks(path, description)
    files: dict[str, dict[str | None, NpyFile]] = {}
    for name, (key, shape, dtype) in layout(observation_space, action_space, count, breaks).items():
        files.setdefault(name.partition(".")[0], {})[key] = NpyFile(path / name, shape, dtype)
    return StoredArrays(
        files["observations"],
        files["breaks"][None],
        files["break_observations"],
        {key: files[key][None] for key in COLUMNS},
    )


def noted_breaks(path: Path, description: Mapping[str, Any]) -> int:
    try:
        return int(description["arrays"][file_name("breaks")]["shape"][0])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DatasetError(f"{path / DESCRIPTION}: nothing is said of breaks.npy; the data set is damaged") from error


def layout(
    observation_space: spaces.Space[Any], action_space: spaces.Box, count: int, breaks: int
) -> dict[str, tuple[str | None, tuple[int, ...], np.dtype[Any]]]:
    """File → key of a Dict observation, shape and type of the array."""
    float32, actions = np.dtype(np.float32), int(np.prod(action_space.shape))
    layout: dict[str, tuple[str | None, tuple[int, ...], np.dtype[Any]]] = {}
    for key, space in space_parts(observation_space).items():
        row, dtype = get_obs_shape(space), checks.stores_as(space)
        layout[file_name("observations", key)] = (key, (count + 1, *row), dtype)
        layout[file_name("break_observations", key)] = (key, (breaks, *row), dtype)
    layout[file_name("breaks")] = (None, (breaks,), np.dtype(np.int64))
    for name in COLUMNS:
        layout[file_name(name)] = (None, (count, actions) if name == "actions" else (count,), float32)
    return layout


def file_name(name: str, key: str | None = None) -> str:
    return f"{name}.npy" if key is None else f"{name}.{quote(key, safe='')}.npy"


def unkeyed(values: dict[str | None, Any]) -> Any:
    """An array where the observation is one, else a dict."""
    return values.get(None, values)


def part_of(whole: Any, key: str | None) -> Any:
    """Of a Dict space or observation its part; of any other itself."""
    return whole if key is None else whole[key]


def differ_in_bits(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which rows of two arrays [n, ...] are not the same to the bit (−0 is not 0), bool [n]."""
    if len(one) == 0:
        return np.zeros(0, bool)
    different: np.ndarray = (_bits(one) != _bits(other)).any(axis=1)
    return different


def _bits(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
