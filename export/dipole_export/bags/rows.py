"""Transitions of a recording, on their way to a file or a stored data set."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Observation = NDArray[Any] | Mapping[str, NDArray[Any]]
"""As the policy takes it: an array, or arrays by key."""
_LARGEST = 1 << 26
"""Bytes that are collected before they are handed over."""


class Rows:
    """Transitions in growing columns: the bytes of the result, and no other copies.

    :param flush: takes :meth:`arrays` whenever enough of them are there; they are dropped then. None: all are kept.
    """

    def __init__(self, flush: Callable[[dict[str, np.ndarray]], None] | None = None) -> None:
        self._flush = flush
        self.episodes = 0
        """That have ended."""
        self.total_reward = 0.0
        self._dropped = 0
        self._forms: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._columns: dict[str, bytearray] = {}
        self._scalars = {key: array("f") for key in ("rewards", "terminals", "masks")}

    def __len__(self) -> int:
        return self._dropped + len(self._scalars["rewards"])

    def append(
        self,
        observation: Observation,
        action: NDArray[np.float32],
        reward: float,
        following: Observation,
        is_terminal: bool,
    ) -> None:
        if self._flush is not None and sum(map(len, self._columns.values())) >= _LARGEST:
            self._hand_over(self._flush)
        for name, value in (("observations", observation), ("actions", action), ("next_observations", following)):
            parts = (
                {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
            )
            for column, part in parts.items():
                self._forms.setdefault(column, (part.shape, part.dtype))
                self._columns.setdefault(column, bytearray()).extend(part.tobytes())
        self._scalars["rewards"].append(reward)
        self._scalars["terminals"].append(float(is_terminal))
        self._scalars["masks"].append(float(not is_terminal))
        self.episodes += is_terminal
        self.total_reward += self._scalars["rewards"][-1]

    def end_episode(self) -> None:
        """Marks the last row as the end of its episode."""
        if len(self):
            self.episodes += not self._scalars["terminals"][-1]
            self._scalars["terminals"][-1] = 1.0

    def finish(self) -> None:
        """Hands over the last rows."""
        if self._flush is not None:
            self._hand_over(self._flush)

    def _hand_over(self, flush: Callable[[dict[str, np.ndarray]], None]) -> None:
        flush(self.arrays())
        self._dropped = len(self)
        self._columns = {}
        self._scalars = {key: array("f") for key in self._scalars}

    def arrays(self) -> dict[str, np.ndarray]:
        """float32 arrays and uint8 pictures, by the keys of :func:`dipole_sb3.datasets.files.load`."""
        columns = {
            name: np.frombuffer(column, self._forms[name][1]).reshape(-1, *self._forms[name][0])
            for name, column in self._columns.items()
        }
        return {**columns, **{key: np.frombuffer(column, np.float32) for key, column in self._scalars.items()}}
