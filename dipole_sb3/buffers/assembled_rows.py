"""What reads like an array of a replay buffer, but is put together from elsewhere when it is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


class AssembledRows:
    """Reads like an array [rows, n_envs, *observation]; what is read are copies.

    :param shape: of all.
    :param dtype: of the elements.
    :param at: the observations in rows and columns, int64 [n] each, as [n, *observation].
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], at: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> None:
        self.shape, self.dtype, self._at = shape, dtype, at
        self.ndim = len(shape)
        self.nbytes = dtype.itemsize * math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if isinstance(first, slice):
            rows = np.arange(*first.indices(len(self)))
        else:
            rows = np.asarray(first)
            rows = np.flatnonzero(rows) if rows.dtype == bool else rows
            if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
                raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
            rows = rows.astype(np.int64) % len(self)
        columns = np.arange(self.shape[1])
        if rest and not isinstance(rest[0], slice):
            rows, columns = np.broadcast_arrays(rows, columns[rest[0]])
            values = self._at(rows.reshape(-1), columns.reshape(-1))
            return values.reshape(*rows.shape, *self.shape[2:])[(slice(None),) * rows.ndim + rest[1:]]
        flat = rows.reshape(-1)
        values = self._at(np.repeat(flat, len(columns)), np.tile(columns, len(flat)))
        return values.reshape(*rows.shape, *self.shape[1:])[(slice(None),) * rows.ndim + rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)
