"""Data sets of the project's own format (see :mod:`dipole_sb3.buffers.stored_arrays`), written and opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers import array_conventions
from dipole_sb3.buffers.checksums import TransitionDigest
from dipole_sb3.buffers.npy_files import NpyFile, NpyWriter
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.buffers.stored_arrays import (
    COLUMNS,
    DESCRIPTION,
    FORMAT,
    VERSION,
    described_spaces_of,
    differ_in_bits,
    file_name,
    layout,
    noted_breaks,
    open_files,
    read_description,
)
from dipole_sb3.buffers.stored_buffer import StoredReplayBuffer
from dipole_sb3.common import checks, described_spaces
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import cannot_write
from dipole_sb3.datasets.folders import replaced_folder


class DatasetWriter:
    """Writes transitions to a folder, any number at a time; memory does not grow with them.

    A context manager: the folder appears under its name, whole and on the disk, when the block ends well, and not at
    all when it does not. What a killed process left beside it is removed by the next one that writes there.

    :param path: of the folder; missing parent folders are made.
    :param observation_space: of the environment; every observation is checked against it.
    :param action_space: likewise; its bounds scale the actions.
    :param metadata: anything worth keeping that JSON can hold (``env_id``, provenance); more may be put into the
        attribute ``metadata`` until the block ends.
    :param overwrite: replace a data set that has this name.
    :param source: name of what is appended, in error messages; the folder's when None.
    :raises DatasetError: on entering: the name is taken, or another process is writing there; on leaving: no
        transitions were written.
    :raises ValueError: metadata that JSON cannot hold, or spaces that a replay buffer cannot.
    :raises OSError: the folder cannot be written, or the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        source: str | None = None,
    ) -> None:
        self.path = Path(path)
        self._source = str(path) if source is None else source
        self.observation_space, self.action_space = observation_space, checks.require_box_actions(action_space)
        self.metadata = dict(metadata or {})
        self.transitions = 0
        self._overwrite = overwrite
        described_spaces.describe(observation_space)  # refused before hours of work, not after
        _require_json(self.path, self.metadata)
        self._layout = layout(observation_space, self.action_space, 0, 0)
        self._digest = TransitionDigest(observation_space)
        self._following: dict[str | None, np.ndarray] = {}
        self._episodes, self._open_episode, self._failed = 0, False, False
        self._begins_recording = False

    def __enter__(self) -> DatasetWriter:
        with ExitStack() as stack:
            folder = stack.enter_context(replaced_folder(self.path, DESCRIPTION, self._overwrite))
            self._writers: dict[str, NpyWriter] = {}
            for name, (_, shape, dtype) in self._layout.items():
                with self._failures_named():
                    self._writers[name] = NpyWriter(folder / name, shape[1:], dtype)
                stack.callback(self._writers[name].abandon)
            self._partial, self._stack = folder, stack.pop_all()
        return self

    def append(self, arrays: Mapping[str, Any]) -> None:
        """Adds transitions, whole episodes or parts of them.

        :param arrays: as in :meth:`OfflineReplayBuffer.from_arrays`, any number of rows ≥ 1. Where next_observations
            are missing, those of the last row are not looked for in what is appended next.
        :raises DatasetError: what is wrong with them, in which row (counted over all that was appended). The folder
            will then not appear, even where the error is caught.
        """
        parts = array_conventions.transition_blocks(self._source, arrays)
        first = self.transitions
        while True:
            with self._failures_named(first):
                part = next(parts, None)
            if part is None:
                return
            with self._failures_named(self.transitions):
                array_conventions.require_keys(self._source, part, arrays)
                buffer = OfflineReplayBuffer.from_arrays(
                    part,
                    observation_space=self.observation_space,
                    action_space=self.action_space,
                    device="cpu",
                    source=self._source,
                )
                (block,) = buffer.blocks(len(part["actions"]))
                self._append_block(block)

    def append_buffer(self, buffer: OfflineReplayBuffer) -> None:
        """Adds all transitions of a buffer with the writer's spaces, bit for bit.

        Environment after environment in the order of time, so that episodes stay together; see
        :meth:`OfflineReplayBuffer.recordings`. No episode goes on from one buffer to the next.

        :raises DatasetError: it has other spaces.
        """
        with self._failures_named():
            checks.require_same_spaces(
                buffer.source, buffer.observation_space, buffer.action_space, self.observation_space, self.action_space
            )
        for recording in buffer.recordings():
            self._begins_recording = True
            for block in recording:
                with self._failures_named():
                    self._append_block(block)
        self._begins_recording = True

    @contextmanager
    def _failures_named(self, first: int = 0) -> Iterator[None]:
        """Remembers that something failed; rows in messages count from ``first`` on."""
        try:
            yield
        except BaseException as error:
            self._failed = True
            if isinstance(error, checks.RowError):
                raise error.counted_from(first) from None
            if isinstance(error, OSError):
                raise cannot_write(self.path, error) from error
            raise

    def _append_block(self, block: Mapping[str, Any]) -> None:
        self._digest.update(block)
        states, following = _by_key(block["observations"]), _by_key(block["next_observations"])
        if self._following and (
            self._begins_recording
            or any(differ_in_bits(self._following[key], state[:1]).any() for key, state in states.items())
        ):
            self._append_breaks(np.array([-1]), self._following)
        self._begins_recording = False
        broken = np.zeros(len(block["rewards"]), bool)
        for key, state in states.items():
            broken[:-1] |= differ_in_bits(following[key][:-1], state[1:])
            self._writers[file_name("observations", key)].append(state)
        rows = np.flatnonzero(broken)
        self._append_breaks(rows, {key: value[rows] for key, value in following.items()})
        for key in COLUMNS:
            self._writers[file_name(key)].append(block[key])
        self._following = {key: value[-1:].copy() for key, value in following.items()}
        self._episodes += int(np.count_nonzero(block["dones"]))
        self._open_episode = not block["dones"][-1]
        self.transitions += len(broken)

    def _append_breaks(self, rows: np.ndarray, following: dict[str | None, np.ndarray]) -> None:
        """Transitions of the present block, −1 for the one before it, whose next observations are not the next rows."""
        self._writers[file_name("breaks")].append((rows + self.transitions).astype(np.int64))
        for key, value in following.items():
            self._writers[file_name("break_observations", key)].append(value)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._finish()

    def _finish(self) -> None:
        if self._failed:
            raise DatasetError(f"{self.path}: not written: what was appended before was refused")
        if self.transitions == 0:
            raise DatasetError(f"{self.path}: not written: no transitions were appended, expected at least one")
        _require_json(self.path, self.metadata)
        with self._failures_named():
            for key, value in self._following.items():
                self._writers[file_name("observations", key)].append(value)
            description = {
                "format": FORMAT,
                "version": VERSION,
                "transitions": self.transitions,
                "episodes": self._episodes + self._open_episode,
                "checksum": self._digest.hexdigest(),
                "observation_space": described_spaces.describe(self.observation_space),
                "action_space": described_spaces.describe(self.action_space),
                "arrays": {name: writer.finish() for name, writer in self._writers.items()},
                "metadata": self.metadata,
            }
            with (self._partial / DESCRIPTION).open("x", encoding="utf-8") as file:
                file.write(json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def save(
    buffer: OfflineReplayBuffer,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes all transitions of a buffer, bit for bit; memory does not grow with them.

    What several environments gathered is written environment after environment, each in the order of time: episodes
    stay together, and returns over several steps are the same. Only the order of the transitions is another one, and
    with it the checksum.

    :param buffer: of any kind.
    :param path: of the folder; as for :class:`DatasetWriter`, which says what is raised.
    :param metadata: the buffer's own when None.
    :param overwrite: replace a data set that has this name.
    """
    metadata = buffer.metadata if metadata is None else metadata
    writer = DatasetWriter(path, buffer.observation_space, buffer.action_space, metadata, overwrite)
    with writer:
        writer.append_buffer(buffer)


def load(path: str | os.PathLike[str], *, device: torch.device | str = "auto") -> StoredReplayBuffer:
    """A data set of this format, without reading its arrays: they stay in their files.

    :param path: of the folder.
    :param device: where batches will be drawn.
    :raises DatasetError: no such folder, a missing, truncated or foreign file, or a version from the future. What is
        in the arrays is checked by ``dipole data check``.
    """
    path = Path(path)
    description = read_description(path)
    observation_space, action_space = described_spaces_of(path, description)
    buffer = StoredReplayBuffer.over(
        open_files(path, description), observation_space, action_space, device, path, description["checksum"]
    )
    buffer.metadata = description["metadata"]
    return buffer


def damages(path: Path) -> list[str]:
    """What is wrong with the files of a data set, one sentence for each; reads all of them.

    :param path: of the folder.
    :raises DatasetError: it has no usable ``dataset.json``.
    """
    description = read_description(path)
    observation_space, action_space = described_spaces_of(path, description)
    found = []
    for name, (_, shape, dtype) in layout(
        observation_space, action_space, description["transitions"], noted_breaks(path, description)
    ).items():
        try:
            digest = NpyFile(path / name, shape, dtype).sha256()
        except DatasetError as error:
            found.append(str(error))
            continue
        expected = description["arrays"].get(name, {}).get("sha256")
        if digest != expected:
            found.append(f"{path / name}: its content has changed: SHA-256 is {digest}, expected {expected}")
    return found


def _by_key(value: Any) -> dict[str | None, np.ndarray]:
    return value if isinstance(value, dict) else {None: value}


def _require_json(path: Path, metadata: Mapping[str, Any]) -> None:
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its metadata cannot be written as JSON ({error})") from error
