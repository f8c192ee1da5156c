"""Windows of n consecutive transitions, for n-step returns: where they end, and how many transitions count."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dipole_sb3.common.checks import ObservationArrays
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.observations import together

_BYTES_AT_ONCE = 64 * 2**20
"""Recorded observations are compared a part at a time: a memory-mapped set is read, not loaded."""


class Windows(NamedTuple):
    """The transitions from which n-step returns are made.

    =======  ======================================================================================
    rows     [batch, n], flat indices of the transitions; those after the last one that counts are others'
    counts   [batch, n], 1 where a transition counts, else 0; the first always does
    steps    [batch], how many count, 1 to n
    last     [batch], flat index of the last one that counts
    =======  ======================================================================================
    """

    rows: Tensor
    counts: Tensor
    steps: Tensor
    last: Tensor


def windows(indices: Tensor, breaks: Tensor, n_steps: int, n_envs: int) -> Windows:
    """The windows that begin at ``indices``; all shapes are fixed by the arguments' shapes.

    :param indices: [batch], flat (row · n_envs + environment).
    :param breaks: [rows · n_envs], whether the next row of the same environment does not continue the transition.
    :param n_steps: n ≥ 1, transitions in a whole window.
    :param n_envs: environments that write at a time.
    """
    steps = torch.arange(n_steps, device=indices.device)
    rows = (indices[:, None] + steps * n_envs) % len(breaks)
    continued = (~breaks[rows[:, :-1]]).to(torch.float32).cumprod(1)
    counts = torch.cat([continued.new_ones(len(rows), 1), continued], 1)
    counted = counts.sum(1).long()
    return Windows(rows, counts, counted, rows.gather(1, counted[:, None] - 1)[:, 0])


def find_breaks(
    observations: ObservationArrays, next_observations: ObservationArrays, dones: np.ndarray, newest: int
) -> np.ndarray:
    """Where the row after a transition is not its continuation: [rows, n_envs], bool.

    An episode ended there, or the row after it begins elsewhere (recordings that were cut, shuffled or put together;
    a ring's oldest row after its newest; an environment that was reset in the middle of an episode). A return may be
    cut at any place: it then bootstraps from the transition's own next observation.

    :param observations: [rows, n_envs, *observation], or a dict of those.
    :param next_observations: the same.
    :param dones: [rows, n_envs], 1 where an episode ended.
    :param newest: the row that was written last.
    """
    rows = len(dones)
    breaks = dones > 0
    for following, leading in together(observations, next_observations):
        at_once = max(1, _BYTES_AT_ONCE * rows // max(1, leading.nbytes))
        for start in range(0, rows, at_once):
            stop = min(start + at_once, rows)
            breaks[start:stop] |= differ(leading[start:stop], following[np.arange(start + 1, stop + 1) % rows])
    breaks[newest] = True
    return breaks


def differ(leading: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Whether two arrays [rows, n_envs, ...] differ anywhere, by row and environment."""
    return np.asarray((leading != following).reshape(*leading.shape[:2], -1).any(-1))


def require_consecutive(source: str, dones: np.ndarray, breaks: np.ndarray, argument: str) -> None:
    """Refuses data whose rows do not follow each other, where an argument needs what came before or after.

    :param dones: [rows, n_envs].
    :param breaks: of :func:`find_breaks`.
    :param argument: name and value, for the message.
    :raises DatasetError: they are in another order than that in which they were recorded.
    """
    open_ended, continued = int((dones == 0).sum()) - dones.shape[1], int((~breaks).sum())
    if not follow_each_other(continued, open_ended):
        raise DatasetError(
            f"{source}: {argument} needs transitions in the order in which they were recorded: found "
            f"{continued or 'no'} rows whose next observation is the observation of the row after them, among "
            f"{open_ended} that end neither an episode nor the data"
        )


def follow_each_other(continued: int, open_ended: int) -> bool:
    """Whether rows are in the order in which they were recorded.

    :param continued: number of rows whose next observation is the observation of the row after them. Shuffled data have
        about one, by accident, whatever their size.
    :param open_ended: number of rows that do not end an episode.
    """
    return continued >= 0.1 * open_ended
