"""From messages and their stamps to the elements of an observation, or to the reason why there are none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipole_policy.cameras import CameraReader
from dipole_policy.contract import Contract, ObservationEntry
from dipole_policy.driven_types import HISTORY
from dipole_policy.errors import Cause, ContractError, InputError, Kind, shown
from dipole_policy.fields import Describe, Path, Reader, leaves, reader, shown_field, size
from dipole_policy.history import KEPT_S, POSES, SPACING_S, SPAN_S, history, unbroken
from dipole_policy.topic_reader import Received, TopicReader, Unreadable

_NAME_FIELDS = ("name", "joint_names")
"""The fields in which messages name their elements: JointState, JointTrajectory."""

_QUATERNION_TOLERANCE = 0.01
"""Largest difference of a quaternion's length from 1. Rounding is far less; a message that nobody filled is at 0."""


class EntryReader(TopicReader):
    """Reads fields of numbers.

    :raises ContractError: the type does not have the fields, or their number of elements is not defined.
    """

    def __init__(self, entry: ObservationEntry, where: str, describe: Describe) -> None:
        super().__init__(entry, where, describe)
        try:
            found = [leaf for path in entry.fields for leaf in leaves(entry.type, path, describe)]
            self._readers: list[tuple[Path, Reader]] = [
                (path, reader(entry.type, path, describe)) for path in entry.fields
            ]
            fields = describe(entry.type)
            self._name_field = _name_field(entry, fields) if entry.names else None
        except ContractError as error:
            raise ContractError(f"{where}: {error}") from error
        self._read_size = self._size_before_function(size(found), where)
        self.size = 1 if entry.function == "yaw" else self._read_size
        if entry.elements and len(entry.elements) != self.size:
            raise ContractError(f"{where}: elements holds {len(entry.elements)} names, expected {self.size}")

    def _size_before_function(self, declared: int | None, where: str) -> int:
        entry = self.entry
        if entry.names:
            count = len(entry.names) * len(entry.fields)
        elif entry.size is not None:
            if declared is not None and declared != entry.size:
                raise ContractError(f"{where}: size is {entry.size}, but the fields of {entry.type} hold {declared}")
            count = entry.size
        elif declared is None:
            text = ", ".join(map(shown_field, entry.fields))
            raise ContractError(f"{where}: {text} of {entry.type} may have any length, expected size or names")
        else:
            count = declared
        if entry.function == "yaw" and count != 4:
            raise ContractError(f"{where}: function yaw got {count} elements, expected a quaternion's 4: x, y, z, w")
        return count

    def concerns(self, message: Any) -> bool:
        if self._name_field is None or isinstance(message, Unreadable):
            return True
        return not set(self.entry.names).isdisjoint(getattr(message, self._name_field))

    def read_received(self, received: Received) -> NDArray[np.float64]:
        """As :meth:`read`."""
        return self.read(received.message)

    def read(self, message: Any) -> NDArray[np.float64]:
        """The entry's elements, ``size`` of them.

        :raises InputError: another number of elements, or missing names.
        """
        entry = self.entry
        parts = [self._read_field(path, read, message) for path, read in self._readers]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(values) != self._read_size:
            raise InputError(
                Cause(Kind.WRONG_SIZE, f"{entry.topic} has {len(values)} elements, expected {self._read_size}")
            )
        if entry.function in (None, HISTORY):
            return values
        with np.errstate(invalid="ignore", over="ignore"):
            if entry.function == "yaw":
                return np.array([_yaw(entry.topic, values)])
            return np.asarray(np.cos(values) if entry.function == "cos" else np.sin(values))

    def _read_field(self, path: Path, read: Reader, message: Any) -> NDArray[np.float64]:
        values = read(message)
        if self._name_field is None:
            return values
        topic = self.entry.topic
        names = list(getattr(message, self._name_field))
        if len(values) != len(names):
            detail = f"{topic} has {len(values)} elements in {shown_field(path)} for {len(names)} names"
            raise InputError(Cause(Kind.WRONG_SIZE, detail))
        positions = {name: index for index, name in enumerate(names)}
        missing = [name for name in self.entry.names if name not in positions]
        if missing:
            raise InputError(Cause(Kind.WRONG_SIZE, f"{topic} has no {shown(missing[0])} among its {len(names)} names"))
        return values[[positions[name] for name in self.entry.names]]


def _yaw(topic: str, quaternion: Sequence[float] | NDArray[np.float64]) -> float:
    """
    :raises InputError: the numbers are no rotation, such as the zeros of a message that nobody has filled.
    """
    x, y, z, w = quaternion
    length = float(np.sqrt(x * x + y * y + z * z + w * w))
    if abs(length - 1.0) > _QUATERNION_TOLERANCE:  # not of NaN, which is told of as such
        detail = f"{topic} has a quaternion of length {length:.3g}, expected 1"
        raise InputError(Cause(Kind.NO_ROTATION, detail))
    return float(np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)))


def _name_field(entry: ObservationEntry, fields: Mapping[str, str]) -> str:
    for field in _NAME_FIELDS:
        if fields.get(field, "").startswith("sequence<string"):
            return field
    raise ContractError(f"names are given, but {entry.type} has no array of names ({' or '.join(_NAME_FIELDS)})")


@dataclass(frozen=True, eq=False)
class Origin:
    """Where and when a plan begins.

    :param time_ns: of the odometry.
    :param pose: x, y, yaw in the odometry's frame.
    :param frame: name of that frame.
    :param base: name of the car's own.
    """

    time_ns: int
    pose: NDArray[np.float64]
    frame: str
    base: str


class HistoryReader(EntryReader):
    """The car's past poses in its frame of now, from odometry.

    :ivar origin: where the history that was read last ends; None: none was read.
    """

    kept_s = KEPT_S

    def __init__(self, entry: ObservationEntry, where: str, describe: Describe) -> None:
        super().__init__(entry, where, describe)
        self.size = POSES * 3
        self.origin: Origin | None = None

    def read_received(self, received: Received) -> NDArray[np.float64]:
        """[12]: x, y, yaw of 1.5, 1.0, 0.5 and 0 s ago."""
        topic, now = self.entry.topic, received.message
        timed = [*received.past, (self.time_ns(now, received.received_ns), now)]
        poses = np.array([self._pose(message) for _, message in timed])
        if not np.isfinite(poses).all():
            raise InputError(Cause(Kind.NON_FINITE, f"{topic} gives a pose that is not finite"))
        seconds = [(time_ns - timed[-1][0]) * 1e-9 for time_ns, _ in timed]
        begin = unbroken(seconds, poses)
        found = history(seconds[begin:], poses[begin:])
        if found is None:
            known = -seconds[begin]
            raise InputError(
                Cause(Kind.MISSING, f"{topic} has {known:.2f} s of history without a jump, expected {SPAN_S} s")
            )
        if not now.header.frame_id or not now.child_frame_id:
            raise InputError(Cause(Kind.MISSING, f"{topic} does not name its frames (header.frame_id, child_frame_id)"))
        self.origin = Origin(timed[-1][0], poses[-1], now.header.frame_id, now.child_frame_id)
        return found.reshape(-1)

    def _pose(self, message: Any) -> NDArray[np.float64]:
        x, y, *quaternion = self.read(message)
        return np.array([x, y, _yaw(self.entry.topic, quaternion)])


class Inputs:
    """The topics' last messages: filled when they are looked at, or by whoever calls :meth:`receive`.

    :param readers: of the contract's inputs.
    :param take: called before every look; hands what has arrived to :meth:`receive`.
    """

    def __init__(self, readers: Sequence[TopicReader], take: Callable[[], None] | None = None) -> None:
        self._readers: dict[str, list[TopicReader]] = {}
        for entry in readers:
            self._readers.setdefault(entry.entry.topic, []).append(entry)
        self._lock = threading.Lock()
        self._latest: dict[str, Received] = {}
        self.take = take
        self.latched = frozenset(
            topic for topic, entries in self.topics.items() if entries[0].qos.durability == "transient_local"
        )
        """Topics whose messages are published once."""

    @property
    def topics(self) -> dict[str, list[ObservationEntry]]:
        """Topic → the entries that read it, in the contract's order."""
        return {topic: [reader.entry for reader in readers] for topic, readers in self._readers.items()}

    def receive(self, topic: str, message: Any, received_ns: int) -> bool:
        """Stores a message, unless it has none of the contract's names.

        :param received_ns: time of the node's clock when it arrived.
        :return: whether it was stored.
        """
        readers = self._readers[topic]
        is_ours = any(entry.concerns(message) for entry in readers)
        if is_ours:
            keeper = max(readers, key=lambda reader: reader.kept_s)
            with self._lock:
                past = _past(self._latest.get(topic), keeper) if keeper.kept_s else ()
                self._latest[topic] = Received(message, received_ns, past)
        return is_ours

    def snapshot(self) -> Mapping[str, Received]:
        """All messages at one moment; later messages do not change it."""
        if self.take is not None:
            self.take()
        with self._lock:
            return dict(self._latest)

    def forget(self, now_ns: int) -> None:
        """Drops all messages: after a clock jump, fresh and stale can no longer be distinguished.

        Those of transient local topics stay and count as if they arrived now: they are published once.

        :param now_ns: the node's clock.
        """
        if self.take is not None:
            self.take()
        for entries in self._readers.values():
            for entry in entries:
                entry.forget(now_ns)
        with self._lock:
            kept = {topic: found for topic, found in self._latest.items() if topic in self.latched}
            self._latest = {topic: Received(found.message, now_ns) for topic, found in kept.items()}

    def ages_s(self, now_ns: int) -> dict[str, float | None]:
        """Topic → seconds since its last message arrived; None: no message has arrived."""
        latest = self.snapshot()
        return {
            topic: (now_ns - latest[topic].received_ns) * 1e-9 if topic in latest else None for topic in self._readers
        }


def _past(last: Received | None, keeper: TopicReader) -> tuple[tuple[int, Any], ...]:
    """What came before, and the last message itself unless it followed too soon."""
    if last is None or isinstance(last.message, Unreadable):
        return ()
    time_ns = keeper.time_ns(last.message, last.received_ns)
    past = last.past
    if not past or abs(time_ns - past[-1][0]) >= SPACING_S * 1e9:
        past = (*past, (time_ns, last.message))
    return tuple(one for one in past if time_ns - one[0] <= keeper.kept_s * 1e9)


class Start:
    """Where the robot is, in the command's unit: what its first command begins at.

    :param where: the action's place in the contract.
    :param part: the elements of the command that it measures.
    :raises ContractError: another number of elements is measured.
    """

    def __init__(self, where: str, reader: EntryReader, part: slice) -> None:
        self.part = part
        self._reader = reader
        if reader.size != part.stop - part.start:
            raise ContractError(
                f"{where}.start_from has {reader.size} elements, expected the action's {part.stop - part.start}"
            )

    def read(self, inputs: Mapping[str, Received], now_ns: int) -> NDArray[np.float64]:
        """The measured elements, finite, shape of the part.

        :raises InputError: naming the topic that is missing, stale, wrongly sized or not finite.
        """
        values = self._reader.fresh(inputs, now_ns)
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise InputError(Cause(Kind.NON_FINITE, f"{self._reader.entry.topic} measures {values[at]} (element {at})"))
        return values


def entry_readers(contract: Contract, describe: Describe) -> list[TopicReader]:
    """Readers for all entries of a contract.

    :raises ContractError: see :class:`EntryReader`.
    """

    def reader(entry: ObservationEntry, where: str) -> TopicReader:
        if entry.camera is not None:
            return CameraReader(entry, where, describe, round(contract.period_s * 1e9))
        return (HistoryReader if entry.function == HISTORY else EntryReader)(entry, where, describe)

    return [reader(entry, f"observation[{index}]") for index, entry in enumerate(contract.observation)]


def start_readers(contract: Contract, describe: Describe) -> list[EntryReader | None]:
    """For each action the reader of the state that it starts from; None where it has none.

    :raises ContractError: see :class:`EntryReader`.
    """
    return [
        None if entry.start_from is None else EntryReader(entry.start_from, f"{where}.start_from", describe)
        for where, entry in contract.placed_actions()
    ]
