"""What is in a data set, good or bad: one pass over all of it, in bounded memory."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.buffers import array_conventions, stored_arrays
from dipole_sb3.buffers.action_units import in_environment_units
from dipole_sb3.buffers.checksums import TransitionDigest
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import files, is_file_name, is_recording, load_dataset, remote, storage
from dipole_sb3.datasets.array_files import opened
from dipole_sb3.datasets.conversion import spaces_of

SATURATED = 0.998
"""Of its bound (in scaled units): from here on an action counts as saturated."""

HISTOGRAM_BINS = 50


@dataclass
class ElementStatistics:
    """Running statistics of every element of an array, over the values that are finite.

    :param shape: of a row.
    :param count: finite values, [*shape], as ``total``, ``squares`` (sum of squares), ``low`` and ``high``.
    :param rows: that were looked at.
    :param not_finite: rows with a value that is not finite; ``first_not_finite`` is the first of them.
    """

    shape: tuple[int, ...]
    count: np.ndarray = field(init=False)
    total: np.ndarray = field(init=False)
    squares: np.ndarray = field(init=False)
    low: np.ndarray = field(init=False)
    high: np.ndarray = field(init=False)
    rows: int = 0
    not_finite: int = 0
    first_not_finite: int | None = None

    def __post_init__(self) -> None:
        self.count = np.zeros(self.shape, np.int64)
        self.total, self.squares = np.zeros(self.shape), np.zeros(self.shape)
        self.low, self.high = np.full(self.shape, np.inf), np.full(self.shape, -np.inf)

    def update(self, values: np.ndarray, first_row: int) -> None:
        """Adds [n, *shape], whose first row is ``first_row`` of the whole."""
        values = values.astype(np.float64)
        self.rows += len(values)
        # Buffers also refuse what becomes infinite as float32.
        finite = np.abs(values) <= np.finfo(np.float32).max
        if not finite.all():
            wrong = ~finite.reshape(len(finite), -1).all(axis=1)
            self.not_finite += int(wrong.sum())
            if self.first_not_finite is None:
                self.first_not_finite = first_row + int(np.argmax(wrong))
            values = np.where(finite, values, np.nan)
            self.low, self.high = np.fmin(self.low, np.fmin.reduce(values)), np.fmax(self.high, np.fmax.reduce(values))
            values = np.where(finite, values, 0.0)
        else:
            self.low, self.high = np.minimum(self.low, values.min(axis=0)), np.maximum(self.high, values.max(axis=0))
        self.count += finite.sum(axis=0)
        self.total += values.sum(axis=0)
        self.squares += np.square(values).sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.total / np.maximum(self.count, 1))

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation; from sums of squares, so to about eight digits of the mean."""
        return np.asarray(np.sqrt(np.maximum(self.squares / np.maximum(self.count, 1) - self.mean**2, 0.0)))

    @property
    def constant(self) -> np.ndarray:
        """Which elements never change."""
        return np.asarray((self.low == self.high) & (self.count > 1))


@dataclass
class Inspection:
    """What one pass over a data set found.

    :param name: as it was given.
    :param metadata: of the data set.
    :param observation_space: None where nothing tells it.
    :param action_space: likewise.
    :param transitions: how many there are.
    :param elements: by key (of Dict observations ``observations['joints']``); actions in the environment's units.
    :param returns: of the whole episodes, in order.
    :param lengths: of the same, in transitions.
    :param open_rows: transitions after the last episode end.
    :param time_limits: episodes that a time limit ended.
    :param saturated: share of all actions' elements that are at a bound; None where those are not known.
    :param action_histograms: of scaled actions over [−1, 1], [action, bins]; None likewise.
    :param problems: one sentence each.
    :param warnings: one sentence each: what is valid, but may not be intended.
    """

    name: str
    metadata: dict[str, Any] = field(default_factory=dict)
    observation_space: spaces.Space[Any] | None = None
    action_space: spaces.Box | None = None
    transitions: int = 0
    elements: dict[str, ElementStatistics] = field(default_factory=dict)
    returns: array[float] = field(default_factory=lambda: array("d"))
    lengths: array[int] = field(default_factory=lambda: array("q"))
    open_rows: int = 0
    time_limits: int = 0
    saturated: float | None = None
    action_histograms: np.ndarray | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def inspect(name: str | os.PathLike[str]) -> Inspection:
    """Reads everything once.

    :param name: anything that :func:`~dipole_sb3.load_dataset` knows. Files need not be valid: what is wrong with
        their values is found, not refused.
    :return: what was found; problems that make reading impossible are among its ``problems``.
    """
    found = Inspection(str(name))
    try:
        name = remote.located(name)
        if is_file_name(name):
            _inspect_file(found, Path(name))
        elif Path(name).is_dir() and not is_recording(name):
            _inspect_stored(found, Path(name))
        else:
            _inspect_buffer(found, load_dataset(name, device="cpu"))
    except DatasetError as error:
        found.problems.append(str(error))
    return found


def _inspect_file(found: Inspection, path: Path) -> None:
    found.metadata = files.read_metadata(path)
    with opened(path) as arrays:
        try:
            found.observation_space, found.action_space = spaces_of(path, arrays, found.metadata)
        except DatasetError as error:
            found.problems.append(str(error))
        survey = _Survey(found)
        for block in array_conventions.transition_blocks(str(path), arrays):
            survey.add(_with_ends(found, block))
        survey.finish()


def _with_ends(found: Inspection, block: dict[str, Any]) -> dict[str, Any]:
    """A file's block with ``dones`` and ``timeouts``, and one number a transition in every column."""
    array_conventions.require_keys(found.name, block, block)
    columns: dict[str, Any] = {}
    for key in ("rewards", "terminals", "masks"):
        if key in block:
            column = checks.require_numeric(found.name, key, block[key])
            columns[key] = column.reshape(len(column), -1)[:, 0]
            if column.size != len(column):
                raise DatasetError(f"{found.name}: {key} has shape {column.shape}, expected one number a transition")
    masks = columns.get("masks", 1 - columns.get("terminals", 0.0))
    dones = np.maximum(columns.get("terminals", 0.0), 1 - masks)
    return {**block, **columns, "dones": dones, "timeouts": dones * masks}


def _inspect_stored(found: Inspection, path: Path) -> None:
    found.problems += storage.damages(path)
    if not found.problems:
        buffer = storage.load(path, device="cpu")
        digest = _inspect_buffer(found, buffer)
        if digest != stored_arrays.checksum(path):
            found.problems.append(
                f"{path / stored_arrays.DESCRIPTION}: checksum is not that of the transitions; the data set is damaged"
            )


def _inspect_buffer(found: Inspection, buffer: OfflineReplayBuffer) -> str:
    found.metadata, found.observation_space = buffer.metadata, buffer.observation_space
    found.action_space = checks.require_box_actions(buffer.action_space)
    survey, digest = _Survey(found), TransitionDigest(buffer.observation_space)
    for block in buffer.blocks():
        digest.update(block)
        survey.add({**block, "actions": in_environment_units(block["actions"], buffer.action_space)})
    survey.finish()
    return digest.hexdigest()


class _Survey:
    """Collects into an Inspection, block by block; of every kind of problem the first is told."""

    def __init__(self, found: Inspection) -> None:
        self._found = found
        self._problems: dict[str, str] = {}
        self._apart, self._first_apart = 0, 0
        self._previous: dict[str, np.ndarray] | None = None
        self._return, self._length = 0.0, 0
        self._saturated = 0

    def add(self, block: dict[str, Any]) -> None:
        first = self._found.transitions
        for key in ("observations", "next_observations", "actions", "rewards"):
            for name, values in checks.named_arrays(key, block[key]):
                values = checks.require_numeric(self._found.name, name, values)
                known = self._found.elements.setdefault(name, ElementStatistics(values.shape[1:]))
                if known.shape != values.shape[1:]:
                    raise DatasetError(f"{self._found.name}: {name} changes its shape from {known.shape}")
                known.update(values, first)
        recorded: list[str] = [key for key in ("terminals", "masks") if key in block] or ["dones", "timeouts"]
        for key in recorded:
            self._complain(key, lambda key=key: checks.require_zero_or_one(self._found.name, key, block[key]))
        for key in ("observations", "next_observations"):
            self._complain(key, lambda key=key: self._require_within(key, block[key]))
        if self._found.action_space is not None:
            self._add_actions(block["actions"], self._found.action_space)
        self._add_joins(block, first)
        self._add_episodes(block["rewards"], block["dones"], block["timeouts"])
        self._found.transitions += len(block["rewards"])

    def _complain(self, kind: str, check: Any) -> None:
        if kind not in self._problems:
            try:
                check()
            except checks.RowError as error:
                self._problems[kind] = str(error.counted_from(self._found.transitions))
            except DatasetError as error:
                self._problems[kind] = str(error)

    def _require_within(self, key: str, value: Any) -> None:
        space = self._found.observation_space
        if isinstance(space, spaces.Dict) and isinstance(value, dict):
            parts: list[tuple[str, Any, Any]] = [
                (f"{key}[{name!r}]", values, space[name]) for name, values in value.items()
            ]
        else:
            parts = [(key, value, space)]
        for name, values, part in parts:
            if isinstance(part, spaces.Box) and values.dtype != np.uint8 and values.shape[1:] == part.shape:
                checks.require_within(self._found.name, name, values, part)

    def _add_actions(self, actions: np.ndarray, space: spaces.Box) -> None:
        self._complain(
            "actions", lambda: checks.require_shape(self._found.name, "actions", actions, (len(actions), *space.shape))
        )
        if actions.shape[1:] != space.shape:
            return
        self._complain("actions", lambda: checks.require_within(self._found.name, "actions", actions, space))
        scaled = (2.0 * (actions - space.low) / (space.high - space.low) - 1.0).reshape(len(actions), -1)
        self._saturated += int((np.abs(scaled) >= SATURATED).sum())
        edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
        counts = [np.histogram(column, edges)[0] for column in np.clip(np.nan_to_num(scaled), -1, 1).T]
        known = self._found.action_histograms
        self._found.action_histograms = np.array(counts) if known is None else known + counts

    def _add_joins(self, block: dict[str, Any], first: int) -> None:
        """Within an episode every row must begin where the row before it ended."""
        states = dict(checks.named_arrays("", block["observations"]))
        following = dict(checks.named_arrays("", block["next_observations"]))
        apart = np.zeros(len(block["rewards"]), bool)
        for key, state in states.items():
            if state.shape == following[key].shape:
                apart[1:] |= _differ(following[key][:-1], state[1:])
                if self._previous is not None:
                    apart[0] |= _differ(self._previous[key][None], state[:1])[0]
        going_on = np.concatenate([[self._previous is not None and self._length > 0], block["dones"][:-1] == 0])
        wrong = np.flatnonzero(apart & going_on)
        if len(wrong) and not self._apart:
            self._first_apart = first + int(wrong[0])
        self._apart += len(wrong)
        self._previous = {key: value[-1] for key, value in following.items()}

    def _add_episodes(self, rewards: np.ndarray, dones: np.ndarray, timeouts: np.ndarray) -> None:
        rewards, ends = rewards.reshape(-1).astype(np.float64), np.flatnonzero(dones)
        start = 0
        for end in ends:
            self._found.returns.append(self._return + float(rewards[start : end + 1].sum()))
            self._found.lengths.append(self._length + int(end) + 1 - start)
            start, self._return, self._length = int(end) + 1, 0.0, 0
        self._return += float(rewards[start:].sum())
        self._length += len(rewards) - start
        self._found.time_limits += int(np.count_nonzero(timeouts))

    def finish(self) -> None:
        found = self._found
        found.open_rows = self._length
        for key, statistics in found.elements.items():
            if statistics.not_finite:
                found.problems.append(
                    f"{found.name}: {key} has NaN or infinity in {_counted(statistics.not_finite, 'row')}, first in "
                    f"row {statistics.first_not_finite}; expected finite float32 numbers"
                )
            constant = np.argwhere(statistics.constant)
            if key != "next_observations" and not key.startswith("next_observations[") and len(constant):
                found.warnings.append(f"{found.name}: {_constants(key, statistics, constant)}")
        found.problems += self._problems.values()
        if self._apart:
            found.problems.append(
                f"{found.name}: episodes do not join in {_counted(self._apart, 'place')}, first: row "
                f"{self._first_apart - 1} does not end an episode, and row {self._first_apart} does not go on from its "
                "next observation"
            )
        if not found.lengths:
            found.warnings.append(f"{found.name}: no transition ends an episode")
        actions = found.elements.get("actions")
        if found.action_histograms is not None and actions is not None:
            found.saturated = self._saturated / max(found.transitions * int(np.prod(actions.shape)), 1)


def _differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which rows are not the same; NaN, complained of elsewhere, is the same as NaN."""
    same = (one == other) | ((one != one) & (other != other))
    return np.asarray(~same.all(axis=tuple(range(1, same.ndim))))


def _constants(key: str, statistics: ElementStatistics, constant: np.ndarray) -> str:
    if not statistics.shape:
        return f"{key} is {float(statistics.low):.6g} everywhere"
    shown = ", ".join(
        f"{key}[{', '.join(map(str, index))}] = {statistics.low[tuple(index)]:.6g}" for index in constant[:5]
    )
    more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
    return f"{_counted(len(constant), 'element')} never change: {shown}{more}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("s" if count != 1 else "")
