"""What recorded arrays mean: the conventions of D4RL, d3rlpy, SB3 and OGBench, in one set of words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dipole_sb3.buffers import image_layout
from dipole_sb3.common import checks
from dipole_sb3.common.checks import RowError
from dipole_sb3.common.errors import DatasetError

TRANSITION_KEYS = ("observations", "actions", "rewards", "next_observations")
END_KEYS = ("terminals", "dones", "timeouts", "masks")


def transition_blocks(source: str, arrays: Mapping[str, Any], *, whole: bool = False) -> Iterator[dict[str, Any]]:
    """Recorded arrays as transitions: the keys of :data:`TRANSITION_KEYS`, and ``terminals`` and/or ``masks``.

    Whatever the arrays come from, they mean the same. Keys, T rows each:

    =================  ==============================================================================
    observations       [T, *observation], or a mapping of those
    actions            [T, action], in the environment's units
    rewards            [T]
    next_observations  as observations
    terminals          [T], 1 where an episode ended; ``dones`` is another name for it
    timeouts           [T], 1 where a time limit ended the episode and the value goes on (optional);
                       inside the terminals, as in SB3, or beside them, as in D4RL and d3rlpy
    masks              [T], 0 only where bootstrapping must stop; instead of, or beside, the two above
    =================  ==============================================================================

    Other keys are ignored. With neither ``masks`` nor ``timeouts``, every terminal stops bootstrapping.

    Without ``next_observations`` a transition's next observation is the observation of the next row, exactly as in
    ``d4rl.qlearning_dataset``. A row at which a time limit ended the episode has no next observation, nor has the last
    row: both are left out, and the episode ends at the row before, without stopping the bootstrap. After a real end
    comes the next episode's first observation, which no target uses.

    :param source: name of the data in error messages.
    :param arrays: arrays, or what gives arrays when it is sliced.
    :param whole: one block of all rows, instead of blocks that take little memory.
    :raises DatasetError: arrays of several lengths, ends named twice, or no way to tell the next observations. What is
        missing, and what the values are, is the reader's to check.
    """
    used: dict[str, Any] = {key: arrays[key] for key in (*TRANSITION_KEYS, *END_KEYS) if key in arrays}
    length = common_length(source, used)
    rows = max(length, 1) if whole else image_layout.rows_per_block(_row_bytes(used))
    parts = (
        _with_ends(source, sliced(used, slice(start, min(start + rows, length))), start)
        for start in range(0, max(length, 1), rows)
    )
    if "next_observations" in used or "observations" not in used or length == 0:
        yield from parts
        return
    ends = "terminals" in used or "dones" in used
    if ends + ("timeouts" in used) + ("masks" in used) < 2:
        raise DatasetError(
            f"{source}: missing next_observations; they could be made of the observations if terminals and timeouts "
            f"told where episodes end; found {checks.describe_keys(arrays)}"
        )
    known = False
    for part in _with_next_observations(parts, length):
        known = True
        yield part
    if not known:
        raise DatasetError(f"{source}: missing next_observations, and no row is followed by another of its episode")


def require_keys(source: str, transitions: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuses transitions that lack a key.

    :param transitions: as :func:`transition_blocks` gives them.
    :param found: the arrays they were made of, for the message.
    :raises DatasetError: names all missing keys.
    """
    missing = [key for key in TRANSITION_KEYS if key not in transitions]
    if "terminals" not in transitions and "masks" not in transitions:
        missing.append("terminals or masks")
    if missing:
        raise DatasetError(
            f"{source}: missing {', '.join(missing)}; found {checks.describe_keys(found)}; expected observations, "
            "actions, rewards, next_observations and terminals or masks"
        )


def _with_ends(source: str, arrays: Mapping[str, Any], first: int) -> dict[str, Any]:
    """The arrays with ``dones`` and ``timeouts`` expressed as ``terminals`` and ``masks``.

    :param first: row of the whole where these arrays begin.
    """
    result = {key: arrays[key] for key in TRANSITION_KEYS if key in arrays}
    if "terminals" in arrays and "dones" in arrays:
        raise DatasetError(f"{source}: has both terminals and dones, which name the same thing; expected one of them")
    columns = {key: _column(source, key, arrays[key]) for key in END_KEYS if key in arrays}
    masks, timeouts = columns.get("masks"), columns.get("timeouts")
    ended = columns.get("terminals", columns.get("dones"))
    if timeouts is not None and (ended is not None or masks is not None):
        try:
            checks.require_zero_or_one(source, "timeouts", timeouts)
        except RowError as error:
            raise error.counted_from(first) from None
        if masks is None:
            masks = 1 - ((ended != 0) & (timeouts == 0)).astype(np.float32)
        ended = np.maximum(1 - masks if ended is None else ended, timeouts)
    if ended is not None:
        result["terminals"] = ended
    if masks is not None:
        result["masks"] = masks
    return result


def _column(source: str, key: str, value: Any) -> np.ndarray:
    """One number a row, float32, from [T] or [T, 1]."""
    column = checks.require_numeric(source, key, value)
    if column.shape == (len(column), 1):
        column = column[:, 0]
    checks.require_shape(source, key, column, (len(column),))
    return np.asarray(column, np.float32)


def _with_next_observations(parts: Iterator[dict[str, Any]], length: int) -> Iterator[dict[str, Any]]:
    carried: dict[str, Any] | None = None
    read = 0
    for new in parts:
        read += len(new["terminals"])
        part = new if carried is None else joined(carried, new)
        without_successor = (part["terminals"] == 1) & (part["masks"] == 1)
        without_successor[-1] |= read == length
        kept = np.flatnonzero(~without_successor[:-1])
        carried = sliced(part, slice(-1, None))
        if len(kept) == 0:
            continue
        observations = part["observations"]
        transitions = sliced(part, kept)
        transitions["terminals"] = np.maximum(transitions["terminals"], without_successor[kept + 1])
        transitions["next_observations"] = sliced({"": observations}, kept + 1)[""]
        yield transitions


def _row_bytes(arrays: Mapping[str, Any]) -> int:
    return sum(_row_bytes(value) if isinstance(value, Mapping) else _bytes_of_a_row(value) for value in arrays.values())


def _bytes_of_a_row(value: Any) -> int:
    # Arrays in files have no nbytes, lists have no dtype.
    array = value if hasattr(value, "dtype") and hasattr(value, "shape") else np.asarray(value)
    return int(array.dtype.itemsize) * math.prod(array.shape[1:])


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two blocks of the same arrays as one."""
    return {
        key: joined(value, other[key]) if isinstance(value, Mapping) else np.concatenate([value, other[key]])
        for key, value in one.items()
    }


def sliced(arrays: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """The same rows of every array, also of those in a mapping of observations."""
    return {
        key: sliced(value, rows) if isinstance(value, Mapping) else _rows_of(value, rows)
        for key, value in arrays.items()
    }


def _rows_of(value: Any, rows: Any) -> Any:
    if isinstance(value, list | tuple) and not isinstance(rows, slice):
        value = np.asarray(value)
    has_rows = hasattr(value, "__getitem__") and not (isinstance(value, np.ndarray | np.generic) and value.ndim == 0)
    return value[rows] if has_rows else value


def common_length(source: str, arrays: Mapping[str, Any]) -> int:
    """Rows of all arrays.

    :raises DatasetError: they differ, or an array is empty.
    """
    flat = {
        name: array
        for key, value in arrays.items()
        for name, array in (
            ((f"{key}[{part!r}]", array) for part, array in value.items())
            if isinstance(value, Mapping)
            else [(key, value)]
        )
    }
    lengths = {name: _length(array) for name, array in flat.items()}
    expected = lengths.get("actions", max(lengths.values(), default=0))
    for name, length in lengths.items():
        if 0 in (length, expected):
            empty = name if length == 0 else "actions"
            shape = _shape(flat[empty])
            raise DatasetError(f"{source}: {empty} has shape {shape}: it is empty, expected at least one transition")
        if length != expected:
            shape = _shape(flat[name])
            tail = () if name in (*END_KEYS, "rewards") else shape[1:]
            raise DatasetError(
                f"{source}: {name} has shape {shape}, {length} rows, expected {(expected, *tail)}, "
                f"{expected} rows, as many as there are actions"
            )
    return expected


def _length(array: Any) -> int:
    shape = _shape(array)
    return shape[0] if shape else 0


def _shape(array: Any) -> tuple[int, ...]:
    # Of a list the outer length alone: its rows may differ, which is told elsewhere.
    shape: Any = getattr(array, "shape", None)
    return tuple(shape) if shape is not None else (len(array),) if hasattr(array, "__len__") else ()
