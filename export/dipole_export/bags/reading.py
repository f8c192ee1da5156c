"""Recordings of rosbag2, message by message."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dipole_policy.fields import Describe, describe_recorded
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

CLOCK, CLOCK_TYPE = "/clock", "rosgraph_msgs/msg/Clock"


class BagError(ValueError):
    """What is wrong with a recording, what was found and what was expected, in one sentence."""


class Event(NamedTuple):
    """A message of a recording.

    :param time_ns: when it was recorded; with simulated time, the /clock of that moment.
    """

    time_ns: int
    topic: str
    message: Any


class Bag:
    """A rosbag2 recording: a folder with metadata.yaml, or one .mcap or .db3 file; as a context.

    Message types come from the recording itself where it holds them (.mcap, and .db3 since ROS 2 Iron), else from
    those of ROS 2 Humble.

    :raises BagError: for what is no such recording.
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
        # The reader stumbles over damaged files in as many ways as there are parsers below it.
        except Exception as error:
            reason = " ".join(str(error).split())
            raise BagError(
                f"{path}: not a complete rosbag2 recording ({reason}); expected a folder with metadata.yaml and its "
                "files, or one .mcap or .db3 file"
            ) from error
        self.types: Mapping[str, str | None] = {name: info.msgtype for name, info in self._reader.topics.items()}
        """Topic → type; None where several types share the topic."""
        self.counts = {name: info.msgcount for name, info in self._reader.topics.items()}
        self.describe: Describe = describe_recorded(self._reader.typestore.fielddefs)

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def require(self, topic: str, role: str, type_name: str | None = None) -> str:
        """The type of a topic that must be there.

        :param role: what the topic is needed for.
        :param type_name: that it must have; None: any.
        :raises BagError: naming what the recording holds.
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
        """The messages of some topics, in the order of their recording; one at a time is in memory.

        :param simulated: read the time off /clock, and leave out what came before it.
        :raises BagError: for a damaged recording.
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
        # As many kinds as there are parsers below; what a caller raises is not caught here.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BagError(f"{self.path}: cannot be read after {count} messages ({reason}); it is damaged") from error


def answered_earlier(events: Iterable[Event], topic: str, delay_ns: int) -> Iterator[Event]:
    """One topic's messages as if they had been recorded a while earlier, in the order that this makes.

    A command leaves a while after the observation that it answers was taken. What lies within that while is in
    memory, and nothing else.

    :param delay_ns: at least 0.
    """
    if not delay_ns:
        yield from events
        return
    waiting: deque[Event] = deque()
    for event in events:
        limit = event.time_ns - delay_ns
        # A simulation that starts anew sets its clock back: what waited for the old time waits no longer.
        while waiting and (waiting[0].time_ns <= limit or event.time_ns < waiting[-1].time_ns):
            yield waiting.popleft()
        if event.topic == topic:
            yield event._replace(time_ns=limit)
        else:
            waiting.append(event)
    yield from waiting
