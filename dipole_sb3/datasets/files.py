"""Recorded data in NumPy's .npz files: reading the usual key names, writing without leaving half a file behind."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers import OfflineReplayBuffer
from dipole_sb3.errors import DatasetError
from dipole_sb3.persistence import replaced_when_complete

TRANSITION_KEYS = ("observations", "actions", "rewards", "next_observations")
END_KEYS = ("terminals", "dones", "timeouts", "masks")


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "auto",
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> OfflineReplayBuffer:
    """Recorded transitions of an .npz file.

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

    With neither ``masks`` nor ``timeouts``, every terminal stops bootstrapping. A file ``NAME.json`` beside
    ``NAME.npz`` becomes the buffer's metadata; its ``env_id``, ``action_low`` and ``action_high`` are understood.

    :param path: the file.
    :param device: where batches will be drawn.
    :param observation_space: checked against; inferred from the data when None.
    :param action_space: bounds of the actions; the metadata's, else [−1, 1], when None.
    :raises DatasetError: no such file, not an .npz, truncated, pickled objects inside, a missing key, or arrays that do
        not fit together.
    """
    path = Path(path)
    arrays = read_npz(path)
    metadata = _read_metadata(path.with_suffix(".json"))
    if action_space is None and "action_low" in metadata and "action_high" in metadata:
        action_space = spaces.Box(
            np.asarray(metadata["action_low"], np.float32), np.asarray(metadata["action_high"], np.float32)
        )
    return OfflineReplayBuffer.from_arrays(
        _episode_ends(arrays, source=str(path)),
        observation_space=observation_space,
        action_space=action_space,
        device=device,
        source=str(path),
        metadata=metadata,
    )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; pickled objects are never loaded.

    :raises DatasetError: no such file, not an .npz file, truncated, or objects instead of numbers.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; expected an .npz file of recorded transitions")
    if path.stat().st_size == 0:
        raise DatasetError(f"{path}: the file is empty (0 bytes); expected an .npz file of recorded transitions")
    try:
        file = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # damaged bytes surface as whatever zipfile or NumPy stumbles over
        raise DatasetError(
            f"{path}: not a complete .npz file (other format or truncated); expected a file written by numpy.savez"
        ) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DatasetError(f"{path}: holds one bare array (.npy format); expected an .npz file with named arrays")
    with file:
        return {key: _read_member(path, file, key) for key in file.files}


def _read_member(path: Path, file: Any, key: str) -> np.ndarray:
    try:
        return np.asarray(file[key])
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise DatasetError(
                f"{path}: {key} holds pickled Python objects, which are never loaded; expected a numeric array"
            ) from error
        raise DatasetError(f"{path}: {key} cannot be read ({error}); the file is damaged") from error
    except Exception as error:  # damaged bytes surface as whatever zipfile or NumPy stumbles over
        raise DatasetError(f"{path}: {key} cannot be read ({error}); the file is damaged or truncated") from error


def _read_metadata(path: Path) -> dict[str, Any]:
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
