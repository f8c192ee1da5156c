"""OGBench's .npz files, and the transitions in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_sb3.common.errors import DatasetError

ROWS_AT_A_TIME = 65_536


class Archive:
    """An .npz file whose every failure is one sentence about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._failures_named():
            self._file = np.load(path)
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise DatasetError(f"{path}: found a single array, expected an OGBench .npz archive")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def require(self, keys: Iterable[str]) -> None:
        missing = [key for key in keys if key not in self._file]
        if missing:
            raise DatasetError(f"{self.path}: lacks {', '.join(missing)}; found {', '.join(self._file.files)}")

    def read(self, key: str, expected: tuple[int | None, ...]) -> NDArray[Any]:
        """One array of the expected shape; None stands for any size."""
        with self._failures_named():
            array: NDArray[Any] = self._file[key]
        fits = [want in (None, have) for want, have in zip(expected, array.shape, strict=False)]
        if array.ndim != len(expected) or not all(fits):
            wanted = ", ".join("any" if size is None else str(size) for size in expected)
            raise DatasetError(f"{self.path}: {key} has shape {array.shape}, expected ({wanted})")
        return array

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # NumPy raises errors of many kinds for damaged bytes
            raise DatasetError(
                f"{self.path}: cannot be read as an .npz archive, it may be truncated ({error}); delete it and fetch "
                "or make it again"
            ) from error


def episode_ends(archive: Archive) -> NDArray[np.bool_]:
    """Rows that end an episode; the data must hold transitions and must not break off within an episode."""
    terminals = archive.read("terminals", (None,))
    if not np.isin(terminals, (0, 1)).all():
        raise DatasetError(f"{archive.path}: terminals holds values other than 0 and 1")
    ends = terminals.astype(bool)
    if len(ends) == 0 or not ends[-1]:
        raise DatasetError(f"{archive.path}: the last of {len(ends)} rows does not end an episode; the data is cut off")
    if ends.all():
        raise DatasetError(
            f"{archive.path}: each of {len(ends)} rows ends an episode; expected at least one transition"
        )
    return ends


def read_transitions(
    archive: Archive, ends: NDArray[np.bool_], observation_shape: tuple[int | None, ...], action_shape: tuple[int, ...]
) -> dict[str, NDArray[Any]]:
    """The arrays as ogbench's load_dataset makes them.

    Files hold each episode's states s0 … sT in consecutive rows. The last row of an episode has no successor: it is
    dropped, and the row before it becomes the terminal one.

    :param ends: of :func:`episode_ends`.
    :param observation_shape: None stands for any size; three numbers are a picture, uint8.
    :param action_shape: of an action.
    :return: ``observations``, ``next_observations``, ``actions`` and ``terminals``, float32 but for pictures.
    """
    rows, keep = len(ends), np.flatnonzero(~ends)
    observations = archive.read("observations", (rows, *observation_shape))
    pixels = len(observation_shape) == 3
    observations = observations.astype(np.uint8 if pixels else np.float32, copy=False)
    next_observations = _successors(observations, keep)
    actions = archive.read("actions", (rows, *action_shape))
    return {
        "observations": _compacted(observations, keep),
        "actions": _compacted(actions.astype(np.float32, copy=False), keep),
        "next_observations": next_observations,
        "terminals": ends[keep + 1].astype(np.float32),
    }


def _successors(array: NDArray[Any], keep: NDArray[np.intp]) -> NDArray[Any]:
    following = np.empty((len(keep), *array.shape[1:]), array.dtype)
    for start in range(0, len(keep), ROWS_AT_A_TIME):
        stop = start + ROWS_AT_A_TIME
        following[start:stop] = array[keep[start:stop] + 1]
    return following


def _compacted(array: NDArray[Any], keep: NDArray[np.intp]) -> NDArray[Any]:
    """The kept rows, moved together within the same memory; keep[i] ≥ i, so nothing is overwritten unread."""
    for start in range(0, len(keep), ROWS_AT_A_TIME):
        stop = start + ROWS_AT_A_TIME
        rows = array[keep[start:stop]]
        array[start : start + len(rows)] = rows
    return array[: len(keep)]
