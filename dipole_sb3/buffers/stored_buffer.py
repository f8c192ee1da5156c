"""A replay buffer over files, for data that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.assembled_rows import AssembledRows
from dipole_sb3.buffers.device_mirror import ObservationTensors
from dipole_sb3.buffers.n_step_windows import windows
from dipole_sb3.buffers.offline_buffer import Batch, OfflineReplayBuffer
from dipole_sb3.buffers.stored_arrays import StoredArrays, open_arrays, part_of, unkeyed
from dipole_sb3.common.checks import ObservationArrays


class StoredReplayBuffer(OfflineReplayBuffer):
    """Recorded transitions that stay in their files; made by :func:`dipole_sb3.datasets.storage.load`.

    It gives the same batches for the same generator as the same data in memory. ``observations``, ``actions``,
    ``rewards``, ``dones`` and ``timeouts`` are read-only memory maps; ``next_observations`` is assembled when it is
    indexed. Pickled, it is the folder's path and the checksum of what must lie there.
    """

    _arrays: StoredArrays
    _folder: Path

    @classmethod
    def over(
        cls,
        arrays: StoredArrays,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str,
        folder: Path,
        checksum: str,
    ) -> StoredReplayBuffer:
        """A full buffer over files whose shapes fit the spaces."""
        buffer = cls(1, observation_space, action_space, device)
        buffer._arrays, buffer._folder, buffer._checksum = arrays, folder, checksum
        buffer.buffer_size, buffer.pos, buffer.full, buffer.source = len(arrays), 0, True, str(folder)
        buffer._open()
        return buffer

    def _open(self) -> None:
        arrays, space = self._arrays, self.observation_space
        observations = unkeyed({key: file.map[:-1, None] for key, file in arrays.observations.items()})
        self.observations = image_layout.transposed(observations, space)
        self.next_observations = unkeyed({key: self._following(key) for key in arrays.observations})
        for key, file in arrays.columns.items():
            setattr(self, key, file.map[:, None])

    def _following(self, key: str | None) -> AssembledRows:
        """s' of every transition."""

        def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            found: np.ndarray = part_of(self._observation_pairs(rows, columns)[1], key)
            return found

        shown = part_of(self.observations, key)
        return AssembledRows(shown.shape, shown.dtype, at)

    @property
    def resident(self) -> bool:
        return False

    def take(self, indices: Tensor, n_steps: int = 1, next_actions: bool = False) -> Batch:
        last = rows = indices.cpu().numpy()
        if n_steps == 1:
            columns = {key: self._column(key, rows) for key in self._arrays.columns}
            observations, following = (self._tensors_of(value) for value in self._observation_pairs(rows, rows))
            masks = 1.0 - columns["dones"] * (1.0 - columns["timeouts"])
            batch = Batch(observations, columns["actions"], columns["rewards"], following, masks)
        else:
            window = windows(indices.cpu(), torch.from_numpy(self.breaks()[:, 0]), n_steps, 1)
            last = window.last.numpy()
            rewards = self._column("rewards", window.rows.numpy().reshape(-1)).reshape(-1, n_steps)
            batch = Batch(
                self._tensors_of(self._observation_pairs(rows, rows)[0]),
                self._column("actions", rows),
                rewards * window.counts.to(self.device),
                self._tensors_of(self._observation_pairs(last, last)[1]),
                1.0 - self._column("dones", last) * (1.0 - self._column("timeouts", last)),
                window.steps.to(self.device),
            )
        if not next_actions:
            return batch
        continues = self._to_device((~self.breaks()[last, 0]).astype(np.float32))
        return batch._replace(next_actions=self._column("actions", (last + 1) % self.size()), continues=continues)

    take.__doc__ = OfflineReplayBuffer.take.__doc__

    def observations_at(self, indices: Tensor, key: str | None = None) -> Tensor:
        rows = self._arrays.observations[key].take(indices.cpu().numpy())[:, 0]
        laid_out = image_layout.transposed(rows, part_of(self.observation_space, key), 1)
        assert isinstance(laid_out, np.ndarray)
        return self._to_device(laid_out)

    observations_at.__doc__ = OfflineReplayBuffer.observations_at.__doc__

    def breaks(self) -> np.ndarray:
        if self._breaks is None:
            self._breaks = self.dones > 0
            self._breaks[self._arrays.breaks.map] = True
            self._breaks[-1] = True
        return self._breaks

    breaks.__doc__ = OfflineReplayBuffer.breaks.__doc__

    def _column(self, key: str, rows: np.ndarray) -> Tensor:
        return self._to_device(self._arrays.columns[key].take(rows)[:, 0])

    def _observation_pairs(self, rows: np.ndarray, columns: np.ndarray) -> tuple[ObservationArrays, ObservationArrays]:
        one, other = self._arrays.pairs(rows)
        return image_layout.transposed(one, self.observation_space, 1), image_layout.transposed(
            other, self.observation_space, 1
        )

    def _tensors_of(self, value: ObservationArrays) -> ObservationTensors:
        if isinstance(value, dict):
            return {key: self._to_device(array) for key, array in value.items()}
        return self._to_device(value)

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def blocks(self, rows: int | None = None) -> Iterator[dict[str, Any]]:
        return self._blocks_between(0, self.size(), rows)

    blocks.__doc__ = OfflineReplayBuffer.blocks.__doc__

    def recordings(self, rows: int | None = None) -> Iterator[Iterator[dict[str, Any]]]:
        ends = [*(self.ends_of_recordings() + 1).tolist(), self.size()]
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            yield self._blocks_between(start, stop, rows)

    recordings.__doc__ = OfflineReplayBuffer.recordings.__doc__

    def ends_of_recordings(self) -> np.ndarray:
        return self._arrays.ends_of_recordings()

    ends_of_recordings.__doc__ = OfflineReplayBuffer.ends_of_recordings.__doc__

    def _blocks_between(self, first: int, last: int, rows: int | None) -> Iterator[dict[str, Any]]:
        rows = image_layout.rows_per_block(self._row_bytes()) if rows is None else rows
        for start in range(first, last, rows):
            block = self._arrays.block(start, min(start + rows, last))
            for key in ("observations", "next_observations"):
                block[key] = image_layout.transposed(block[key], self.observation_space, 1)
            yield block

    def add(self, *_: Any, **__: Any) -> None:
        """Refuses: what was recorded stays as it is.

        :raises ValueError: always.
        """
        raise ValueError(f"{self.source}: recorded data are not written to; a MixedReplayBuffer gathers beside them")

    def in_memory(self) -> OfflineReplayBuffer:
        """The same transitions as arrays in memory.

        Recordings that were cut in the middle of an episode are told apart by their observations alone there.
        """
        buffer = OfflineReplayBuffer(1, self.observation_space, self.action_space, self.device)
        buffer.buffer_size, buffer.pos, buffer.full = self.buffer_size, 0, True
        buffer.source, buffer.metadata, buffer.validation = self.source, self.metadata, self.validation
        buffer._checksum = self._checksum
        (block,) = self.blocks(self.size())
        for key, value in block.items():
            rows = (
                {name: array[:, None] for name, array in value.items()} if isinstance(value, dict) else value[:, None]
            )
            setattr(buffer, key, rows)
        return buffer

    def tensors(self) -> dict[str, Any]:
        """All arrays as tensors on the buffer's device, read into memory at each call; batches do not need them."""
        return self.in_memory().tensors()

    def _with_observation_space(self, space: spaces.Space[Any]) -> OfflineReplayBuffer:
        if image_layout.same_shapes(space, self.observation_space):
            return self
        assert self._checksum is not None
        other = type(self).over(self._arrays, space, self.action_space, self.device, self._folder, self._checksum)
        other.source, other.metadata = self.source, self.metadata
        if self.validation is not None:
            other.validation = self.validation._with_observation_space(space)
        return other

    def __getstate__(self) -> dict[str, Any]:
        in_files = {"_arrays", "observations", "next_observations", "actions", "rewards", "dones", "timeouts"}
        kept = {key: value for key, value in self.__dict__.items() if key not in in_files}
        return {**kept, "_mirror": None, "_breaks": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrays = open_arrays(self._folder, self._checksum)
        self._open()
