"""Recorded data in .npz and .hdf5 files, and the .json files beside them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.datasets.array_files import opened


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "auto",
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> OfflineReplayBuffer:
    """Recorded transitions of an .npz or .hdf5 file, in memory.

    The file's keys, and what they mean, are those of :meth:`OfflineReplayBuffer.from_arrays`. Dict observations are
    ``observations/KEY``: names in .npz files, groups in HDF5 files. A file ``NAME.json`` beside ``NAME.npz`` or
    ``NAME.hdf5`` becomes the buffer's metadata, of which ``env_id``, ``action_low`` and ``action_high`` are used.

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
        return OfflineReplayBuffer.from_arrays(
            arrays,
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


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> Path:
    """Writes the .json file beside a data file that has just been written.

    :return: its path.
    :raises OSError: it cannot be written. There is none then: an earlier file's bounds would scale these actions.
    """
    beside = path.with_suffix(".json")
    try:
        with replaced_when_complete(beside) as file:
            file.write(f"{json.dumps(metadata, indent=2, ensure_ascii=False)}\n".encode())
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return beside


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
    with replaced_when_complete(path) as file:
        write_arrays(file, arrays, compressed=compressed)
    return path


def write_arrays(file: io.BufferedIOBase, arrays: Mapping[str, np.ndarray], *, compressed: bool = True) -> None:
    """Writes arrays to an open file, as :func:`write_npz` does."""
    save: Any = np.savez_compressed if compressed else np.savez
    save(file, allow_pickle=False, **arrays)
