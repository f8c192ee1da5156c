"""A ring that stores observations once: the next observation of a transition is that of the next row, where it can."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dipole_sb3.buffers.assembled_rows import AssembledRows
from dipole_sb3.buffers.device_mirror import ObservationTensors
from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.observations import mapped, together

_NO_SLOT = -1

_ROWS_AT_ONCE = 4096


class SharedNextObservations:
    """Next observations of a ring of rows, of which only those are kept that are not the observations of the next row.

    Those are the last observations of episodes, and those of the newest row: every transition keeps its own.

    :param observations: of the ring, [rows, n_envs, *observation], or a dict of those; read, never written.
    """

    def __init__(self, observations: ObservationArrays) -> None:
        self._observations = observations
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        self.rows, self.n_envs = first.shape[:2]
        self.slots: np.ndarray = np.full((self.rows, self.n_envs), _NO_SLOT, np.int64)
        """Where the next observation of a transition is kept, [rows, n_envs]; −1: it is the next row's observation."""
        self._free: list[int] = []
        self._kept: ObservationArrays = mapped(lambda array: array[:0, 0].copy(), observations)
        self._tensors: ObservationTensors | None = None
        self._changed: set[int] = set()

    def views(self) -> Any:
        """What stands for ``next_observations``: read like an array, or a dict of those."""

        def view(array: np.ndarray, key: str | None) -> AssembledRows:
            return AssembledRows(array.shape, array.dtype, partial(self.at, key=key))

        if isinstance(self._observations, dict):
            return {key: view(array, key) for key, array in self._observations.items()}
        return view(self._observations, None)

    def write(self, row: int, next_observations: Any) -> None:
        """A new row, whose observations are written already; the row before keeps its own next ones where they differ.

        :param next_observations: [n_envs, *observation], or a dict of those.
        """
        previous = (row - 1) % self.rows
        if previous != row:
            for column in np.flatnonzero(self.slots[previous] != _NO_SLOT):
                slot = self.slots[previous, column]
                if all(_same(kept[slot], now[row, column]) for kept, now in together(self._kept, self._observations)):
                    self._free.append(int(slot))
                    self.slots[previous, column] = _NO_SLOT
        overwritten = self.slots[row]
        self._free.extend(overwritten[overwritten != _NO_SLOT].tolist())
        self.slots[row] = self._reserved(self.n_envs)
        for kept, given in together(self._kept, next_observations):
            kept[self.slots[row]] = np.asarray(given).reshape(self.n_envs, *kept.shape[1:])
        self._changed.update(self.slots[row].tolist())

    def fill(self, next_observations: ObservationArrays, newest: int) -> None:
        """Replaces everything.

        :param next_observations: [filled rows, n_envs, *observation], or a dict of those, beside observations that are
            written already.
        :param newest: the row that was written last.
        """
        filled = len(next(iter(together(next_observations)))[0])
        kept = np.zeros((filled, self.n_envs), bool)
        for given, now in together(next_observations, self._observations):
            for start in range(0, filled, _ROWS_AT_ONCE):
                rows = np.arange(start, min(start + _ROWS_AT_ONCE, filled))
                kept[rows] |= (_bytes(given[rows]) != _bytes(now[(rows + 1) % self.rows])).any(-1)
        kept[newest] = True
        self.slots[:] = _NO_SLOT
        self._free, self._tensors = [], None
        count = int(kept.sum())
        self.slots[:filled][kept] = np.arange(count)
        self._kept = mapped(lambda given: given[kept], next_observations)

    def at(self, rows: np.ndarray, columns: np.ndarray, key: str | None) -> np.ndarray:
        """Copies of the next observations of transitions, [n, *observation]."""
        observations: Any = self._observations if key is None else self._observations[key]
        kept: Any = self._kept if key is None else self._kept[key]
        values: np.ndarray = observations[(rows + 1) % self.rows, columns]
        slots = self.slots[rows, columns]
        own = slots != _NO_SLOT
        values[own] = kept[slots[own]]
        return values

    def take(self, indices: Tensor, slots: Tensor, observations: ObservationTensors) -> ObservationTensors:
        """The same of flat indices, on the device.

        :param indices: [n].
        :param slots: the slots as a tensor, [rows · n_envs].
        :param observations: those of the ring as tensors [rows · n_envs, *observation].
        """
        slot, following = slots[indices], (indices + self.n_envs) % (self.rows * self.n_envs)

        def chosen(now: Tensor, kept: Tensor) -> Tensor:
            own = (slot != _NO_SLOT).view(-1, *[1] * (now.ndim - 1))
            return torch.where(own, kept[slot.clamp(min=0)], now[following])

        return mapped(chosen, observations, self._kept_on(slots.device))  # type: ignore[no-any-return]

    def _kept_on(self, device: torch.device) -> ObservationTensors:
        """What is kept as tensors; on the CPU views of the same memory, elsewhere only what has changed is sent."""
        if self._tensors is None or next(iter(together(self._tensors)))[0].device != device:
            self._tensors = mapped(lambda kept: torch.from_numpy(kept).to(device), self._kept)
        elif self._changed and not self._shares_memory(device):
            changed = sorted(self._changed)
            for kept, tensor in together(self._kept, self._tensors):
                tensor[changed] = torch.from_numpy(kept[changed]).to(device)
        self._changed.clear()
        assert self._tensors is not None
        return self._tensors

    @staticmethod
    def _shares_memory(device: torch.device) -> bool:
        return device.type == "cpu"

    def _reserved(self, count: int) -> list[int]:
        missing = count - len(self._free)
        if missing > 0:
            have = len(next(iter(together(self._kept)))[0])
            more = max(missing, have)
            self._kept = mapped(
                lambda kept: np.concatenate([kept, np.zeros((more, *kept.shape[1:]), kept.dtype)]), self._kept
            )
            self._tensors = None
            self._free.extend(range(have + more - 1, have - 1, -1))
        return [self._free.pop() for _ in range(count)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tensors": None}


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """To the bit: −0 is not 0."""
    return one.tobytes() == other.tobytes()


def _bytes(rows: np.ndarray) -> np.ndarray:
    """[rows, n_envs, bytes]."""
    return np.ascontiguousarray(rows).reshape(*rows.shape[:2], -1).view(np.uint8)
