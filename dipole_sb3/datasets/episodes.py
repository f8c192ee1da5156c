"""A buffer's transitions cut into episodes, for formats that keep observations once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from dipole_sb3.buffers.action_units import in_environment_units
from dipole_sb3.buffers.array_conventions import joined, sliced
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.buffers.stored_arrays import differ_in_bits
from dipole_sb3.common import checks


class Piece(NamedTuple):
    """Transitions of an episode in a row, each of which begins where the one before it led.

    :param observations: by key, of a single one None, in the space's shapes; one more than transitions, the last one
        being where they led, in an episode's last piece, else as many.
    :param actions: [T, *action], in the environment's units.
    :param rewards: [T] float32.
    :param last: whether it is its episode's last one.
    :param ended: whether its last transition ends an episode; a last piece without an end is one where the recording
        stops, or goes on elsewhere.
    :param by_time: whether it is a time limit that ends it.
    """

    observations: dict[str | None, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    last: bool
    ended: bool
    by_time: bool


def pieces(buffer: OfflineReplayBuffer) -> Iterator[Piece]:
    """All transitions of a buffer, environment after environment, each in the order of time, cut into episodes.

    Only an episode's last transition has ended or leads elsewhere, so nothing is lost: the same transitions, bit for
    bit, can be made of the episodes again. In memory is a block of the buffer, however long an episode is.
    """
    for recording in buffer.recordings():
        carried: dict[str, Any] | None = None
        for new in recording:
            block = new if carried is None else joined(carried, new)
            start = 0
            for end in _ends(block):
                yield _piece(sliced(block, slice(start, end)), buffer, last=True)
                start = end
            # Whether anything follows on the last row, the next block tells.
            rest = max(start, len(block["rewards"]) - 1)
            if start < rest:
                yield _piece(sliced(block, slice(start, rest)), buffer, last=False)
            carried = sliced(block, slice(rest, None))
        if carried is not None and len(carried["rewards"]):
            yield _piece(carried, buffer, last=True)


def episodes(buffer: OfflineReplayBuffer) -> Iterator[Piece]:
    """The same with every episode in one piece; in memory is one episode."""
    parts: list[Piece] = []
    for piece in pieces(buffer):
        parts.append(piece)
        if piece.last:
            keys = piece.observations
            yield piece._replace(
                observations={key: np.concatenate([part.observations[key] for part in parts]) for key in keys},
                actions=np.concatenate([part.actions for part in parts]),
                rewards=np.concatenate([part.rewards for part in parts]),
            )
            parts = []


def _ends(block: dict[str, Any]) -> list[int]:
    """Rows with which something else begins, where the block tells."""
    breaks = block["dones"] != 0
    for (_, state), (_, following) in zip(
        checks.named_arrays("", block["observations"]),
        checks.named_arrays("", block["next_observations"]),
        strict=True,
    ):
        breaks[:-1] |= differ_in_bits(following[:-1], state[1:])
    return [int(row) + 1 for row in np.flatnonzero(breaks)]


def _piece(rows: dict[str, Any], buffer: OfflineReplayBuffer, last: bool) -> Piece:
    states, following = (
        value if isinstance(value, dict) else {None: value}
        for value in (rows["observations"], rows["next_observations"])
    )
    return Piece(
        {
            key: np.concatenate([state, following[key][-1:]] if last else [state]).reshape(
                -1, *_shape(buffer.observation_space, key)
            )
            for key, state in states.items()
        },
        in_environment_units(rows["actions"], buffer.action_space),
        rows["rewards"],
        last,
        bool(rows["dones"][-1]),
        bool(rows["timeouts"][-1]),
    )


def _shape(space: spaces.Space[Any], key: str | None) -> tuple[int, ...]:
    part = space[key] if isinstance(space, spaces.Dict) and key is not None else space
    return part.shape or ()
