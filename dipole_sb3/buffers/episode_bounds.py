"""Where the episodes of a buffer begin, and how long they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dipole_sb3.buffers import goals
from dipole_sb3.buffers.n_step_windows import find_breaks
from dipole_sb3.common.checks import ObservationArrays


class EpisodeBounds(NamedTuple):
    """Of every transition [rows, n_envs], int64.

    =======  ==========================================================================
    starts   row of its episode's first transition
    lengths  transitions of its episode; 0 where the episode is not over, or not whole
    =======  ==========================================================================
    """

    starts: np.ndarray
    lengths: np.ndarray


def empty_bounds(rows: int, n_envs: int) -> EpisodeBounds:
    """Of transitions that belong to no finished episode."""
    return EpisodeBounds(np.zeros((rows, n_envs), np.int64), np.zeros((rows, n_envs), np.int64))


class RingEpisodes:
    """The episodes of a ring that grows by a row at a time.

    :param rows: of the ring.
    :param n_envs: environments that write at a time.
    """

    def __init__(self, rows: int, n_envs: int) -> None:
        self.bounds = empty_bounds(rows, n_envs)
        self.running_since = np.zeros(n_envs, np.int64)
        """Row where the running episode of every environment began; the next row to write where none is running."""

    def __getstate__(self) -> dict[str, Any]:
        # The rows that nothing was written to are zeros.
        used = np.flatnonzero(np.any([array.any(axis=1) for array in self.bounds], axis=0))
        rows = used[-1] + 1 if len(used) else 0
        written = EpisodeBounds(*(array[:rows] for array in self.bounds))
        return {"rows": len(self.bounds.starts), "written": written, "running_since": self.running_since}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.running_since = state["running_since"]
        self.bounds = empty_bounds(state["rows"], len(self.running_since))
        for array, written in zip(self.bounds, state["written"], strict=True):
            array[: len(written)] = written

    def begin_row(self, row: int) -> bool:
        """Before a row is written; whether an episode is thereby no longer whole."""
        starts, lengths = self.bounds
        overwritten = np.flatnonzero(lengths[row])
        for column in overwritten:
            rest = np.arange(row, starts[row, column] + lengths[row, column])
            lengths[rest % len(lengths), column] = 0
        starts[row] = self.running_since
        return len(overwritten) > 0

    def end(self, ended: np.ndarray, next_row: int) -> bool:
        """Ends running episodes; whether there are any.

        :param ended: [n_envs], bool: whose.
        :param next_row: to be written next.
        """
        starts, lengths = self.bounds
        for column in np.flatnonzero(ended):
            start = self.running_since[column]
            # An episode that fills the ring has come back to its own first row.
            length = (next_row - start - 1) % len(lengths) + 1
            rows = (start + np.arange(length)) % len(lengths)
            starts[rows, column], lengths[rows, column] = start, length
            self.running_since[column] = next_row
        return bool(np.any(ended))


def bounds_between(breaks: np.ndarray) -> EpisodeBounds:
    """The episodes between breaks.

    :param breaks: [rows, n_envs], bool: whether an episode ends with the transition. The last row ends all of them.
    """
    found = empty_bounds(*breaks.shape)
    for column in range(breaks.shape[1]):
        ends = np.union1d(np.flatnonzero(breaks[:, column]), [len(breaks) - 1])
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts + 1
        found.starts[:, column], found.lengths[:, column] = np.repeat(starts, lengths), np.repeat(lengths, lengths)
    return found


def find_bounds(
    observations: ObservationArrays,
    next_observations: ObservationArrays,
    dones: np.ndarray,
    cuts: np.ndarray | None = None,
) -> EpisodeBounds:
    """The episodes of transitions in the order in which they were recorded.

    An episode ends where ``dones`` is 1, and where the next row does not go on from it: a recording that was cut. The
    desired goal may change within an episode.

    :param observations: [rows, n_envs, *observation], or a dict of those.
    :param next_observations: the same.
    :param dones: [rows, n_envs].
    :param cuts: rows that end a recording whatever follows; None: none are known.
    """
    states, following = (without_desired_goal(value) for value in (observations, next_observations))
    breaks = find_breaks(states, following, dones, len(dones) - 1)
    if cuts is not None:
        breaks[cuts] = True
    return bounds_between(breaks)


def without_desired_goal(observations: ObservationArrays) -> ObservationArrays:
    """What the steps of an episode have in common with the steps before them."""
    if not isinstance(observations, dict):
        return observations
    return {key: array for key, array in observations.items() if key != goals.DESIRED}
