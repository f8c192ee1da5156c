"""Recorded data in .npz and .hdf5 files: the usual key names, whole or a part at a time; writing .npz files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.datasets.array_files import Arrays, opened

TRANSITION_KEYS = ("observations", "actions", "rewards", "next_observations")
END_KEYS = ("terminals", "dones", "timeouts", "masks")


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "auto",
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> OfflineReplayBuffer:
    """Recorded transitions of an .npz or .hdf5 file, in memory.

    Keys of the file, T transitions each:

    =================  ==============================================================================
    observations       [T, *observation]
    actions            [T, action], in the environment's units
    rewards            [T]
    next_observations  [T, *observation]
    terminals          [T], 1 where an episode ended; ``dones`` is another name for it
    timeouts           [T], 1 where a time limit ended the episode and the value goes on (optional)
    masks              [T], 0 only where bootstrapping must stop; instead of, or beside, the two above
    =================  ==============================================================================

    Dict observations are ``observations/KEY``: names in .npz files, groups in HDF5 files; other names are passed over.
    With neither ``masks`` nor ``timeouts``, every terminal stops bootstrapping. Where ``next_observations`` is missing,
    as in D4RL's files, it is made of the observations; see :func:`transition_blocks`. A file ``NAME.json`` beside
    ``NAME.npz`` or ``NAME.hdf5`` becomes the buffer's metadata; its ``env_id``, ``action_low`` and ``action_high`` are
    understood.

    :param path: the file.
    :param device: where batches will be drawn.
    :param observation_space: checked against; inferred from the data when None.
    :param action_space: bounds of the actions; the metadata's, else [−1, 1], when None.
    :raises DatasetError: no such file, another format, truncated, pickled objects inside, a missing key, or arrays that
        do not fit together.
    :raises ImportError: the file is HDF5 and h5py is not installed.
    """
    path = Path(path)
    metadata = read_metadata(path)
    with opened(path) as arrays:
        (transitions,) = transition_blocks(path, arrays, whole=True)
    return OfflineReplayBuffer.from_arrays(
        transitions,
        observation_space=observation_space,
        action_space=action_space or known_action_space(metadata),
        device=device,
        source=str(path),
        metadata=metadata,
    )


def known_action_space(metadata: Mapping[str, Any]) -> spaces.Box | None:
    """The bounds that ``action_low`` and ``action_high`` tell, where they are known."""
    if "action_low" not in metadata or "action_high" not in metadata:
        return None
    return spaces.Box(np.asarray(metadata["action_low"], np.float32), np.asarray(metadata["action_high"], np.float32))


def transition_blocks(path: Path, arrays: Arrays, *, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The transitions of a file, in the words of :meth:`OfflineReplayBuffer.from_arrays`.

    Without ``next_observations`` a transition's next observation is the observation of the next row, exactly as
    ``d4rl.qlearning_dataset`` has it: a row at which a time limit ended the episode has none in the file, nor has the
    last row, so they are left out, and the row before is where the episode ends, without stopping the bootstrap. After
    a real end stands the next episode's first observation, which no target looks at.

    :param path: for messages.
    :param arrays: as :func:`~dipole_sb3.datasets.array_files.opened` gives them.
    :param whole: all in one block, instead of in parts that take little memory.
    :raises DatasetError: arrays of several lengths, ends named twice, or no way to tell the next observations.
    """
    used: dict[str, Any] = {key: arrays[key] for key in (*TRANSITION_KEYS, *END_KEYS) if key in arrays}
    length = common_length(str(path), used)
    rows = max(length, 1) if whole else image_layout.rows_per_block(_row_bytes(used))
    parts = (
        _episode_ends(sliced(used, slice(start, min(start + rows, length))), source=str(path))
        for start in range(0, max(length, 1), rows)
    )
    if "next_observations" in used or "observations" not in used or length == 0:
        yield from parts
        return
    ends = "terminals" in used or "dones" in used
    if not (ends and ("timeouts" in used or "masks" in used)):
        raise DatasetError(
            f"{path}: missing next_observations; they could be made of the observations if terminals and timeouts told "
            f"where episodes end; found {checks.describe_keys(arrays)}"
        )
    known = False
    for part in _with_successors(parts, length):
        known = True
        yield part
    if not known:
        raise DatasetError(f"{path}: missing next_observations, and no row is followed by another of its episode")


def _with_successors(parts: Iterator[dict[str, Any]], length: int) -> Iterator[dict[str, Any]]:
    carried: dict[str, Any] | None = None
    read = 0
    for new in parts:
        read += len(new["terminals"])
        # Columns may be [T, 1], too.
        new |= {key: new[key].reshape(len(new[key]), -1)[:, 0] for key in ("terminals", "masks")}
        part = new if carried is None else _joined(carried, new)
        without_successor = (part["terminals"] == 1) & (part["masks"] == 1)
        without_successor[-1] |= read == length
        kept = np.flatnonzero(~without_successor[:-1])
        carried = sliced(part, slice(-1, None))
        if len(kept) == 0:
            continue
        following = part["observations"]
        transitions = sliced(part, kept)
        transitions["terminals"] = np.maximum(transitions["terminals"], without_successor[kept + 1])
        transitions["next_observations"] = (
            sliced(following, kept + 1) if isinstance(following, dict) else following[kept + 1]
        )
        yield transitions


def _row_bytes(arrays: Mapping[str, Any]) -> int:
    return sum(
        _row_bytes(array) if isinstance(array, Mapping) else array.dtype.itemsize * math.prod(array.shape[1:])
        for array in arrays.values()
    )


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _joined(value, other[key]) if isinstance(value, Mapping) else np.concatenate([value, other[key]])
        for key, value in one.items()
    }


def sliced(arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """The same rows of every array, also of those in a mapping of observations."""
    return {key: sliced(value, rows) if isinstance(value, Mapping) else value[rows] for key, value in arrays.items()}


def common_length(source: str, arrays: Mapping[str, Any]) -> int:
    """Rows of all arrays.

    :raises DatasetError: they differ.
    """
    lengths = {
        name: _length(array)
        for key, value in arrays.items()
        for name, array in (
            ((f"{key}[{part!r}]", array) for part, array in value.items())
            if isinstance(value, Mapping)
            else [(key, value)]
        )
    }
    expected = lengths.get("actions", max(lengths.values(), default=0))
    for name, length in lengths.items():
        if length != expected:
            raise DatasetError(f"{source}: {name} has {length} rows, expected {expected}, as many as there are actions")
    return expected


def _length(array: Any) -> int:
    shape = getattr(array, "shape", None)
    return len(array) if shape is None else shape[0] if shape else 0


def read_metadata(path: Path) -> dict[str, Any]:
    """What the .json file beside a data file tells; nothing where there is none."""
    path = path.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(
            f"{path}: not valid JSON ({error}); expected the provenance of the data beside it"
        ) from error
    if not isinstance(metadata, dict):
        raise DatasetError(f"{path}: holds a JSON {type(metadata).__name__}, expected an object of named facts")
    return metadata


def _episode_ends(arrays: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The arrays with ``dones`` and ``timeouts`` said in the buffer's words, ``terminals`` and ``masks``.

    ``timeouts`` may be a part of the ends (SB3) or stand apart from them (D4RL): both mean the same here.
    """
    result = {key: arrays[key] for key in (*TRANSITION_KEYS, "masks") if key in arrays}
    if "terminals" in arrays and "dones" in arrays:
        raise DatasetError(f"{source}: has both terminals and dones, which name the same thing; expected one of them")
    ended = arrays.get("terminals", arrays.get("dones"))
    timeouts = arrays.get("timeouts")
    if ended is not None and timeouts is not None:
        if ended.shape != timeouts.shape:
            raise DatasetError(
                f"{source}: timeouts has shape {timeouts.shape}, expected {ended.shape}, the shape of the terminals"
            )
        timed_out = timeouts.astype(bool)
        result.setdefault("masks", 1.0 - (ended.astype(bool) & ~timed_out))
        ended = np.maximum(ended, timed_out)
    if ended is not None:
        result["terminals"] = ended.astype(np.float32) if ended.dtype == bool else ended
    if "masks" in result and result["masks"].dtype == bool:
        result["masks"] = result["masks"].astype(np.float32)
    return result


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, compressed: bool = True) -> Path:
    """Writes arrays to an .npz file, whole or not at all: to a temporary name in the same folder, then renamed.

    The same arrays give the same bytes. Missing folders are made.

    :param path: the file, with its suffix.
    :param arrays: numeric arrays by name.
    :param compressed: deflate the arrays.
    :return: the path.
    :raises OSError: the folder cannot be written or the disk is full; nothing half-written stays behind.
    """
    path = Path(path)
    save = np.savez_compressed if compressed else np.savez
    with replaced_when_complete(path) as file:
        save(file, allow_pickle=False, **arrays)
    return path
