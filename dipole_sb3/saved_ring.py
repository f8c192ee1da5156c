"""What a replay buffer has gathered, as arrays for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class SavedRing:
    """Gives and takes the contents of a plain ring buffer, all of which counts as gathered online."""

    buffer_size: int
    pos: int
    full: bool
    _mirror: dict[str, Any] | None

    def size(self) -> int:
        raise NotImplementedError

    def online_state(self) -> dict[str, Any]:
        """The rows that hold transitions (views, no copies), where the next one goes, and how many there is room for.

        :return: arrays by name; observations of a Dict space as a mapping of arrays.
        """
        rows = self.size()
        columns = {name: _map(getattr(self, name), lambda array: array[:rows]) for name in _COLUMNS}
        return {**columns, "pos": np.array(self.pos), "capacity": np.array(self.buffer_size)}

    def restore_online(self, state: dict[str, Any]) -> None:
        """Goes back to what :meth:`online_state` gave, in a buffer of the same spaces and number of environments."""
        self.buffer_size, self.pos = int(state["capacity"]), int(state["pos"])
        self.full = len(state["rewards"]) == self.buffer_size
        self._mirror = None
        for name in _COLUMNS:
            setattr(self, name, _map(state[name], self._ring))

    def _ring(self, rows: np.ndarray) -> np.ndarray:
        ring = np.zeros((self.buffer_size, *rows.shape[1:]), rows.dtype)
        ring[: len(rows)] = rows
        return ring


def _map(value: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Of an array, or of each array of a mapping."""
    return {key: function(array) for key, array in value.items()} if isinstance(value, dict) else function(value)
