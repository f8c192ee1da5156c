"""A buffer's arrays as tensors on the device where batches are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.observations import mapped, together

ObservationTensors = Tensor | dict[str, Tensor]


class DeviceMirror:
    """Tensors of a buffer's arrays, [rows · n_envs, ...]: on the CPU views of the same memory, elsewhere copies.

    A growing ring sends only the rows that were added since the last call.

    :param device: where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[str, ObservationTensors] = {}

    def of(self, name: str, array: ObservationArrays) -> Any:
        """The tensor (or dict of those) of an array (or dict of those) [rows, n_envs, ...]; made once for each name."""
        if name not in self._tensors:
            self._tensors[name] = mapped(lambda part: _flat(part).to(self.device), array)
        return self._tensors[name]

    def send(self, arrays: Callable[[str], ObservationArrays], first: int, count: int) -> None:
        """Copies ``count`` rows of the ring from row ``first`` on, where the tensors are not views of them.

        :param arrays: the present array of each name.
        """
        for name, tensors in self._tensors.items():
            for source, target in together(arrays(name), tensors):
                _copy_rows(source, target, first, count)


def _copy_rows(source: np.ndarray, target: Tensor, first: int, count: int) -> None:
    if target.data_ptr() == source.ctypes.data:
        return
    size, n_envs = source.shape[:2]
    for rows in ring_slices(first, count, size):
        target[rows.start * n_envs : rows.stop * n_envs] = _flat(source[rows])


def ring_slices(first: int, count: int, size: int) -> Iterator[slice]:
    """``count`` ≤ ``size`` rows from ``first`` on, in a ring of ``size`` rows, as one slice or two."""
    first %= size
    yield slice(first, min(first + count, size))
    if first + count > size:
        yield slice(0, first + count - size)


def _flat(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.reshape(-1, *array.shape[2:]))
