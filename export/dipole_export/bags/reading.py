"""Reads rosbag2 recordings, message by message."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heappop, heappush
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dipole_policy.fields import Describe, describe_recorded
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

CLOCK, CLOCK_TYPE = "/clock", "rosgraph_msgs/msg/Clock"


class BagError(ValueError):
    """A problem with a recording; the message says in one sentence what was found and what was expected."""


class Event(NamedTuple):
    """A message of a recording.

    :param time_ns: time of recording in nanoseconds; with simulated time, the latest /clock at that moment.
    """

    time_ns: int
    topic: str
    message: Any


class Bag:
    """A rosbag2 recording, as a context manager: a folder with metadata.yaml, or one .mcap or .db3 file.

    Message types are read from the recording if it contains them (.mcap, and .db3 since ROS 2 Iron); else those of
    ROS 2 Humble are used.

    :raises BagError: the path is not such a recording.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise BagError(f"{path}: no such recording; expected a folder of rosbag2, or an .mcap or .db3 file")
        if path.suffix == ".bag":
            raise BagError(f"{path}: a recording of ROS 1, expected one of ROS 2; rosbags-convert makes one of it")
        try:
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        # Damaged files raise many kinds of exceptions, because the reader uses several parsers.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BagError(
                f"{path}: not a complete rosbag2 recording ({reason}); expected a folder with metadata.yaml and its "
                "files, or one .mcap or .db3 file"
            ) from error
        self.types: Mapping[str, str | None] = {name: info.msgtype for name, info in self._reader.topics.items()}
        """Topic → message type; None if the topic has messages of several types."""
        self.counts = {name: info.msgcount for name, info in self._reader.topics.items()}
        self.describe: Describe = describe_recorded(self._reader.typestore.fielddefs)

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def require(self, topic: str, role: str, type_name: str | None = None) -> str:
        """The type of a required topic.

        :param role: what the topic is needed for, for the error message.
        :param type_name: the required type; None: any type.
        :raises BagError: the topic is missing or empty, or its type is wrong; the message says what was found.
        """
        if topic not in self.types:
            held = ", ".join(f"{name} ({found})" for name, found in sorted(self.types.items())) or "no topic"
            raise BagError(f"{self.path}: has no topic {topic}, expected it for {role}; it holds {held}")
        found = self.types[topic]
        if found is None:
            raise BagError(f"{self.path}: {topic} has messages of several types, expected one")
        if type_name is not None and found != type_name:
            raise BagError(f"{self.path}: {topic} has type {found}, expected {type_name} for {role}")
        if not self.counts[topic]:
            raise BagError(f"{self.path}: {topic} has no message, expected some for {role}")
        return found

    def events(self, topics: Collection[str], simulated: bool = False) -> Iterator[Event]:
        """The messages of some topics in the order of recording; only one at a time is in memory.

        :param simulated: take the time from /clock, and leave out messages before the first /clock.
        :raises BagError: the recording is damaged.
        """
        wanted = {*topics, CLOCK} if simulated else set(topics)
        connections = [one for one in self._reader.connections if one.topic in wanted]
        now_ns: int | None = None
        count = 0
        try:
            for connection, recorded_ns, data in self._reader.messages(connections):
                message: Any = self._reader.deserialize(data, connection.msgtype)
                count += 1
                if not simulated:
                    yield Event(recorded_ns, connection.topic, message)
                    continue
                if connection.topic == CLOCK:
                    now_ns = int(message.clock.sec) * 1_000_000_000 + int(message.clock.nanosec)
                if now_ns is not None and connection.topic in topics:
                    yield Event(now_ns, connection.topic, message)
        # Any kind of exception, as above. Exceptions in the caller's loop do not pass through this generator.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BagError(f"{self.path}: cannot be read after {count} messages ({reason}); it is damaged") from error


def earlier(events: Iterable[Event], shifts: Mapping[str, int]) -> Iterator[Event]:
    """Moves the messages of some topics to an earlier time, and sorts all messages accordingly.

    A command is sent some time after its observation was taken; this removes the delay. Only the messages within the
    longest shift are in memory.

    :param shifts: topic → nanoseconds, at least 0.
    """
    longest = max(shifts.values(), default=0)
    if not longest:
        yield from events
        return
    waiting: list[tuple[int, int, Event]] = []
    newest = None
    for number, event in enumerate(events):
        # A restarted simulation sets its clock back; then the messages that wait with old times are released at once.
        has_restarted = newest is not None and event.time_ns < newest
        newest = event.time_ns
        while waiting and (has_restarted or waiting[0][0] <= newest - longest):
            yield heappop(waiting)[2]
        at = newest - shifts.get(event.topic, 0)
        heappush(waiting, (at, number, event._replace(time_ns=at)))
    while waiting:
        yield heappop(waiting)[2]
